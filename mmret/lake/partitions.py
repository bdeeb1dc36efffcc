"""Partition files as they lie in a lake: their rows, and the facts that each carries of how it was made. Reading only.

A partition file carries three facts in its Parquet metadata: ``inputs``, the fingerprint of all it was computed from;
``digest``, of its own content; ``rows``. Cost: one small read per partition for its facts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmret.errors import UserError
from mmret.paths import root_path
from mmret.schemas import ADDED_LATER, TABLES, WRITTEN_BY_PEOPLE

METADATA_KEY = b"mmret"
"""Key in a file's Parquet metadata whose value is the facts, as JSON."""
IMPORT_PREFIX = "import-"
"""How the names of imported partitions begin (:mod:`mmret.ingest.released.megapairs`)."""


@dataclass(frozen=True)
class Facts:
    """What is recorded of one partition."""

    rows: int
    inputs: str  # fingerprint of all that it was computed from
    digest: str  # of its content
    notes: dict[str, Any]  # free-form, JSON
    written: int = field(default=0, compare=False)  # ns since 1970
    since: dict[str, list[Any]] = field(default_factory=dict, compare=False)
    """By column, where it is older than the file: digest and time of the version since which it has been the same."""

    def of_columns(self, columns: Sequence[str]) -> Facts:
        """The facts with the digest that stands for ``columns`` alone: that of the version in which one of them changed last."""
        if not columns or not self.since:
            return self
        now = [self.digest, self.written]
        return replace(self, digest=max((self.since.get(c, now) for c in columns), key=lambda version: version[1])[0])


def read_facts(path: Path) -> Facts | None:
    """What is recorded in a partition's file, the current one or an earlier version; None where it does not exist.

    Raises UserError where it is no whole Parquet file.
    """
    try:
        meta = pq.read_metadata(path)
    except FileNotFoundError:
        return None
    except pa.ArrowInvalid as error:
        raise UserError(damaged(path, error)) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise UserError(damaged(path, error)) from None
    try:
        return facts_in(meta)
    except ValueError as error:
        raise UserError(damaged(path, error)) from None


def facts_in(meta: pq.FileMetaData) -> Facts:
    """The facts in the metadata of a partition's file. Raises ValueError where they are no JSON."""
    noted = json.loads((meta.metadata or {}).get(METADATA_KEY, b"{}"))
    found = (noted.get(key, empty) for key, empty in (("inputs", ""), ("digest", ""), ("notes", {}), ("written", 0), ("since", {})))
    return Facts(meta.num_rows, *found)


def read_files(table: str, files: Iterable[Path], columns: list[str] | None = None, filters: Any = None) -> pa.Table:
    """Rows of partition files of ``table``, in the order given; an empty table where there are none."""
    schema = TABLES[table]
    if columns is not None:
        schema = pa.schema([schema.field(c) for c in columns])
    later = frozenset(ADDED_LATER.get(table, ())) & frozenset(columns or ())
    parts = [_filled(_read(path, schema.names, columns, filters, later), schema) for path in files]
    return pa.concat_tables([schema.empty_table(), *parts])


def _read(path: Path, known: list[str], columns: list[str] | None, filters: Any, later: frozenset[str]) -> pa.Table:
    """``later``: those of ``columns`` that a file of an older lake may lack."""
    try:
        if later:
            have = pq.read_schema(path).names
            columns = [name for name in columns if name in have or name not in later]
        rows = pq.read_table(path, columns=columns, filters=filters, partitioning=None).replace_schema_metadata(None)
    except pa.ArrowInvalid as error:
        raise UserError(damaged(path, error)) from None
    except OSError as error:
        if error.errno is not None:
            raise  # the system's, not the file's
        raise UserError(damaged(path, error)) from None
    if unknown := [name for name in rows.schema.names if name not in known]:
        raise UserError(
            f"{path} has columns that this version does not know ({', '.join(unknown)}): use the newer mmret that wrote it"
        )
    return rows


def damaged(path: Path, error: Exception) -> str:
    """What to tell a user of a partition's file that cannot be read."""
    said = next(iter(str(error).splitlines()), type(error).__name__)[:200]
    if path.parent.name in WRITTEN_BY_PEOPLE:
        return f"{path} is damaged ({said}): put back a copy of it; it holds what people decided and cannot be computed again"
    return f"{path} is damaged ({said}); delete it and run again"


def _filled(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """``rows`` with nulls for columns that were added to the schema after they were written."""
    for at, column in enumerate(schema):
        if column.name not in rows.column_names:
            rows = rows.add_column(at, column, pa.nulls(len(rows), column.type))
    return rows


class PartitionFiles:
    """Reads the Parquet partitions under one folder. Only this class knows how files are named."""

    def __init__(self, root: str | Path):
        self.root = root_path(root)

    def path(self, table: str, partition: str) -> Path:
        """The file of a partition, whether it exists or not."""
        return self.root / table / f"{partition}.parquet"

    def partitions(self, table: str) -> list[str]:
        """Partitions of ``table`` that exist, in order."""
        return sorted(p.stem for p in (self.root / table).glob("*.parquet") if not p.name.startswith("."))

    def shards(self) -> list[str]:
        """All sealed shards, oldest first; what was imported is not computed shard by shard and not among them."""
        return [p for p in self.partitions("corpus_manifest") if not p.startswith(IMPORT_PREFIX)]

    def facts(self, table: str, partition: str) -> Facts | None:
        """What is recorded of a partition, or None where it does not exist."""
        return read_facts(self.path(table, partition))

    def read(
        self, table: str, partitions: str | Iterable[str] | None = None, columns: list[str] | None = None, filters: Any = None
    ) -> pa.Table:
        """Rows of the given partitions (None: all), in partition order; an empty table where there are none."""
        if partitions is None:
            partitions = self.partitions(table)
        elif isinstance(partitions, str):
            partitions = [partitions]
        return read_files(table, (self.path(table, p) for p in partitions), columns, filters)

    def head(self, table: str, partition: str, rows: int) -> pa.Table:
        """The first ``rows`` rows of a partition, reading no more than it has to."""
        with pq.ParquetFile(self.path(table, partition)) as file:
            batches = file.iter_batches(batch_size=rows)
            first = next(batches, None)
            return pa.Table.from_batches([first] if first is not None else [], file.schema_arrow.remove_metadata())
