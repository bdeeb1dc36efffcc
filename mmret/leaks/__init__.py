"""Finds benchmark pictures in the corpus, so that they can be kept out of pairs."""
