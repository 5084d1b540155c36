"""Comparisons of similarity functions, probes and concept sets (Tables 1 and 3)."""
