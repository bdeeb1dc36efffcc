"""Finds what is stale and why: compares what a partition would be computed from now with what it was computed from."""
