"""``mmret diff``: two states of a lake, compared table by table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmret.cli.lake_option import LakeOption
from mmret.cli.terminal import one_line, print_json
from mmret.errors import UserError
from mmret.lake import Lake

if TYPE_CHECKING:
    from mmret.warehouse.compare import Comparison, TableChange

_REASONS = 4  # shown per table
_CHARACTERS = 160  # of a value in an example


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="a state: a recipe's checkpoint, a run, a time, or `now`")],
    lake: LakeOption,
    after: Annotated[str, typer.Argument(metavar="B", help="the state to compare it with")] = "now",
    table: Annotated[str | None, typer.Option(help="compare this table alone")] = None,
    rows: Annotated[int, typer.Option(min=0, help="examples shown of each kind of difference")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print it as one JSON object")] = False,
) -> None:
    """Say what differs between two states of a lake: rows added, gone and changed per table, and why."""
    from mmret.schemas import TABLES
    from mmret.warehouse.compare import compare, state_of

    store = Lake(lake)
    if not store.partitions("corpus_manifest"):
        raise UserError(f"{store.address} holds no lake yet: make one with `mmret run --lake {lake}`")
    if table is not None and table not in TABLES:
        raise UserError(f"--table {table}: there are {', '.join(TABLES)}")
    found = compare(store, state_of(store, before), state_of(store, after), (table,) if table else (), rows)
    if as_json:
        tables = {change.table: _as_json(change) for change in found.tables}
        print_json({"lake": store.address, "before": before, "after": after, "tables": tables, "left_out": found.left_out})
        return
    _print(found, before, after)


def _as_json(change: TableChange) -> dict[str, Any]:
    counts = {"added": change.added, "gone": change.gone, "changed": change.changed, "same": change.same}
    why = {"own": change.causes.own, "upstream": change.causes.upstream}
    return counts | {"columns": change.columns, "why": why, "examples": {k: found for k, found in change.examples.items() if found}}


def _print(found: Comparison, before: str, after: str) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from mmret.cli.terminal import console

    differing = [change for change in found.tables if change.differs]
    if differing:
        table = Table("table", box=box.SIMPLE_HEAD)
        for name in ("added", "gone", "changed", "same"):
            table.add_column(name, justify="right")
        table.add_column("why", overflow="fold")
        for change in differing:
            counts = (f"{n:,}" if n else "" for n in (change.added, change.gone, change.changed, change.same))
            table.add_row(change.table, *counts, Text("\n".join(_why(change))))
        console().print(table)
    for change in differing:
        for line in _examples(change):
            console().print(Text(line), soft_wrap=True)
    same = [change.table for change in found.tables if not change.differs]
    named = f"{one_line(before)} and {one_line(after)}"
    if not differing:
        print(f"no row differs between {named}" + (f" in {same[0]}" if len(same) == 1 else ""))
    elif same:
        console().print(Text(f"the same in {named}: {', '.join(same)}"), style="dim", soft_wrap=True)
    if found.left_out:
        said = ", ".join(f"{table} ({why})" for table, why in found.left_out.items())
        console().print(Text(f"not compared: {one_line(said)}"), style="dim", soft_wrap=True)


def _why(change: TableChange) -> list[str]:
    own = [one_line(reason) + (f" ({n:,})" if n > 1 else "") for reason, n in change.causes.own.items()]
    lines = [*own[:_REASONS], *(["…"] if len(own) > _REASONS else [])]
    return [*lines, *([f"because of {', '.join(change.causes.upstream)}"] if change.causes.upstream else [])]


def _examples(change: TableChange) -> list[str]:
    """Lines: in how many rows each column changed, then examples of each kind."""
    lines = []
    if change.columns:
        lines.append(f"{change.table}, changed: " + ", ".join(f"{column} {n:,}" for column, n in change.columns.items()))
    for row in change.examples.get("changed", []):
        lines.append(f"  changed {_pairs(row['key'])}")
        lines += [f"    {column}: {_short(old)} → {_short(new)}" for column, (old, new) in row["columns"].items()]
    for kind in ("added", "gone"):
        lines += [f"  {change.table} {kind}: {_pairs(row)}" for row in change.examples.get(kind, [])]
    return lines


def _pairs(row: dict[str, Any]) -> str:
    return ", ".join(
        f"{column} {_short(value, 40)}" for column, value in row.items() if value is not None and column != "partition"
    )


def _short(value: Any, most: int = _CHARACTERS) -> str:
    text = "nothing" if value is None else one_line(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"
