"""``<lake>/catalogue.duckdb``: the views as a file that any DuckDB client opens read-only, while runs write.

A database that one process writes cannot be opened by another, so a catalogue is built aside and renamed into place after each run;
a reader that has the old one open keeps seeing the whole state that it opened. Paths in it are absolute: it can be opened from
anywhere, and is built again where the lake was moved. It is a few hundred KB, in the format of DuckDB 1.2, which later ones read.
That of a lake in an object store lies in this machine's scratch folder and names addresses.
Cost: with 1,000 partitions in each of 24 tables, opening takes 0.15 s, after a change of one table 0.4 s, the first time 4.6 s.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mmret.atomic import scratch_folder
from mmret.hashing import content_id, fingerprint
from mmret.lake import Lake, history
from mmret.schemas import TABLES
from mmret.warehouse.contents import MADE_BY, Mark, fill, known_footers, marked, marks
from mmret.warehouse.current import current_files, files_at
from mmret.warehouse.files import sql_literal, tokens
from mmret.warehouse.footers import Footers

FORMAT = "v1.2.0"
"""Oldest DuckDB that can open the file."""
_T = TypeVar("_T")


def catalogue_path(lake: Lake) -> Path:
    """Where the catalogue lies: in the lake's folder; of a lake in an object store in the scratch folder of this machine."""
    return lake.scratch / "catalogue.duckdb"


def connect(lake: Lake, state: history.State | None = None) -> Any:
    """A DuckDB connection in memory over the lake as it is now, or over ``state``; nothing is written to disk.

    Its views name the files of this moment, so it sees one whole state for as long as it is open.

    >>> connect(Lake("lakes/demo")).execute("SELECT count(*) FROM triplets").fetchone()
    """
    connection = reading(lake)
    fill(connection, lake, current_files(lake, known=_known(lake)) if state is None else files_at(lake, state.files))
    return connection


def reading(lake: Lake) -> Any:
    """A connection that can read the files of the lake."""
    import duckdb

    connection = duckdb.connect()
    if not lake.storage.is_local:
        from mmret.warehouse.object_files import LakeFiles

        connection.register_filesystem(LakeFiles(lake.storage))
    return connection


def signature(lake: Lake) -> Mark:
    """Changes with every write to the lake, with its place and with the code that makes the views; one ``stat`` a partition, or in
    an object store a listing of each table. A table's own changes also where its versions are gone, which its view names."""
    found: dict[str, list[str]] = {table: [] for table in TABLES}
    for table, partition, token in tokens(lake):
        found[table].append(f"{partition}\t{token}")
    if lake.storage.is_local:
        for table, listed in found.items():
            listed.append(lake.storage.token(f"{history.HISTORY}/{table}") or "")
    tables = {table: content_id("\n".join(listed).encode()) for table, listed in found.items()}
    return Mark(fingerprint(MADE_BY, lake.address, tables, history.runs_token(lake)), tables)


def build_catalogue(lake: Lake, mark: Mark | None = None) -> Path:
    """Write the catalogue of the lake's current state and put it in place of the one before; ``mark``: its :func:`signature`, where
    that was asked for already.

    Where there is one of this lake, the new one begins as a copy of it, in which only what belongs to tables that changed is
    written. The one before is not touched: others have it open.
    """
    place, mark = catalogue_path(lake), mark or signature(lake)
    with scratch_folder(place) as folder:
        aside = folder / place.name
        if not _alter(lake, aside, mark):
            aside = folder / f"new.{place.name}"  # what an attempt that failed left beside the other is not taken for its log
            with reading(lake) as connection:
                _attach_new(connection, aside)
                _fill(connection, lake, mark)
        os.replace(aside, place)
    return place


def _alter(lake: Lake, aside: Path, mark: Mark) -> bool:
    """Make ``aside`` of the lake's catalogue; False where there is none, or one of another version or place, or a damaged one."""
    import duckdb

    try:
        shutil.copyfile(catalogue_path(lake), aside)
        with reading(lake) as connection:
            _attach_new(connection, aside)
            before = marks(connection, lake)
            if before:
                _fill(connection, lake, mark, before)
            return bool(before)
    except (FileNotFoundError, duckdb.Error):
        return False


def _attach_new(connection: Any, aside: Path) -> None:
    connection.execute(f"ATTACH {sql_literal(aside)} AS catalogue (STORAGE_VERSION '{FORMAT}')")
    connection.execute("USE catalogue")


def _fill(connection: Any, lake: Lake, mark: Mark, before: Mapping[str, str] | None = None) -> None:
    """Fill the catalogue that ``connection`` uses, or what changed in it since ``before``, and let go of its file."""
    changed = [table for table in TABLES if before is None or mark.tables[table] != before.get(table)]
    known = known_footers(connection, changed) if before is not None and lake.storage.is_local else {}
    files = current_files(lake, changed, known)
    fill(connection, lake, files, mark, others=before is not None)
    connection.execute("USE memory")
    connection.execute("DETACH catalogue")


def can_hold(lake: Lake) -> bool:
    """Whether a catalogue can lie in the lake: DuckDB cannot write or open a database below a folder with ``?`` or a backslash in
    its name. Views over such a lake are made in memory, as :func:`connect` does."""
    return not any(sign in str(lake.scratch) for sign in "?\\")


def refresh_catalogue(lake: Lake, mark: Mark | None = None) -> bool:
    """Build the catalogue where it is missing or out of date; returns whether it was built. Costs a :func:`signature`, or is given
    it as ``mark``."""
    if not can_hold(lake):
        return False
    mark = mark or signature(lake)
    if _read(catalogue_path(lake), marked) == mark.whole:
        return False
    build_catalogue(lake, mark)
    return True


def _known(lake: Lake) -> Footers:
    """The footers that the catalogue on disk was built from; none where there is no such catalogue."""
    if not lake.storage.is_local or not can_hold(lake):
        return {}
    return _read(catalogue_path(lake), lambda connection: known_footers(connection, list(TABLES))) or {}


def _read(place: Path, ask: Callable[[Any], _T]) -> _T | None:
    """What ``ask`` says of the catalogue ``place``, None where it cannot be read."""
    import duckdb

    if not place.is_file():
        return None
    try:
        with attach(place) as connection:
            return ask(connection)
    except duckdb.Error:  # of another version, or damaged
        return None


def open_catalogue(lake: Lake, mark: Mark | None = None) -> Any:
    """A read-only connection to the lake's catalogue, built first where the lake has changed or was moved. ``mark``: its
    :func:`signature`, where that was asked for already.

    Where the lake cannot be written to, or its path is one that DuckDB cannot name, the same views in memory.
    """
    import duckdb

    if not can_hold(lake):
        return connect(lake)
    try:
        mark = mark or signature(lake)
        found = _opened(lake, mark)
        if found is None:
            build_catalogue(lake, mark)
            found = attach(catalogue_path(lake), reading(lake))
        return found
    except (OSError, duckdb.IOException):
        return connect(lake)


def _opened(lake: Lake, mark: Mark) -> Any | None:
    """A connection to the catalogue on disk if it is of the state ``mark``, else None."""
    import duckdb

    if not catalogue_path(lake).is_file():
        return None
    connection = reading(lake)
    try:
        attach(catalogue_path(lake), connection)
        if marked(connection) == mark.whole:
            return connection
    except duckdb.Error:  # of another version, or damaged
        pass
    connection.close()
    return None


def attach(place: Path, connection: Any = None) -> Any:
    """A connection to a catalogue that shares nothing; ``connection``: one in memory, which is given it.

    ``duckdb.connect(path)`` would return what this process has open under that name, which may be the catalogue before this one.
    """
    import duckdb

    connection = connection or duckdb.connect()
    connection.execute(f"ATTACH {sql_literal(place)} AS lake (READ_ONLY)")
    connection.execute("USE lake")
    return connection
