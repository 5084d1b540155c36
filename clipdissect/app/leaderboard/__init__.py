"""All methods on one target and probe, by all scores."""
