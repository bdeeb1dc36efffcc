"""``mmret sql``: DuckDB over the tables of a lake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from mmret.cli.terminal import print_json
from mmret.errors import UserError
from mmret.lake import Lake


def sql(
    lake: Annotated[Path, typer.Option(help="folder of the lake")],
    query: Annotated[
        str,
        typer.Argument(
            help="a SELECT over images, rejects, embeddings, neighbours, pairs, descriptions, "
            "instructions, triplets, checkpoints, evaluations, ..."
        ),
    ],
    as_of: Annotated[
        str | None,
        typer.Option(
            help="the tables as they were: what a checkpoint was trained on (recipe or "
            "folder), a run, or a time such as 2026-01-31T12:00"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the rows as a JSON array of objects")] = False,
) -> None:
    """Ask SQL of the lake's tables; docs/sql.md has worked queries."""
    from mmret.warehouse import open_catalogue

    store = Lake(lake)
    if not store.partitions("corpus_manifest"):
        raise UserError(f"{store.root} holds no lake yet: make one with `mmret run --lake {lake}`")
    names, rows = answer(open_catalogue(store) if as_of is None else _of_state(store, as_of), query)
    if as_json:
        print_json([dict(zip(names, row, strict=True)) for row in rows], indent=1)
        return
    from rich import box
    from rich.table import Table

    from mmret.cli.terminal import console, printable

    table = Table(*names, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(printable, row))
    console().print(table)
    console().print(f"{len(rows):,} rows", style="dim")


def answer(connection: Any, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Names, each once, and rows of one query that reads.

    Raises UserError for an empty text, for more than one statement, for one that would write (``COPY ... TO``, ``ATTACH``,
    ``INSTALL``, ...), and for an error in it.
    """
    import duckdb

    try:
        query.encode()
    except UnicodeEncodeError:
        raise UserError("SQL: the text is not UTF-8") from None
    try:
        statements = connection.extract_statements(query)
        if len(statements) != 1:
            given = f"{len(statements)} statements were given" if statements else "no statement was given"
            raise UserError(f'SQL: {given}; give one SELECT, such as "SELECT count(*) FROM triplets"')
        if statements[0].type.name == "MULTI":
            raise UserError("SQL: PIVOT without values is several statements: name them, as in PIVOT t ON a IN ('x', 'y')")
        if not _reads(connection, statements[0]):
            kind = statements[0].type.name.replace("_", " ")
            raise UserError(f"SQL: {kind} is not run here, for this command only reads: give a SELECT; {_INSTEAD}")
        result = connection.execute(statements[0])
        return _distinct([column[0] for column in result.description or []]), result.fetchall()
    except duckdb.InterruptException:
        raise KeyboardInterrupt from None
    except duckdb.OutOfMemoryException as error:
        raise UserError(f"SQL: out of memory ({error}): select fewer rows or columns, or sum them up in the query") from None
    except duckdb.Error as error:
        raise UserError(f"SQL: {error}") from None


def _reads(connection: Any, statement: Any) -> bool:
    """Whether a statement changes nothing; ``EXPLAIN ANALYZE`` runs what it explains, so that must read too."""
    from duckdb import StatementType

    if statement.type != StatementType.EXPLAIN:
        return statement.type == StatementType.SELECT
    explained = re.sub(r"(?is)^\s*EXPLAIN(\s+ANALYZE)?(\s*\([^)]*\))?(?=[\s(])", "", statement.query)
    return explained != statement.query and all(_reads(connection, each) for each in connection.extract_statements(explained))


_INSTEAD = "`--json` writes rows to a file by `> FILE`, and any DuckDB client opens catalogue.duckdb of the lake (docs/sql.md)"


def _distinct(names: list[str]) -> list[str]:
    """``names`` with a number behind those that were there already: ``n, n`` becomes ``n, n_1``."""
    found: list[str] = []
    for name in names:
        number, distinct = 0, name
        while distinct in found or (number and distinct in names):
            number += 1
            distinct = f"{name}_{number}"
        found.append(distinct)
    return found


def _of_state(lake: Lake, as_of: str) -> Any:
    """A connection over the lake as it was; of a checkpoint, ``trained_on`` are the rows that it was trained on."""
    from mmret.lake import history
    from mmret.warehouse import connect

    connection = connect(lake, history.as_of(lake, as_of))
    if lake.facts("checkpoints", as_of) is not None:
        from mmret.retriever.train.data_state import checkpoint_rows

        connection.register("trained_on", checkpoint_rows(lake, as_of))
    return connection
