"""Figures of a retriever: held-out queries of the lake, and CIRCO, CIRR, FashionIQ, GeneCIS and MMEB as their authors score."""
