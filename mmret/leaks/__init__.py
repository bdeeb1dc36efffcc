"""Benchmark pictures in the corpus: found, listed, and kept out of pairs."""
