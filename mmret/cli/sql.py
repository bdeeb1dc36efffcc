"""``mmret sql``: DuckDB over the tables of a lake."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

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
    import duckdb

    from mmret.warehouse import open_catalogue

    store = Lake(lake)
    if not store.partitions("corpus_manifest"):
        raise UserError(f"{store.root} holds no lake yet: make one with `mmret run --lake {lake}`")
    try:
        result = (open_catalogue(store) if as_of is None else _of_state(store, as_of)).execute(query)
    except duckdb.Error as error:
        raise UserError(f"SQL: {error}") from None
    names = [column[0] for column in result.description or []]
    rows = result.fetchall()
    if as_json:
        json.dump([dict(zip(names, row, strict=True)) for row in rows], sys.stdout, ensure_ascii=False, default=str, indent=1)
        print()
        return
    from rich import box
    from rich.table import Table

    from mmret.cli.terminal import console, printable

    table = Table(*names, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(printable, row))
    console().print(table)
    console().print(f"{len(rows):,} rows", style="dim")


def _of_state(lake: Lake, as_of: str) -> Any:
    """A connection over the lake as it was; of a checkpoint, ``trained_on`` are the rows that it was trained on."""
    from mmret.lake import history
    from mmret.warehouse import connect

    connection = connect(lake, history.as_of(lake, as_of))
    if lake.facts("checkpoints", as_of) is not None:
        from mmret.retriever.train.data_state import checkpoint_rows

        connection.register("trained_on", checkpoint_rows(lake, as_of))
    return connection
