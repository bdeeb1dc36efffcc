"""Pairs and instructions become triplets."""
