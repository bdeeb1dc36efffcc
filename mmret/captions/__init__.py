"""Captions for pictures whose source gives none, or a poor one: found in file and names, or written by a vision-language model."""
