"""The runtime benchmark: whole jobs of methods in turn, and short pieces at several sizes."""
