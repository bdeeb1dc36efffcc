"""Two states of a lake compared: per table the rows that came, went and changed, which columns, examples, and why.

A partition whose content has the same digest in both states is not read. Of the others DuckDB joins the keys and a hash of every
value, some partitions at a time, so memory does not grow with the lake; docs/performance.md has what it takes. Vectors and picture
bytes are not compared; a picture is named by its content, a vector by its model.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from mmret.errors import UserError
from mmret.lake import Lake, history
from mmret.schemas import KEYS, TABLES
from mmret.warehouse.catalogue import current_files, current_keys, local_files, readable
from mmret.warehouse.causes import Causes, causes_of
from mmret.warehouse.query import stoppable
from mmret.warehouse.views import read_footer, sql_literal, table_rows

NOW = "now"
_ROWS_AT_ONCE = 500_000
_COUNTED_BY = {"corpus_manifest": "root", "remarks": "root", "decisions": "reviewer"}
"""Tables that come from outside: why they differ is what each source or person brought."""


@dataclass
class TableChange:
    """What became of the rows of one table; ``columns``: in how many changed rows each column differs."""

    table: str
    added: int = 0
    gone: int = 0
    changed: int = 0
    same: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    causes: Causes = field(default_factory=Causes)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By kind. ``added`` and ``gone``: the row; ``changed``: ``{"key": ..., "columns": {name: [before, after]}}``."""

    @property
    def differs(self) -> bool:
        return bool(self.added or self.gone or self.changed)


@dataclass(frozen=True)
class Comparison:
    """``tables`` in the order they are computed in; ``left_out``: tables that a state does not keep, with the reason."""

    tables: list[TableChange]
    left_out: dict[str, str]


def state_of(lake: Lake, name: str) -> history.State:
    """The state of ``now``, or what :func:`mmret.lake.history.as_of` takes. Raises UserError saying what there is."""
    if name == NOW:
        return history.State(NOW, lake.storage, current_keys(lake))
    try:
        return history.as_of(lake, name)
    except UserError as error:
        raise UserError(str(error).removeprefix("--as-of ")) from None


def compare(lake: Lake, before: history.State, after: history.State, tables: Sequence[str] = (), examples: int = 3) -> Comparison:
    """Compare two states of ``lake``, or ``tables`` of them alone; up to ``examples`` rows of each kind are fetched.

    >>> compare(lake, state_of(lake, "run-1"), state_of(lake, "now")).tables[0].added

    Raises UserError where a table is asked for that a state does not keep.
    """
    import duckdb

    found, left_out = [], {}
    with tempfile.TemporaryDirectory(prefix="mmret-") as folder, duckdb.connect() as connection:
        connection.execute(f"SET temp_directory = {sql_literal(folder)}")
        for table in tables or TABLES:
            sides = [_side(lake, state, table) for state in (before, after)]
            lacking = [state.name for state, side in zip((before, after), sides, strict=True) if side is None]
            if lacking and tables:
                raise UserError(f"{table} is not kept with the state {lacking[0]}: compare a run, a time or `{NOW}`")
            if lacking:
                left_out[table] = f"not kept with {lacking[0]}"
                continue
            found.append(stoppable(connection, partial(_compare_table, connection, lake, table, *sides, examples)))
    return Comparison(found, left_out)


@dataclass(frozen=True)
class _Side:
    """One state of a table: its files, and which of their rows count."""

    table: str
    files: Mapping[str, Path]
    where: str = "true"

    def rows(self, partitions: Sequence[str]) -> str:
        """A SELECT of the rows of some partitions, and in column ``partition`` of which."""
        parts = [
            f"SELECT {sql_literal(p)} AS partition, * FROM ({table_rows(self.table, [self.files[p]])}) WHERE {self.where}"
            for p in partitions
            if p in self.files
        ]
        return " UNION ALL ".join(parts) or f"SELECT '' AS partition, * FROM ({table_rows(self.table, [])})"

    def hashed(self, partitions: Sequence[str]) -> str:
        """The same as the columns of the key, a hash of each other value, and what the rows are counted by."""
        keys = ", ".join(f'"{column}" AS k{n}' for n, column in enumerate(_keys(self.table)))
        hashes = "".join(f', hash("{column}") AS h{n}' for n, column in enumerate(_values(self.table)))
        group = f', "{_COUNTED_BY[self.table]}" AS of_whom' if self.table in _COUNTED_BY else ""
        return f"SELECT {keys}{hashes}{group} FROM ({self.rows(partitions)})"


def _side(lake: Lake, state: history.State, table: str) -> _Side | None:
    """None where the state does not keep the table. Of rows that are only ever added a time has those decided until then."""
    if table not in history.APPEND_ONLY_TABLES or state.when is None:
        files = state.files.get(table)
        return None if files is None else _Side(table, readable(lake, local_files(lake, {table: files}))[table])
    until = datetime.fromtimestamp(state.when / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return _Side(table, readable(lake, {table: current_files(lake)[table]})[table], f"decided_at <= '{until}'")


def _keys(table: str) -> tuple[str, ...]:
    return ("partition", *KEYS[table])


def _values(table: str) -> list[str]:
    return [name for name in TABLES[table].names if name not in KEYS[table]]


def _compare_table(connection: Any, lake: Lake, table: str, before: _Side, after: _Side, examples: int) -> TableChange:
    change = TableChange(table)
    differing = []
    for partition in sorted({*before.files, *after.files}):
        if before.where == after.where and _same_content(before.files.get(partition), after.files.get(partition)):
            change.same += read_footer(after.files[partition]).facts.rows
        else:
            differing.append(partition)
    counted: Counter[str] = Counter()
    for partitions in _batches(differing, before, after):
        joined = _joined(before, after, partitions)
        _count(connection, change, joined)
        for kind in ("added", "gone", "changed"):
            wanted = min(examples - len(change.examples.setdefault(kind, [])), getattr(change, kind))
            if wanted > 0:
                change.examples[kind] += _examples(connection, kind, joined, before, after, wanted)
        if table in _COUNTED_BY:
            counted.update(_count_by(connection, joined))
    if change.differs:
        change.causes = causes_of(lake, table, before.files, after.files, differing) if not counted else Causes(own=dict(counted))
    return change


def _same_content(before: Path | None, after: Path | None) -> bool:
    if before is None or after is None:
        return False
    digests = [read_footer(path).facts.digest for path in (before, after)]
    return before == after or bool(digests[0]) and digests[0] == digests[1]


def _batches(partitions: Sequence[str], *sides: _Side) -> Iterator[list[str]]:
    """``partitions`` in groups of about ``_ROWS_AT_ONCE`` rows."""
    group: list[str] = []
    rows = 0
    for partition in partitions:
        group.append(partition)
        rows += max(read_footer(side.files[partition]).facts.rows for side in sides if partition in side.files)
        if rows >= _ROWS_AT_ONCE:
            yield group
            group, rows = [], 0
    if group:
        yield group


@dataclass(frozen=True)
class _Joined:
    """Rows of both states side by side by their key, as the FROM of a query, and which of them are of each kind."""

    table: str
    source: str
    kinds: Mapping[str, str]


def _joined(before: _Side, after: _Side, partitions: Sequence[str]) -> _Joined:
    table = before.table
    same_key = " AND ".join(f"a.k{n} IS NOT DISTINCT FROM b.k{n}" for n in range(1, len(_keys(table))))
    source = f"({before.hashed(partitions)}) a FULL JOIN ({after.hashed(partitions)}) b ON a.k0 = b.k0 AND {same_key}"
    differs = " OR ".join(f"a.h{n} <> b.h{n}" for n in range(len(_values(table)))) or "false"
    kinds = {"added": "a.k0 IS NULL", "gone": "b.k0 IS NULL", "changed": f"(a.k0 IS NOT NULL AND b.k0 IS NOT NULL AND ({differs}))"}
    return _Joined(table, source, kinds)


def _count(connection: Any, change: TableChange, joined: _Joined) -> None:
    values = _values(joined.table)
    counts = [f"count(*) FILTER ({condition})" for condition in joined.kinds.values()]
    counts += [f"count(*) FILTER (a.h{n} <> b.h{n})" for n in range(len(values))]
    added, gone, changed, *by_column, every = connection.execute(
        f"SELECT {', '.join(counts)}, count(*) FROM {joined.source}"
    ).fetchone()
    change.added, change.gone, change.changed = change.added + added, change.gone + gone, change.changed + changed
    change.same += every - added - gone - changed
    for column, n in zip(values, by_column, strict=True):
        if n:
            change.columns[column] = change.columns.get(column, 0) + n


def _count_by(connection: Any, joined: _Joined) -> dict[str, int]:
    """Differing rows by who or what they are of, and their kind, in words."""
    kinds = "".join(f", count(*) FILTER ({condition})" for condition in joined.kinds.values())
    found = connection.execute(
        f"SELECT coalesce(b.of_whom, a.of_whom){kinds} FROM {joined.source} GROUP BY 1 ORDER BY 1"
    ).fetchall()
    return {f"{of_whom}: rows {kind}": n for of_whom, *counts in found for kind, n in zip(joined.kinds, counts, strict=True) if n}


def _examples(connection: Any, kind: str, joined: _Joined, before: _Side, after: _Side, wanted: int) -> list[dict[str, Any]]:
    keys = _keys(joined.table)
    chosen = ", ".join(f"coalesce(a.k{n}, b.k{n})" for n in range(len(keys)))
    most_changed = " + ".join(f"(a.h{n} <> b.h{n})::INT" for n in range(len(_values(joined.table)))) or "0"
    order = ", ".join([*([f"{most_changed} DESC"] if kind == "changed" else []), *(str(n + 1) for n in range(len(keys)))])
    query = f"SELECT {chosen} FROM {joined.source} WHERE {joined.kinds[kind]} ORDER BY {order} LIMIT {wanted}"
    found = []
    for key in connection.execute(query).fetchall():
        old, new = (_row(connection, side, key) for side in (before, after))
        if kind == "changed":
            columns = {c: [old[c], new[c]] for c in old if old[c] != new[c]}
            found.append({"key": dict(zip(keys, key, strict=True)), "columns": columns})
        else:
            found.append(old or new)
    return found


def _row(connection: Any, side: _Side, key: Sequence[Any]) -> dict[str, Any]:
    """The row of a key, empty where the state has none."""
    where = " AND ".join(f'"{column}" IS NOT DISTINCT FROM ?' for column in _keys(side.table))
    found = connection.execute(f"SELECT * FROM ({side.rows(key[:1])}) WHERE {where} LIMIT 1", list(key))
    names, row = [column[0] for column in found.description], found.fetchone()
    return dict(zip(names, row, strict=True)) if row else {}
