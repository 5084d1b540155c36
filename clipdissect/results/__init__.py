"""Tables of descriptions, and the files and the manifest of a run."""
