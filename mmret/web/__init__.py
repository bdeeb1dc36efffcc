"""A local web page over a lake: browse triplets, see where each came from, accept or reject, and search with any checkpoint.

What it shows is plain functions over DuckDB and Lance (:mod:`browse`, :mod:`lineage`); search is :mod:`mmret.search.search`.
The pages are NiceGUI elements, which put text into the page as text. Needs the extra ``gallery``; the command is
``mmret gallery``.
"""
