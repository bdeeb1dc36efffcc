"""DuckDB over the lake: a view per table, the lineage of a triplet in one row, and a catalogue file that any client opens.

Nothing is copied: views read the lake's Parquet files. Vectors and picture bytes stay in Lance and out of SQL.
"""

from mmret.warehouse.catalogue import build_catalogue, catalogue_path, connect, open_catalogue, refresh_catalogue

__all__ = ["build_catalogue", "catalogue_path", "connect", "open_catalogue", "refresh_catalogue"]
