"""The summary `mmret run` ends with: rows per stage, rejects by reason, time per stage, before and after training, what next."""

from __future__ import annotations

from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmret.cli.live import clock
from mmret.lake import Lake
from mmret.schemas import TABLES
from mmret.settings import Profile


def summarise(lake: Lake, profile: Profile, outcome: Any) -> dict[str, Any]:
    """Everything the summary shows, as plain JSON values. ``outcome``: see ``assets.run.Outcome``."""
    facts = {t: [f for p in lake.partitions(t) if (f := lake.facts(t, p))] for t in TABLES}
    rejects = lake.read("rejects", columns=["reason"])["reason"].value_counts().to_pylist()
    pairs, described = facts["pairs"], facts["descriptions"]
    evaluations = pl.from_arrow(lake.read("evaluations")).filter(pl.col("recipe").is_in([*profile.train, "untrained"])).unique(
        ["recipe", "benchmark", "metric"], keep="last", maintain_order=True)
    return {
        "lake": str(lake.root),
        "profile": profile.name,
        "up_to_date": not any(outcome.rows_computed.values()),
        "shards": len(lake.shards()),
        "rows": {t: sum(f.rows for f in fs) for t, fs in facts.items()},
        "computed": {t: n for t, n in outcome.rows_computed.items() if n},
        "partitions_computed": outcome.partitions,
        "seconds": {t: round(s, 2) for t, s in outcome.seconds.items()},
        "rejects": {r["values"]: r["counts"] for r in rejects},
        "queries_with_pairs": sum(f.notes.get("queries", 0) for f in pairs),
        "pair_reasons": _added(f.notes.get("reasons", {}) for f in pairs),
        "annotation_reasons": _added(f.notes.get("reasons", {}) for f in [*described, *facts["instructions"]]),
        "bands": next((f.notes["bands"] for f in facts["candidates"] if f.notes.get("bands")), {}),
        "evaluations": evaluations.select("recipe", "benchmark", "metric", "value", "queries", "gallery").to_dicts(),
        "checks_failed": sorted(name for name, passed in outcome.checks.items() if not passed),
        "total_seconds": round(outcome.total, 2),
    }


def _added(counts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for reason, n in each.items():
            total[reason] = total.get(reason, 0) + n
    return dict(sorted(total.items()))


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Write the summary for a person."""
    stages = Table("stage", "rows", "computed now", "seconds", box=box.SIMPLE_HEAD, title_justify="left")
    for column in stages.columns[1:]:
        column.justify = "right"
    for table, rows in summary["rows"].items():
        seconds = summary["seconds"].get(table)
        stages.add_row(table, f"{rows:,}", f"{summary['computed'].get(table, 0):,}", "" if seconds is None else f"{seconds:.1f}")
    console.print(stages)
    if summary["up_to_date"]:
        console.print("Nothing to do: every stage is up to date.", style="bold")
    else:
        console.print(f"Done in {clock(summary['total_seconds'])}.", style="bold")
    for name, key in (("rejected images", "rejects"), ("pairs not taken", "pair_reasons"), ("texts not written", "annotation_reasons")):
        if counts := {r: n for r, n in summary[key].items() if r != "chosen"}:
            console.print(Text(f"{name}: " + ", ".join(f"{r.replace('_', ' ')} {n:,}" for r, n in counts.items())))
    for name in summary["checks_failed"]:
        console.print(Text(f"check failed: {name} (its rows are in the Dagster UI)", style="red"))
    _explain_pairs(summary, console)
    print_before_after(summary["evaluations"], console)
    lake = summary["lake"]
    console.print(Text(f"""Next:
  mmret sql --lake {lake} "SELECT query_path, texts[1], target_path FROM triplets LIMIT 5"
  mmret search --lake {lake} --image FILE --text "the same in red"
  mmret export --lake {lake} --format megapairs --out DIR
  make ui                     the graph, its partitions and their history"""))


def _explain_pairs(summary: dict[str, Any], console: Console) -> None:
    images, queries = summary["rows"]["images"], summary["queries_with_pairs"]
    if not images:
        return
    share = queries / images
    bands = ", ".join(f"{s} {low:.2f} to {high:.2f}" for s, (low, high) in summary["bands"].items())
    text = f"pairs: {summary['rows']['pairs']:,} for {queries:,} of {images:,} images ({share:.0%}); bands {bands}"
    if share < 0.5:
        text += ("\n  Few images have a neighbour that is alike yet different: this corpus is sparse in the three spaces. "
                 "A larger corpus, or wider bands (--set mine.bands.clip_image={low: ..., high: ...}), gives more.")
    console.print(Text(text))


def print_before_after(evaluations: list[dict[str, Any]], console: Console) -> None:
    """Composed retrieval of every recipe beside the untrained model, per benchmark; below, what image or text alone find."""
    for benchmark in dict.fromkeys(e["benchmark"] for e in evaluations):
        rows = [e for e in evaluations if e["benchmark"] == benchmark]
        ks = list(dict.fromkeys(e["metric"].split()[-1] for e in rows))
        table = Table("model", *ks, box=box.SIMPLE_HEAD, title_justify="left", title=f"{benchmark}: {rows[0]['queries']:,} "
                      f"queries over {rows[0]['gallery']:,} images, percent")
        for recipe in sorted({e["recipe"] for e in rows}, key=lambda r: (r != "untrained", r)):
            values = {e["metric"]: e["value"] for e in rows if e["recipe"] == recipe}
            for part, named in (("", recipe), ("image ", "  its image alone"), ("text ", "  its text alone")):
                if f"{part}{ks[0]}" in values:
                    table.add_row(named, *(f"{values[part + k]:.1f}" for k in ks), style="dim" if part else "")
        console.print(table)
