"""The paper's numbers, and which of our runs and label files reproduce them."""
