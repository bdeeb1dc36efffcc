"""Joins pairs and their instructions into triplets, the rows that retrievers are trained on."""
