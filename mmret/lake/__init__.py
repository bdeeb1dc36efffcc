"""The lake: a folder of Parquet partitions and Lance tables, their earlier states, and the settings it was last run with."""

from __future__ import annotations

from mmret.lake.store import IMPORTED, Facts, Lake

__all__ = ["IMPORTED", "Facts", "Lake"]
