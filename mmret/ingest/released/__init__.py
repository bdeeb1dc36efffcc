"""Triplets that MegaPairs released, read into a lake beside its own."""
