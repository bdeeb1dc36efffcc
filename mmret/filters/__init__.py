"""Checks of what a recipe trains on, without knowing the truth: texts that do not fit their pair, negatives that would be right.

A recipe names them in ``filters``; what they say of each text and negative is a row of table ``verdicts`` with its reason
(docs/filters.md). ``check.py`` is the door.
"""
