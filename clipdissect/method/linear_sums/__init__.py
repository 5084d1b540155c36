"""Weighted sums of concepts that predict units: moments, elastic net, greedy search."""
