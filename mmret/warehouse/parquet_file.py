"""The rows of a query as one Parquet file, written as they come: memory does not grow with the result.

A type that Parquet has no word for (INTERVAL, UNION) is refused before anything is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmret.atomic import replacing
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.storage import is_object_address
from mmret.warehouse.query import ask_arrow

_ROWS = 131_072


def write_parquet(connection: Any, text: str, path: Path) -> int:
    """Write the rows of query ``text`` to ``path``, which appears whole or not at all; returns how many.

    Raises UserError as :func:`mmret.warehouse.query.ask` does, and for a column whose type Parquet cannot hold.
    """
    schema, batches = ask_arrow(connection, text, _ROWS)
    for field in schema:
        try:
            pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([field])).close()
        except pa.ArrowNotImplementedError:
            raise UserError(
                f'--parquet has no type for column {field.name}: write it as text, as in "{field.name}"::VARCHAR'
            ) from None
    rows = 0
    with replacing(path) as aside:
        with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch, row_group_size=_ROWS)
                rows += batch.num_rows
    return rows


def check_place(lake: Lake, path: Path) -> None:
    """Raise UserError where ``path`` is a folder, or lies in the lake, whose own files must not be written over."""
    if path.is_dir():
        raise UserError(f"--parquet {path} is a folder: name a file")
    if is_object_address(path):
        raise UserError(f"--parquet {path}: name a file of this machine")
    if path.resolve().is_relative_to(lake.scratch.resolve()):
        raise UserError(f"--parquet {path} lies in the lake, whose files are its own: name a place outside")
