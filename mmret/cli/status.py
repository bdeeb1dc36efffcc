"""``mmret status``: what is current, what is to be computed again, and why."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from mmret.cli.lake_option import LakeOption
from mmret.cli.terminal import print_json
from mmret.errors import UserError
from mmret.freshness.survey import Status, survey
from mmret.lake import Lake
from mmret.lake.configuration import resolve

_REASONS = 3  # shown per stage


def count_by_stage(statuses: list[Status]) -> dict[str, dict[str, Any]]:
    """Per stage: how many partitions are in each state (current, follows, stale, missing), and the reasons with their counts."""
    stages: dict[str, dict[str, Any]] = {}
    for status in statuses:
        stage = stages.setdefault(status.table, {"current": 0, "follows": 0, "stale": 0, "missing": 0, "why": Counter()})
        stage[status.state] += 1
        stage["why"].update(status.reasons)
    return {table: {**stage, "why": dict(stage["why"].most_common())} for table, stage in stages.items()}


def status(
    lake: LakeOption,
    as_json: Annotated[bool, typer.Option("--json", help="print it as one JSON object, every partition included")] = False,
) -> None:
    """Say per stage how many partitions are current, stale or missing, and why. Computes nothing."""
    store = Lake(lake)
    if not store.shards():
        raise UserError(f"{store.address} holds no lake yet: make one with `mmret run --lake {lake}`")
    statuses = survey(store, resolve(store)[0])
    stages = count_by_stage(statuses)
    opted_out = _opted_out_since(store)
    if as_json:
        rows = [{"table": s.table, "partition": s.partition, "state": s.state, "why": s.reasons} for s in statuses]
        print_json({"lake": store.address, "stages": stages, "partitions": rows} | opted_out)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from mmret.cli.terminal import console

    table = Table("stage", box=box.SIMPLE_HEAD)
    for name in ("current", "follows", "stale", "missing"):
        table.add_column(name, justify="right")
    table.add_column("why", overflow="fold")
    for name, stage in stages.items():
        why = [f"{reason} ({n})" for reason, n in list(stage["why"].items())[:_REASONS]]
        why += ["…"] if len(stage["why"]) > _REASONS else []
        counts = (str(stage[k] or "") for k in ("current", "follows", "stale", "missing"))
        table.add_row(name, *counts, Text("\n".join(why)))
    console().print(table)
    todo = sum(stage["stale"] + stage["missing"] for stage in stages.values())
    console().print(
        f"{todo} partitions to compute; `follows`: only if what they read turns out different" if todo else "everything is current",
        style="dim",
    )
    for name, n in opted_out.get("opted_out_since", {}).items():
        console().print(Text(f"{name}: trained on {n:,} pictures that have opted out since"))


def _opted_out_since(lake: Lake) -> dict[str, Any]:
    """By checkpoint, how many of its pictures have opted out since; empty where no picture of the lake has."""
    from mmret.curation.opted_out import opted_out_ids

    if not len(opted_out_ids(lake)):
        return {}
    from mmret.retriever.opted_out_since import all_opted_out_since

    return {"opted_out_since": all_opted_out_since(lake)}
