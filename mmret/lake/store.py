"""The lake: a folder of Parquet partitions and Lance tables, and what each of them was made from.

A stage is current when the fingerprint it would be computed from equals the one that its partition's file carries
(:mod:`mmret.lake.partitions`, :mod:`mmret.freshness.fingerprints`). Every file is written beside and renamed, so a reader sees a
whole file or none; it keeps a second name under ``history/`` (:mod:`mmret.lake.history`), so what is replaced can still be read.
Cost of a write: digesting runs at about 1 GB/s.
"""

from __future__ import annotations

import json
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from mmret.atomic import remove_abandoned, replacing, write_text
from mmret.errors import UserError
from mmret.hashing import digest_table
from mmret.lake.history import new_version
from mmret.lake.partitions import METADATA_KEY, Facts, PartitionFiles
from mmret.schemas import TABLES

_CONFIGURATION = {"profile": str, "sources": list, "overrides": dict, "removed": list, "imports": list}
"""What ``lake.yaml`` has, and of what type."""
_MEND_CONFIGURATION = "mend it by hand, or move it away and name --profile, --images and --set again as they were"
_UNIQUE = ("pair_id", "request_key")
ROW_GROUP = 131_072


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


class Lake(PartitionFiles):
    """Paths, tables and facts under one folder. Opening creates nothing; the first write does.

    >>> lake = Lake("lakes/demo")
    >>> lake.read("triplets", columns=["pair_id", "texts"])
    """

    def __repr__(self) -> str:
        return f"Lake({str(self.root)!r})"

    # -- Parquet partitions -------------------------------------------------------------------------------------------

    def write(self, table: str, partition: str, rows: pa.Table, inputs: str, **notes: Any) -> Facts:
        """Replace a partition atomically. ``rows`` must fit the table's schema; ``notes`` are stored with the facts.

        >>> lake.write("leaks", "all", LEAKS.empty_table(), inputs=fingerprint("nothing"), benchmarks=[])
        """
        rows = rows.select(TABLES[table].names).cast(TABLES[table]).combine_chunks()
        noted = json.dumps(notes, default=_plain)
        facts = Facts(rows.num_rows, inputs, digest_table(rows), json.loads(noted), time.time_ns())
        record = json.dumps({"inputs": facts.inputs, "digest": facts.digest, "notes": facts.notes, "written": facts.written})
        path = self.path(table, partition)
        with new_version(self, table, partition, facts) as link, replacing(path) as aside:
            pq.write_table(
                rows.replace_schema_metadata({METADATA_KEY: record.encode()}),
                aside,
                compression="zstd",
                row_group_size=ROW_GROUP,
                **_encoding(rows),
            )
            link(aside)
        return facts

    # -- Lance tables -------------------------------------------------------------------------------------------------

    @cached_property
    def _lance(self) -> Any:
        import lancedb

        return lancedb.connect(self.root / "lance")

    def has_lance(self, name: str) -> bool:
        """Whether Lance table ``name`` exists; a folder in which nothing was ever committed is none."""
        return any((self.root / "lance" / f"{name}.lance" / "_versions").glob("*.manifest"))

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

    # -- configuration ------------------------------------------------------------------------------------------------

    @property
    def configuration_path(self) -> Path:
        """Path of ``lake.yaml``, which a person may edit."""
        return self.root / "lake.yaml"

    def read_configuration(self) -> dict[str, Any]:
        """Profile, overrides and sources that this lake remembers (:mod:`mmret.lake.configuration`); empty for a new lake.

        Raises UserError where the file is damaged, edited to something else, or of a newer version.
        """
        path = self.configuration_path
        if not path.is_file():
            return {}
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeError) as error:
            raise UserError(f"{path} is damaged or was edited to what is no YAML: {error}\n{_MEND_CONFIGURATION}") from None
        if not isinstance(found, dict) or any(not isinstance(found.get(k, kind()), kind) for k, kind in _CONFIGURATION.items()):
            raise UserError(f"{path} does not hold the settings of a lake: {_MEND_CONFIGURATION}")
        if unknown := [str(key) for key in found if key not in _CONFIGURATION]:
            raise UserError(
                f"{path} has entries that this version does not know ({', '.join(unknown)}): correct them if they were typed, "
                "or use the newer mmret that wrote them"
            )
        return found

    def write_configuration(self, configuration: dict[str, Any]) -> None:
        """Make the lake remember ``configuration``, as :func:`mmret.lake.configuration.resolve` returns it."""
        write_text(self.configuration_path, yaml.safe_dump(configuration, sort_keys=False))

    def sweep(self) -> int:
        """Remove temporary files and folders that nobody is writing; returns how many. Safe beside other runs."""
        return remove_abandoned(self.root.rglob(".*.tmp"))
