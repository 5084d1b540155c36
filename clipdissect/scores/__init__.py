"""Scores of descriptions: how well a text predicts its unit on images that it was not made from."""
