"""Similarity models behind one protocol, and the vectors of a corpus."""

VERSION = "1"
"""Raised when the code changes what a vector is (preprocessing, pooling, normalisation): all vectors are computed again."""
