"""The lake: a folder of Parquet partitions and Lance tables, and what each of them was made from.

A stage is current when the fingerprint it would be computed from equals the one that its partition's file carries
(:mod:`mmret.lake.partitions`, :mod:`mmret.freshness.fingerprints`). Every file is written beside and renamed, so a reader sees a
whole file or none; it keeps a second name under ``history/`` (:mod:`mmret.lake.history`), so what is replaced can still be read.
Cost of a write: digesting runs at about 1 GB/s.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from mmret.errors import UserError
from mmret.hashing import digest_table
from mmret.lake.history import version_for
from mmret.lake.partitions import METADATA_KEY, Facts, PartitionFiles, facts_in
from mmret.schemas import ADDED_LATER, READ_BY_COLUMN, TABLES
from mmret.storage import Token

_CONFIGURATION = {"profile": str, "sources": list, "overrides": dict, "removed": list, "imports": list, "refused": list}
"""What ``lake.yaml`` has, and of what type."""
_CONFIGURATION_KEY = "lake.yaml"
_MEND_CONFIGURATION = "mend it by hand, or move it away and name --profile, --images and --set again as they were"
_UNIQUE = ("pair_id", "request_key")
ROW_GROUP = 131_072


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's own, anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)


def _without_new_columns(table: str, rows: pa.Table) -> pa.Table:
    """``rows`` as they were before columns were added to the schema, where those say nothing."""
    return rows.drop_columns([name for name in ADDED_LATER.get(table, ()) if rows[name].null_count == len(rows)])


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


def _same_column(old: pa.Table, new: pa.Table, name: str) -> bool:
    if old.num_rows != new.num_rows:
        return False
    if name not in old.column_names:  # a column that came with a later version holds nothing of before
        return new[name].null_count == new.num_rows
    return old[name].equals(new[name])


class Configuration(dict[str, Any]):
    """What ``lake.yaml`` has, and the token of the content that it was computed from (None: there was no such file)."""

    def __init__(self, values: Mapping[str, Any], token: Token | None = None):
        super().__init__(values)
        self.token = token


class Lake(PartitionFiles):
    """Paths, tables and facts under one folder. Opening creates nothing; the first write does.

    >>> lake = Lake("lakes/demo")
    >>> lake.read("triplets", columns=["pair_id", "texts"])
    """

    def __repr__(self) -> str:
        return f"Lake({self.address!r})"

    # -- Parquet partitions -------------------------------------------------------------------------------------------

    def write(self, table: str, partition: str, rows: pa.Table, inputs: str, **notes: Any) -> Facts:
        """Replace a partition atomically. ``rows`` must fit the table's schema; ``notes`` are stored with the facts.

        >>> lake.write("leaks", "all", LEAKS.empty_table(), inputs=fingerprint("nothing"), benchmarks=[])
        """
        rows = rows.select(TABLES[table].names).cast(TABLES[table]).combine_chunks()
        noted = json.dumps(notes, default=_plain)
        digest = digest_table(_without_new_columns(table, rows))
        facts = Facts(rows.num_rows, inputs, digest, json.loads(noted), time.time_ns(), self._since(table, partition, rows, digest))
        record = {"inputs": facts.inputs, "digest": facts.digest, "notes": facts.notes, "written": facts.written}
        if facts.since:
            record["since"] = facts.since
        version = version_for(self, table, partition, facts)
        with self.storage.replacing(self.key(table, partition), version) as aside:
            pq.write_table(
                rows.replace_schema_metadata({METADATA_KEY: json.dumps(record).encode()}),
                aside,
                compression="zstd",
                row_group_size=ROW_GROUP,
                **_encoding(rows),
            )
        return facts

    def _since(self, table: str, partition: str, rows: pa.Table, digest: str) -> dict[str, list[Any]]:
        """The columns of ``rows`` that are as in the partition that is there, with the version since which they have been so."""
        if table not in READ_BY_COLUMN:
            return {}
        try:
            # one file, whoever replaces it meanwhile
            with self.open_file(table, partition) as source, pq.ParquetFile(source) as file:
                before = facts_in(file.metadata)
                old = file.read() if before.digest != digest else None
        except UserError:
            raise
        except (FileNotFoundError, ValueError):  # new, or damaged and about to be replaced
            return {}
        if old is None:
            return before.since
        last = [before.digest, before.written]
        return {c: before.since.get(c, last) for c in rows.column_names if _same_column(old, rows, c)}

    # -- Lance tables -------------------------------------------------------------------------------------------------

    @cached_property
    def _lance(self) -> Any:
        import lancedb

        place, options = self.storage.lance_place()
        return lancedb.connect(place, storage_options=options)

    def has_lance(self, name: str) -> bool:
        """Whether Lance table ``name`` exists; a folder in which nothing was ever committed is none."""
        return any(file.endswith(".manifest") for file in self.storage.names(f"lance/{name}.lance/_versions"))

    def lance_names(self) -> list[str]:
        """Names of the folders of Lance tables; :meth:`has_lance` says which are whole."""
        return [name.removesuffix(".lance") for name in self.storage.folders("lance") if name.endswith(".lance")]

    def drop_lance(self, name: str) -> None:
        """Remove a Lance table with all its versions."""
        self.storage.delete_below(f"lance/{name}.lance")

    def lance(self, name: str, schema: pa.Schema | None = None) -> Any:
        """Open LanceDB table ``name``; with ``schema``, create it where it is missing, and add nullable columns that it lacks.

        Columns are named and not counted: their order in the table may be another. Raises UserError where the table has other
        columns, or one of another type (vectors of another width or precision).
        """
        if schema is not None and not self.has_lance(name):
            if self.storage.is_local:
                self.root.mkdir(parents=True, exist_ok=True)
            return self._lance.create_table(name, schema=schema, exist_ok=True)
        if not self.has_lance(name):
            raise UserError(f"the lake {self.address} has no table '{name}' yet: run `mmret run --lake {self.address}` first")
        table = self._lance.open_table(name)
        return table if schema is None else self._fitted(table, name, schema)

    def _fitted(self, table: Any, name: str, schema: pa.Schema) -> Any:
        """``table`` with every column of ``schema``. Adding columns of nulls writes no data."""
        found = table.schema
        missing = [field for field in schema if field.name not in found.names]
        added = {c for table_name, columns in ADDED_LATER.items() if f"{name}_".startswith(f"{table_name}_") for c in columns}
        new = all(field.name in added for field in missing)
        if set(found.names) - set(schema.names) or not new:
            raise UserError(
                f"table '{name}' of {self.address} has columns {found.names}, expected {schema.names}; {self._anew(name)}"
            )
        for field in schema:
            if field.name in found.names and found.field(field.name).type != field.type:
                raise UserError(
                    f"table '{name}' of {self.address} has column {field.name} as {found.field(field.name).type}, expected "
                    f"{field.type}: another encoder or version made it; {self._anew(name)}"
                )
        if missing:
            try:
                table.add_columns(missing)
            except (RuntimeError, OSError, ValueError):  # another process added them
                table = self._lance.open_table(name)
                if not {field.name for field in missing} <= set(table.schema.names):
                    raise
        return table

    def _anew(self, name: str) -> str:
        return (
            f"to have it computed anew, delete {self.storage.shown(f'lance/{name}.lance')} and {self.storage.shown(name)}, then "
            f"run `mmret run --lake {self.address}`"
        )

    # -- configuration ------------------------------------------------------------------------------------------------

    @property
    def configuration_path(self) -> str:
        """Where ``lake.yaml`` lies, which a person may edit: a path or an address."""
        return self.storage.shown(_CONFIGURATION_KEY)

    def read_configuration(self) -> Configuration:
        """Profile, overrides and sources that this lake remembers (:mod:`mmret.lake.configuration`); empty for a new lake.

        Raises UserError where the file is damaged, edited to something else, or of a newer version.
        """
        path = self.configuration_path
        text, token = self.storage.read_with_token(_CONFIGURATION_KEY)
        if text is None:
            return Configuration({})
        try:
            found = yaml.safe_load(text.decode("utf-8")) or {}
        except (yaml.YAMLError, UnicodeError) as error:
            raise UserError(f"{path} is damaged or was edited to what is no YAML: {error}\n{_MEND_CONFIGURATION}") from None
        if not isinstance(found, dict) or any(not isinstance(found.get(k, kind()), kind) for k, kind in _CONFIGURATION.items()):
            raise UserError(f"{path} does not hold the settings of a lake: {_MEND_CONFIGURATION}")
        if unknown := [str(key) for key in found if key not in _CONFIGURATION]:
            raise UserError(
                f"{path} has entries that this version does not know ({', '.join(unknown)}): correct them if they were typed, "
                "or use the newer mmret that wrote them"
            )
        return Configuration(found, token)

    def write_configuration(self, configuration: dict[str, Any]) -> None:
        """Make the lake remember ``configuration``, as :func:`mmret.lake.configuration.resolve` returns it.

        Raises UserError where ``lake.yaml`` was changed since it was read, by another command or by hand: what was written then
        would be lost.
        """
        data = yaml.safe_dump(dict(configuration), sort_keys=False).encode()
        before, token = self.storage.read_with_token(_CONFIGURATION_KEY)
        if data == before:
            return
        if isinstance(configuration, Configuration):
            token = configuration.token
        if not self.storage.swap(_CONFIGURATION_KEY, data, token) and self.storage.read(_CONFIGURATION_KEY) != data:
            raise UserError(
                f"{self.configuration_path} was changed by somebody else meanwhile, so nothing was written to it: give the same "
                "command again"
            )

    def sweep(self) -> int:
        """Remove temporary files and folders that nobody is writing; returns how many. Safe beside other runs."""
        return self.storage.sweep()
