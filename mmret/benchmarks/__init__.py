"""Measures a retriever: on held-out queries of the lake, and on CIRCO, CIRR, FashionIQ, GeneCIS and MMEB by their own rules."""
