"""A local web page over a lake: browse triplets, see where each came from, accept or reject, and search with any checkpoint.

Plain functions over DuckDB and Lance fetch what it shows (:mod:`browse`, :mod:`lineage`); search is :mod:`mmret.search.search`.
The pages are built of NiceGUI elements, which never take text for HTML. Needs the extra ``gallery``; the command is
``mmret gallery``.
"""
