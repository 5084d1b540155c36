"""Decode images, and apply transforms to them."""
