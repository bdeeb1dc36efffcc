"""The lake: a folder of Parquet partitions and Lance tables, their earlier states, and the settings it was last run with."""

from __future__ import annotations

from mmret.lake.partitions import IMPORT_PREFIX, Facts
from mmret.lake.store import Lake

__all__ = ["IMPORT_PREFIX", "Facts", "Lake"]
