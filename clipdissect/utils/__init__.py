"""Helpers that know nothing of networks, probes or concepts."""
