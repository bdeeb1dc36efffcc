"""Measures the quality of the written texts before anything is trained on them."""
