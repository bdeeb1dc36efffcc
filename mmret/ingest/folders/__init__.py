"""Folders and tars of pictures: what lies where, which text belongs to which picture, and names that are spelled otherwise."""
