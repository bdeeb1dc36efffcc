"""CIRR: composed image retrieval over a split, and inside sets of six near images."""
