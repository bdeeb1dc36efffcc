"""Similarity models behind one protocol, and the vectors of a corpus."""

VERSION = "1"
"""Raise it when a change of code gives other vectors (preprocessing, pooling, normalisation): all are then computed again."""
