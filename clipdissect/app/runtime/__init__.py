"""The runtime benchmark: whole jobs of methods by turns, and microbenchmarks."""
