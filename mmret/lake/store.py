"""The lake: a folder of Parquet partitions and Lance tables, and what each of them was made from.

A partition file carries three facts in its Parquet metadata: ``inputs``, the fingerprint of all it was computed from;
``digest``, of its own content; ``rows``. A stage is current when the fingerprint it would be computed from equals the
recorded one (:mod:`mmret.freshness.fingerprints`). Every file is written beside and renamed, so a reader sees a whole file or none;
it keeps a second name under ``history/`` (:mod:`mmret.lake.history`), so what is replaced can still be read.
Cost: one small read per partition for its facts; digesting runs at about 1 GB/s.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from mmret.atomic import remove_abandoned, replacing, write_text
from mmret.errors import UserError
from mmret.hashing import digest_table
from mmret.lake import history
from mmret.schemas import TABLES

_KEY = b"mmret"
_UNIQUE = ("pair_id", "request_key")
ROW_GROUP = 131_072
IMPORTED = "import-"
"""How the names of imported partitions begin (:mod:`mmret.ingest.megapairs`)."""


@dataclass(frozen=True)
class Facts:
    """What is recorded of one partition: rows, fingerprint of its inputs, digest of its content, free-form notes."""

    rows: int
    inputs: str
    digest: str
    notes: dict[str, Any]
    written: int = field(default=0, compare=False)  # ns since 1970


def _whole(table: Path) -> bool:
    """Whether a Lance folder has a version; one that was never committed has none."""
    return any((table / "_versions").glob("*.manifest"))


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's own, anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)


def _encoding(rows: pa.Table) -> dict[str, Any]:
    """How columns are written so that SQL over many partitions is quick.

    Ids have Bloom filters, so that one row is found without reading the column of every file; keys that never repeat have no
    dictionary, which would be filled, thrown away and read as overhead. Bloom filters take about 1.2 bytes per row and id column.
    """
    ids = [f.name for f in rows.schema if f.name.endswith("_id")] if rows.num_rows >= 1000 else []
    named = [f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name for f in rows.schema if f.name not in _UNIQUE]
    return {
        "use_dictionary": named,
        "dictionary_pagesize_limit": 8 * 2**20,
        "bloom_filter_options": {name: {"ndv": min(rows.num_rows, ROW_GROUP), "fpp": 0.01} for name in ids} or None,
    }


def read_files(table: str, files: Iterable[Path], columns: list[str] | None = None, filters: Any = None) -> pa.Table:
    """Rows of partition files of ``table``, in the order given; an empty table where there are none."""
    schema = TABLES[table]
    if columns is not None:
        schema = pa.schema([schema.field(c) for c in columns])
    parts = [
        pq.read_table(path, columns=columns, filters=filters, partitioning=None).replace_schema_metadata(None) for path in files
    ]
    return pa.concat_tables([schema.empty_table(), *parts])


class Lake:
    """Paths, tables and facts under one folder. Opening creates nothing; the first write does."""

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser().absolute()

    def __repr__(self) -> str:
        return f"Lake({str(self.root)!r})"

    # -- Parquet partitions -------------------------------------------------------------------------------------------

    def path(self, table: str, partition: str) -> Path:
        return self.root / table / f"{partition}.parquet"

    def partitions(self, table: str) -> list[str]:
        """Partitions of ``table`` that exist, in order."""
        return sorted(p.stem for p in (self.root / table).glob("*.parquet") if not p.name.startswith("."))

    def shards(self) -> list[str]:
        """All sealed shards, oldest first; what was imported is not computed shard by shard and not among them."""
        return [p for p in self.partitions("corpus_manifest") if not p.startswith(IMPORTED)]

    def facts(self, table: str, partition: str) -> Facts | None:
        """What is recorded of a partition, or None where it does not exist."""
        return self.facts_of(self.path(table, partition))

    @staticmethod
    def facts_of(path: Path) -> Facts | None:
        """What is recorded in a partition's file, of now or of before, or None where it does not exist."""
        try:
            meta = pq.read_metadata(path)
        except FileNotFoundError:
            return None
        except pa.ArrowInvalid as error:
            raise UserError(f"{path} is damaged ({error}); delete it and run again") from None
        noted = json.loads((meta.metadata or {}).get(_KEY, b"{}"))
        return Facts(
            meta.num_rows, noted.get("inputs", ""), noted.get("digest", ""), noted.get("notes", {}), noted.get("written", 0)
        )

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

    def write(self, table: str, partition: str, rows: pa.Table, inputs: str, **notes: Any) -> Facts:
        """Replace a partition atomically. ``rows`` must fit the table's schema; ``notes`` are kept with the facts."""
        rows = rows.select(TABLES[table].names).cast(TABLES[table]).combine_chunks()
        noted = json.dumps(notes, default=_plain)
        facts = Facts(rows.num_rows, inputs, digest_table(rows), json.loads(noted), time.time_ns())
        record = json.dumps({"inputs": facts.inputs, "digest": facts.digest, "notes": facts.notes, "written": facts.written})
        path = self.path(table, partition)
        with history.kept(self, table, partition, facts) as keep, replacing(path) as aside:
            pq.write_table(
                rows.replace_schema_metadata({_KEY: record.encode()}),
                aside,
                compression="zstd",
                row_group_size=ROW_GROUP,
                **_encoding(rows),
            )
            keep(aside)
        return facts

    # -- Lance tables -------------------------------------------------------------------------------------------------

    @cached_property
    def _lance(self) -> Any:
        import lancedb

        return lancedb.connect(self.root / "lance")

    def has_lance(self, name: str) -> bool:
        return _whole(self.root / "lance" / f"{name}.lance")

    def lance(self, name: str, schema: pa.Schema | None = None) -> Any:
        """Open LanceDB table ``name``; with ``schema``, create it where it is missing.

        Raises UserError where it exists with another schema (a vector width that changed).
        """
        if schema is not None and not self.has_lance(name):
            self.root.mkdir(parents=True, exist_ok=True)
            return self._lance.create_table(name, schema=schema, exist_ok=True)
        if not self.has_lance(name):
            raise UserError(f"the lake {self.root} has no table '{name}' yet: run `mmret run --lake {self.root}` first")
        table = self._lance.open_table(name)
        if schema is not None and table.schema.names != schema.names:
            raise UserError(f"table '{name}' of {self.root} has columns {table.schema.names}, expected {schema.names}")
        return table

    # -- the lake's own choices ---------------------------------------------------------------------------------------

    @property
    def choices_path(self) -> Path:
        return self.root / "lake.yaml"

    def choices(self) -> dict[str, Any]:
        """Profile, overrides and sources this lake was last run with; empty for a new lake."""
        if not self.choices_path.is_file():
            return {}
        return yaml.safe_load(self.choices_path.read_text()) or {}

    def choose(self, choices: dict[str, Any]) -> None:
        write_text(self.choices_path, yaml.safe_dump(choices, sort_keys=False))

    def sweep(self) -> int:
        """Remove temporary files and folders that nobody is writing; returns how many. Safe beside other runs."""
        return remove_abandoned(self.root.rglob(".*.tmp"))
