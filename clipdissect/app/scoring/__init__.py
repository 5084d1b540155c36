"""`clipdissect score`: labels of runs and files, scored on held-out images."""
