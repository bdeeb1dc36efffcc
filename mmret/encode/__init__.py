"""Similarity models behind one protocol, and the vectors of a corpus. The versions below are part of what each stage is
computed from (:mod:`mmret.freshness.fingerprints`)."""

VERSION = "1"
"""Raised when the code changes what a vector is (preprocessing, pooling, normalisation): all vectors are computed again."""

TOWERS_VERSION = "1"
"""Raised when the code changes what towers are trained to."""
