"""The paper's numbers, and the runs and label files that reproduce them."""
