"""Retrieval over the whole corpus: one code for the command, the page and the evaluations."""
