"""Partition files as they lie in a lake: their rows, and the facts that each carries of how it was made. Reading only.

A partition file carries three facts in its Parquet metadata: ``inputs``, the fingerprint of all it was computed from;
``digest``, of its own content; ``rows``. Cost: one small read per partition for its facts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from mmret.errors import UserError
from mmret.schemas import ADDED_LATER, TABLES, WRITTEN_BY_PEOPLE
from mmret.storage import Storage, open_storage
from mmret.storage.protocol import ObjectChanged

METADATA_KEY = b"mmret"
"""Key in a file's Parquet metadata whose value is the facts, as JSON."""
_AT_ONCE = 16
"""So many objects are read at once."""
_READ_AGAIN = 3
"""So often a file is read anew that was replaced while it was read."""
Read = TypeVar("Read")
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


def read_facts(storage: Storage, key: str) -> Facts | None:
    """What is recorded in a partition's file, the current one or an earlier version; None where it does not exist.

    Raises UserError where it is no whole Parquet file.
    """
    return facts_of(storage, key, read_footer(storage, key))


def facts_of(storage: Storage, key: str, footer: pq.FileMetaData | None) -> Facts | None:
    """The facts in the ``footer`` of ``key``; None for None. Raises UserError where they are damaged."""
    try:
        return footer and facts_in(footer)
    except ValueError as error:
        raise UserError(damaged(storage, key, error)) from None


def read_footer(storage: Storage, key: str) -> pq.FileMetaData | None:
    """The Parquet metadata of a partition's file; None where it does not exist.

    Raises UserError where it is no whole Parquet file.
    """
    try:
        return _again(lambda: _footer(storage, key))
    except FileNotFoundError:
        return None
    except UserError:
        raise
    except ValueError as error:  # ArrowInvalid is one too
        raise UserError(damaged(storage, key, error)) from None
    except OSError as error:
        if error.errno is not None or isinstance(error, ConnectionError | ObjectChanged):
            raise
        raise UserError(damaged(storage, key, error)) from None


def _footer(storage: Storage, key: str) -> pq.FileMetaData:
    with storage.open(key) as file:
        return pq.read_metadata(file)


def _again(read: Callable[[], Read]) -> Read:
    """``read()``, anew where the object was replaced by another machine meanwhile."""
    for _ in range(_READ_AGAIN):
        with suppress(ObjectChanged):
            return read()
    return read()


def facts_in(meta: pq.FileMetaData) -> Facts:
    """The facts in the metadata of a partition's file. Raises ValueError where they are no JSON."""
    noted = json.loads((meta.metadata or {}).get(METADATA_KEY, b"{}"))
    found = (noted.get(key, empty) for key, empty in (("inputs", ""), ("digest", ""), ("notes", {}), ("written", 0), ("since", {})))
    return Facts(meta.num_rows, *found)


def read_files(
    storage: Storage, table: str, keys: Iterable[str], columns: list[str] | None = None, filters: Any = None
) -> pa.Table:
    """Rows of partition files of ``table``, in the order given; an empty table where there are none."""
    schema = TABLES[table]
    if columns is not None:
        schema = pa.schema([schema.field(c) for c in columns])
    later = frozenset(ADDED_LATER.get(table, ())) & frozenset(columns or ())
    read = partial(_read, storage, known=schema.names, columns=columns, filters=filters, later=later)
    parts = [_filled(rows, schema) for rows in _each(storage, read, keys)]
    if not parts or any(not rows.schema.equals(schema) for rows in parts):
        parts = [schema.empty_table(), *parts]  # which says what does not fit; making it imports pandas where that is installed
    return pa.concat_tables(parts)


def _each(storage: Storage, read: Callable[[str], Read], keys: Iterable[str]) -> Iterable[Read]:
    """``read(key)`` of every key, in their order; several at once where each is a request to wait for."""
    keys = list(keys)
    if storage.is_local or len(keys) < 2:
        return map(read, keys)
    with ThreadPoolExecutor(min(_AT_ONCE, len(keys))) as pool:
        return list(pool.map(read, keys))


def _read(storage: Storage, key: str, known: list[str], columns: list[str] | None, filters: Any, later: frozenset[str]) -> pa.Table:
    """``later``: those of ``columns`` that a file of an older lake may lack."""

    def rows_of_file() -> pa.Table:
        with storage.open(key) as file:
            wanted = columns
            if later:
                have = pq.read_schema(file).names
                wanted = [name for name in columns if name in have or name not in later]
                file.seek(0)
            if filters is not None:
                rows = pq.read_table(file, columns=wanted, filters=filters, partitioning=None)
            else:  # pyarrow.dataset takes a quarter of a second to import, and pandas with it where that is installed
                with pq.ParquetFile(file, pre_buffer=not storage.is_local) as whole:
                    if missing := set(wanted or ()) - set(whole.schema_arrow.names):  # which it would leave out silently
                        raise pa.ArrowInvalid(f"no column {', '.join(sorted(missing))}")
                    rows = whole.read(wanted)
            return rows.replace_schema_metadata(None)

    try:
        rows = _again(rows_of_file)
    except pa.ArrowInvalid as error:
        raise UserError(damaged(storage, key, error)) from None
    except OSError as error:
        if error.errno is not None or isinstance(error, ConnectionError | ObjectChanged):
            raise  # the system's, not the file's
        raise UserError(damaged(storage, key, error)) from None
    if unknown := [name for name in rows.schema.names if name not in known]:
        raise UserError(
            f"{storage.shown(key)} has columns that this version does not know ({', '.join(unknown)}): use the newer mmret that "
            "wrote it"
        )
    return rows


def damaged(storage: Storage, key: str, error: Exception) -> str:
    """What to tell a user of a partition's file that cannot be read."""
    said = next(iter(str(error).splitlines()), type(error).__name__)[:200]
    where = f"{storage.shown(key)} is damaged ({said})"
    if key.partition("/")[0] in WRITTEN_BY_PEOPLE:
        return f"{where}: put back a copy of it; it holds what people decided and cannot be computed again"
    return f"{where}; delete it and run again"


def _filled(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """``rows`` with nulls for columns that were added to the schema after they were written."""
    for at, column in enumerate(schema):
        if column.name not in rows.column_names:
            rows = rows.add_column(at, column, pa.nulls(len(rows), column.type))
    return rows


class PartitionFiles:
    """Reads the Parquet partitions of one lake. Only this class knows how files are named."""

    def __init__(self, address: str | Path | Storage):
        self.storage: Storage = open_storage(address) if isinstance(address, str | Path) else address
        self.address = self.storage.address
        """As a person writes it: an absolute path, or ``s3://bucket/prefix``."""

    @property
    def name(self) -> str:
        """The last part of the address, for titles."""
        return self.address.rstrip("/").rpartition("/")[2]

    @property
    def scratch(self) -> Path:
        """A folder of this machine for caches and Dagster's own files: the lake's own folder where it is a local one."""
        return self.storage.scratch

    @property
    def root(self) -> Path:
        """The folder of a local lake. Raises UserError for one in an object store."""
        if not self.storage.is_local:
            raise UserError(f"{self.address}: this works with a lake in a local folder only")
        return self.storage.root

    def key(self, table: str, partition: str) -> str:
        """The key of a partition's file, whether it exists or not."""
        return f"{table}/{partition}.parquet"

    def path(self, table: str, partition: str) -> Path:
        """The file of a partition of a local lake, whether it exists or not. Raises UserError as :attr:`root` does."""
        return self.root / self.key(table, partition)

    def exists(self, table: str, partition: str) -> bool:
        """Whether the partition exists."""
        return self.storage.exists(self.key(table, partition))

    def token(self, table: str, partition: str) -> str | None:
        """Another text whenever the partition's file was replaced; None where it does not exist."""
        return self.storage.token(self.key(table, partition))

    def open_file(self, table: str, partition: str) -> pa.NativeFile:
        """The partition's Parquet file for random access. Raises FileNotFoundError where it does not exist."""
        return self.storage.open(self.key(table, partition))

    def local_file(self, table: str, partition: str) -> Path:
        """A file of this machine with the partition's content, for engines that want a path; not to be written to."""
        return self.storage.local(self.key(table, partition))

    def remove(self, table: str, partition: str) -> None:
        """Remove a partition; its versions stay."""
        self.storage.delete([self.key(table, partition)])

    def partitions(self, table: str) -> list[str]:
        """Partitions of ``table`` that exist, in order."""
        return sorted(name.removesuffix(".parquet") for name in self.storage.names(table) if name.endswith(".parquet"))

    def shards(self) -> list[str]:
        """All sealed shards, oldest first; what was imported is not computed shard by shard and not among them."""
        return [p for p in self.partitions("corpus_manifest") if not p.startswith(IMPORT_PREFIX)]

    def footer(self, table: str, partition: str) -> pq.FileMetaData | None:
        """The Parquet metadata of a partition's file, or None where it does not exist."""
        return read_footer(self.storage, self.key(table, partition))

    def footers(self, table: str) -> dict[str, pq.FileMetaData]:
        """The Parquet metadata of all partitions of a table, in order; of an object store many are read at once."""
        partitions = self.partitions(table)
        found = _each(self.storage, partial(read_footer, self.storage), (self.key(table, p) for p in partitions))
        return {partition: footer for partition, footer in zip(partitions, found, strict=True) if footer is not None}

    def facts(self, table: str, partition: str) -> Facts | None:
        """What is recorded of a partition, or None where it does not exist."""
        return facts_of(self.storage, self.key(table, partition), self.footer(table, partition))

    def read(
        self, table: str, partitions: str | Iterable[str] | None = None, columns: list[str] | None = None, filters: Any = None
    ) -> pa.Table:
        """Rows of the given partitions (None: all), in partition order; an empty table where there are none."""
        if partitions is None:
            partitions = self.partitions(table)
        elif isinstance(partitions, str):
            partitions = [partitions]
        return read_files(self.storage, table, (self.key(table, p) for p in partitions), columns, filters)

    def read_rows(self, table: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
        """The same as Python's own values. Costs nothing, also no import of pandas for an empty table, where there are none."""
        return self.read(table, found, columns).to_pylist() if (found := self.partitions(table)) else []

    def head(self, table: str, partition: str, rows: int) -> pa.Table:
        """The first ``rows`` rows of a partition, reading no more than it has to."""

        def first_rows() -> pa.Table:
            with self.open_file(table, partition) as source, pq.ParquetFile(source) as file:
                batches = file.iter_batches(batch_size=rows)
                first = next(batches, None)
                return pa.Table.from_batches([first] if first is not None else [], file.schema_arrow.remove_metadata())

        return _again(first_rows)
