"""Neighbours inside a band by three similarities, and from them pairs with hard negatives."""
