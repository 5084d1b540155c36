"""Synthetic scenes with a label per pixel."""
