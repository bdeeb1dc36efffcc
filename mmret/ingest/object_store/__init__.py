"""Sources that lie in an object store: their objects looked up in a listing, and read by ranges, many at a time.

:mod:`mmret.ingest.folders` and :mod:`mmret.ingest.tables` read them by the same code as local files; what differs is here.
"""
