"""A table that holds the pictures themselves, as the ``datasets`` library writes them, is a source as a tar is.

The picture of row 17 is ``17``; below a folder, ``data/train-00000-of-00001.parquet/17``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mmret.ingest.rows import Row

PICTURE_TABLE_SUFFIXES = (".parquet", ".arrow", ".feather")


class PictureTable:
    """One table. Thread-safe; row paths are row numbers counted from 0, the time is the table's."""

    def __init__(self, path: Path):
        self.root = str(path)

    def rows(self) -> Iterator[Row]:
        raise NotImplementedError

    def open(self, path: str) -> tuple[BinaryIO, int]:
        raise NotImplementedError
