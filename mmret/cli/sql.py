"""``mmret sql``: DuckDB over the tables of a lake, one query or a shell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmret.cli.lake_option import LakeOption
from mmret.errors import UserError
from mmret.lake import Lake

if TYPE_CHECKING:
    from mmret.warehouse.session import Session


def sql(
    lake: LakeOption,
    query: Annotated[
        str | None,
        typer.Argument(
            help="a SELECT over images, rejects, embeddings, neighbours, pairs, descriptions, "
            "instructions, triplets, checkpoints, evaluations, ...; without one, a shell"
        ),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            help="the tables as they were: what a checkpoint was trained on (recipe or "
            "folder), a run, or a time such as 2026-01-31T12:00"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the rows as a JSON array of objects")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print the rows as comma-separated values (RFC 4180)")] = False,
    parquet: Annotated[Path | None, typer.Option(help="write the rows to this Parquet file")] = None,
    wide: Annotated[bool, typer.Option("--wide", help="a table as wide as its cells: nothing is cut to fit the terminal")] = False,
) -> None:
    """Ask SQL of the lake's tables; docs/sql.md has worked queries. Without a query: a shell, or statements from standard input."""
    from mmret.warehouse.session import Session

    chosen = [name for name, given in (("--json", as_json), ("--csv", as_csv), ("--parquet", parquet), ("--wide", wide)) if given]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)}: choose one, for a result has one form")
    if query is None and sys.stdin.isatty():
        if chosen not in ([], ["--wide"]) or not sys.stdout.isatty():
            raise UserError('give a query, such as "FROM triplets LIMIT 5": the shell needs a terminal, and shows tables')
        from mmret.cli.sql_shell import Shell

        Shell(Session(Lake(lake), as_of), wide).run()
        return
    session = Session(Lake(lake), as_of)
    if parquet is not None:
        from mmret.warehouse.parquet_file import check_place

        check_place(session.lake, parquet)
    if query is None and chosen in ([], ["--wide"]):
        from mmret.cli.sql_shell import Shell

        Shell(session, wide).run_text(sys.stdin.read())
        return
    _answer(session, sys.stdin.read() if query is None else query, chosen[0] if chosen else "", parquet)


def _answer(session: Session, query: str, form: str, parquet: Path | None) -> None:
    """Print or write the rows of one query in the ``form`` that was chosen."""
    from mmret.warehouse.query import ask

    if parquet is not None:
        from mmret.warehouse.parquet_file import write_parquet

        rows = write_parquet(session.connection(), query, parquet)
        print(f"{parquet}: {rows:,} rows", file=sys.stderr)
        return
    found = ask(session.connection(), query)
    if form == "--json":
        from mmret.cli.terminal import print_json_array

        print_json_array(dict(zip(found.names, row, strict=True)) for batch in found.batches for row in batch)
    elif form == "--csv":
        from mmret.cli.csv_rows import print_csv

        print_csv(found)
    else:
        from mmret.cli.sql_table import print_table

        print_table(found, wide=form == "--wide")
