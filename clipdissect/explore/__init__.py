"""Explore a run: find units by meaning, explain predictions, compare checkpoints, notebooks."""
