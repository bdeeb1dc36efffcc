"""One query of a person, checked before it runs: it reads and does nothing else, its rows come in batches, and Ctrl-C stops it.

DuckDB looks for signals between its own steps only, so that a long scan went on for a minute after a Ctrl-C: what it does runs in
a thread, and the thread that waits interrupts it within a moment. A batch costs a thread and the memory of its rows, whatever the
length of the result.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from mmret.errors import UserError
from mmret.storage import StorageUnreachable

_T = TypeVar("_T")
BATCH = 1000
"""Rows that are fetched at once where they are shown as text."""


@dataclass
class Rows:
    """Names, each once, types as DuckDB writes them, and rows of one result. ``batches`` gives the rows once, in lists of up to
    1,000 tuples; closing a half-read result is the next query's work."""

    names: list[str]
    types: list[str]
    batches: Iterator[list[tuple[Any, ...]]]
    is_plan: bool = False
    """The result of EXPLAIN: a text of several lines in its last column."""


def ask(connection: Any, text: str) -> Rows:
    """Run one query that reads, and give its rows as they come.

    >>> [row for batch in ask(connect(lake), "SELECT 1").batches for row in batch]
    [(1,)]

    Raises UserError for an empty text, for more than one statement, for one that would write (``COPY ... TO``, ``ATTACH``,
    ``INSTALL``, ...), and for an error in it, which a later batch may meet as well.
    """
    with _said():
        statement = _checked(connection, text)
        stoppable(connection, lambda: connection.execute(statement))
        columns = connection.description or []
    names, types = _distinct([column[0] for column in columns]), [str(column[1]) for column in columns]
    return Rows(names, types, _batches(connection), statement.type.name == "EXPLAIN")


def _batches(connection: Any) -> Iterator[list[tuple[Any, ...]]]:
    while True:
        with _said():
            rows = stoppable(connection, lambda: connection.fetchmany(BATCH))
        if not rows:
            return
        yield rows


def ask_arrow(connection: Any, text: str, rows: int) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The same as Arrow record batches of about ``rows`` rows each: their schema, names once each, and the batches."""
    with _said():
        reader = stoppable(connection, lambda: connection.sql(_checked(connection, text)).to_arrow_reader(rows))
    names = _distinct(reader.schema.names)
    schema = pa.schema([field.with_name(name) for field, name in zip(reader.schema, names, strict=True)])

    def batches() -> Iterator[pa.RecordBatch]:
        while True:
            with _said():
                batch = stoppable(connection, lambda: next(reader, None))
            if batch is None:
                return
            yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)

    return schema, batches()


@contextmanager
def _said() -> Iterator[None]:
    """What DuckDB refuses, in one sentence."""
    import duckdb

    try:
        yield
    except duckdb.InterruptException:
        raise KeyboardInterrupt from None
    except duckdb.OutOfMemoryException as error:
        raise UserError(f"SQL: out of memory ({error}): select fewer rows or columns, or sum them up in the query") from None
    except duckdb.Error as error:
        raise said_by_storage(error) or UserError(f"SQL: {error}") from None
    except OSError as error:
        if error.errno is not None or isinstance(error, StorageUnreachable):
            raise
        raise UserError(f"SQL: {str(error).split('. Detail:')[0]}") from None  # what Arrow makes of an error in a later batch


def said_by_storage(error: Exception) -> Exception | None:
    """What reading the lake's object store met, where that is what ``error`` of DuckDB tells as the text of a traceback; else
    None."""
    text = str(error)
    if not text.startswith("Traceback (most recent call last)"):
        return None
    kind, _, sentence = next((line for line in text.splitlines()[1:] if line[:1].strip()), "").partition(": ")
    sentence = re.sub(r"^\[Errno \d+\] ", "", sentence)
    return StorageUnreachable(sentence) if kind.endswith("StorageUnreachable") else UserError(f"SQL: {sentence or kind}")


def stoppable(connection: Any, work: Callable[[], _T]) -> _T:
    """``work()``, which uses ``connection``, in a thread; a Ctrl-C meanwhile interrupts DuckDB and is raised once it has let go."""
    outcome: list[tuple[bool, Any]] = []
    done = threading.Event()

    def run() -> None:
        try:
            outcome.append((True, work()))
        except BaseException as error:
            outcome.append((False, error))
        done.set()

    threading.Thread(target=run, daemon=True).start()
    try:
        done.wait()
    except KeyboardInterrupt:
        while not done.is_set():
            connection.interrupt()
            done.wait(0.05)
        raise
    succeeded, value = outcome[0]
    if not succeeded:
        raise value
    return value


_INSTEAD = "`--csv` and `--parquet FILE` write its rows, and any DuckDB client opens catalogue.duckdb of the lake (docs/sql.md)"


def _checked(connection: Any, text: str) -> Any:
    """The one statement of ``text``, which reads."""
    _encoded(text)
    statements = connection.extract_statements(text)
    if len(statements) != 1:
        given = f"{len(statements)} statements were given" if statements else "no statement was given"
        raise UserError(f'SQL: {given}; give one SELECT, such as "SELECT count(*) FROM triplets"')
    if statements[0].type.name == "MULTI":
        raise UserError("SQL: PIVOT without values is several statements: name them, as in PIVOT t ON a IN ('x', 'y')")
    if not _reads(connection, statements[0]):
        kind = statements[0].type.name.replace("_", " ")
        raise UserError(f"SQL: {kind} is not run here, for this command only reads: give a SELECT; {_INSTEAD}")
    return statements[0]


def _reads(connection: Any, statement: Any) -> bool:
    """Whether a statement changes nothing; ``EXPLAIN ANALYZE`` runs what it explains, so that must read too."""
    from duckdb import StatementType

    if statement.type != StatementType.EXPLAIN:
        return statement.type == StatementType.SELECT
    explained = re.sub(r"(?is)^\s*EXPLAIN(\s+ANALYZE)?(\s*\([^)]*\))?(?=[\s(])", "", statement.query)
    return explained != statement.query and all(_reads(connection, each) for each in connection.extract_statements(explained))


def _distinct(names: Sequence[str]) -> list[str]:
    """``names`` with a number behind those that were there already: ``n, n`` becomes ``n, n_1``."""
    found: list[str] = []
    for name in names:
        number, distinct = 0, name
        while distinct in found or (number and distinct in names):
            number += 1
            distinct = f"{name}_{number}"
        found.append(distinct)
    return found


def split_statements(text: str) -> tuple[list[str], str]:
    """The statements of ``text`` that a semicolon ends, and what is behind the last one; semicolons in strings, names in quotes
    and comments end nothing.

    >>> split_statements("SELECT ';'; SELECT 2")
    (["SELECT ';'"], ' SELECT 2')

    Raises UserError where the text is not UTF-8.
    """
    import duckdb

    written, statements, start = _encoded(text), [], 0
    for place, kind in duckdb.tokenize(text):
        if kind == duckdb.token_type.operator and written[place : place + 1] == b";":
            statements.append(written[start:place].decode())
            start = place + 1
    return statements, written[start:].decode()


def says_something(text: str) -> bool:
    """Whether there is more in ``text`` than spaces and comments."""
    import duckdb

    _encoded(text)
    return any(kind != duckdb.token_type.comment for _, kind in duckdb.tokenize(text))


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UserError("SQL: the text is not UTF-8") from None
