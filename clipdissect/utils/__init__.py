"""Helpers that are independent of networks, probes and concepts."""
