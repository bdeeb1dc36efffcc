"""The summary `mmret run` ends with: rows per stage, rejects by reason, time per stage, before and after training, what next."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmret.benchmarks.figures import left_out, recorded
from mmret.benchmarks.robustness_figures import not_measured
from mmret.cli.run_summary_annotation import print_annotation, summarise_annotation, summarise_quality
from mmret.cli.run_summary_captions import print_captions, summarise_captions
from mmret.cli.run_summary_changes import WORDS, print_changes
from mmret.cli.run_summary_directions import composed_only, print_directions
from mmret.cli.run_summary_expectations import print_expectations
from mmret.cli.run_summary_robustness import print_robustness
from mmret.cli.terminal import printable
from mmret.freshness.survey import Snapshot
from mmret.lake import Facts, Lake
from mmret.progress_reports import format_seconds
from mmret.schemas import TABLES
from mmret.settings import Profile

if TYPE_CHECKING:
    from mmret.cli.graph import Outcome

REMARKS_SHOWN = 10
FIGURES_OF = {
    "triplets": "`mmret quality` has the figures of the texts",
    "evaluations": "its figures are in the table of robustness, its limits in settings evaluate.max_*",
}
"""Where the figures are of which an asset check warns, by asset."""


def summarise_run(lake: Lake, profile: Profile, outcome: Outcome) -> dict[str, Any]:
    """The state of the lake and what this run did (``outcome``), as plain JSON values: what `mmret run --json` prints."""
    lake = Snapshot(lake)
    facts = {t: [f for p in lake.partitions(t) if (f := lake.facts(t, p))] for t in TABLES}
    rejects = lake.read("rejects", columns=["reason"])["reason"].value_counts().to_pylist() if facts["rejects"] else []
    pair_reasons = _sum_counts(f.notes.get("reasons", {}) for f in facts["pairs"])
    texts = [*facts["descriptions"], *facts["instructions"]]
    return {
        "lake": lake.address,
        "profile": profile.name,
        "up_to_date": not any(outcome.rows_computed.values()),
        "shards": len(lake.shards()),
        "rows": {t: sum(f.rows for f in fs) for t, fs in facts.items()},
        "computed": {t: n for t, n in outcome.rows_computed.items() if n},
        "partitions_computed": outcome.partitions,
        "seconds": {t: round(s, 2) for t, s in outcome.seconds.items()},
        "rejects": {r["values"]: r["counts"] for r in rejects},
        "remarks": lake.read_rows("remarks"),
        "written_captions": summarise_captions(facts["written_captions"]),
        "retrieved_targets": pair_reasons.get("retrieved", 0),
        "duplicates": _duplicates(facts["duplicates"]),
        "queries_with_pairs": sum(f.notes.get("queries", 0) for f in facts["pairs"]),
        "pair_reasons": {reason: n for reason, n in pair_reasons.items() if reason != "retrieved"},
        "annotation": summarise_annotation(facts, lake, outcome),
        "quality": summarise_quality(facts["triplets"]),
        "annotation_reasons": _sum_counts(f.notes.get("reasons", {}) for f in texts),
        "towers_trained_on": max((row["images"] for row in lake.read_rows("towers", ["images"])), default=0),
        "bands": next((f.notes["bands"] for f in facts["candidates"] if f.notes.get("bands")), {}),
        "training_notes": training_notes(lake, outcome.partitions.get("checkpoints", [])),
        "evaluations": recorded(lake, profile.train),
        "directions_left_out": left_out(lake, profile.train),
        "robustness_left_out": not_measured(lake, profile.train),
        "checks_failed": sorted(name for name, passed in outcome.checks.items() if not passed),
        "checks_warned": sorted(outcome.warnings),
        "total_seconds": round(outcome.total, 2),
    }


def training_notes(lake: Lake, recipes: Iterable[str]) -> dict[str, list[str]]:
    """What a reader of the trainings of ``recipes`` should know, by recipe: cut texts, negatives left out, gaps of a teacher."""
    noted = {name: facts.notes.get("notes", []) for name in recipes if (facts := lake.facts("checkpoints", name))}
    return {name: notes for name, notes in noted.items() if notes}


def _duplicates(facts: list[Facts]) -> dict[str, int]:
    """Of the groups of near-duplicates: how many, with how many pictures, and how many the largest has."""
    return {"pictures": sum(f.rows for f in facts)} | {
        n: max((f.notes[n] for f in facts), default=0) for n in ("groups", "largest")
    }


def _sum_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for reason, n in each.items():
            total[reason] = total.get(reason, 0) + n
    return {reason: n for reason, n in sorted(total.items()) if n}


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print the summary for a person. The commands at its end stay on one line each, whatever the width: they are for pasting."""
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
        console.print(f"Done in {format_seconds(summary['total_seconds'])}.", style="bold")
    retrieved = f"of {summary['retrieved_targets']:,} targets retrieved, not taken"
    for name, key in (("rejected images", "rejects"), (retrieved, "pair_reasons"), ("texts not written", "annotation_reasons")):
        counts = {r: n for r, n in summary[key].items() if r not in ("chosen", "queries_without_candidates")}
        if counts:
            console.print(Text(f"{name}: " + ", ".join(f"{r.replace('_', ' ')} {n:,}" for r, n in counts.items())))
    print_captions(summary, console)
    if near := summary["duplicates"]["pictures"]:
        groups, largest = summary["duplicates"]["groups"], summary["duplicates"]["largest"]
        console.print(Text(f"near-duplicates: {near:,} images in {groups:,} groups, the largest of {largest:,} (table duplicates)"))
    print_changes(summary, console)
    _print_remarks([remark for remark in summary["remarks"] if remark["remark"] not in WORDS], console)
    print_annotation(summary, console)
    for name in summary["checks_failed"]:
        console.print(Text(f"check failed: {name} (its rows are in the Dagster UI)", style="red"))
    for name in summary["checks_warned"]:
        where = FIGURES_OF.get(name.partition(":")[0])
        console.print(Text(f"check warns: {name}" + (f" ({where})" if where else "")))
    _explain_pairs(summary, console)
    print_training_notes(summary["training_notes"], console)
    print_before_after(composed_only(summary["evaluations"]), console)
    print_directions(summary["evaluations"], summary["directions_left_out"], console)
    print_robustness(summary["evaluations"], summary["robustness_left_out"], console)
    for recipe in _found_by_text_alone(summary["evaluations"]):
        console.print(
            Text(
                f"{recipe}: most held-out targets are found by the instruction alone. Its pairs share little, so an "
                "instruction has to retell its target; a denser corpus, or narrower mine.bands, gives better ones."
            )
        )
    print_expectations(summary, console)
    lake = shlex.quote(summary["lake"])
    commands = [
        f'mmret sql --lake {lake} "SELECT query_path, texts[1], target_path FROM triplets LIMIT 5"',
        f'mmret search --lake {lake} --image FILE --text "the same in red"',
        f"mmret gallery --lake {lake}",
        f"mmret export --lake {lake} --format megapairs --out DIR",
        *([f"make ui LAKE={lake}"] if " " not in summary["lake"] else []),  # make takes a path with spaces for several
    ]
    console.print(Text("\n  ".join(["Next:", *commands])), soft_wrap=True)


def print_training_notes(notes: Mapping[str, list[str]], console: Console) -> None:
    """What :func:`training_notes` found, a line each."""
    for recipe, said in notes.items():
        for note in said:
            console.print(Text(f"{recipe}: {note}"))


def _print_remarks(remarks: list[dict[str, Any]], console: Console) -> None:
    """What was noticed in the sources and became no row, most frequent first; names of files are data."""
    for remark in remarks[:REMARKS_SHOWN]:
        example = " · ".join(printable(remark[part]).plain for part in ("path", "detail") if remark[part])
        console.print(
            Text(f"remark: {remark['remark'].replace('_', ' ')} {remark['count']:,}" + (f" ({example})" if example else ""))
        )
    if len(remarks) > REMARKS_SHOWN:
        console.print(Text(f'remark: {len(remarks) - REMARKS_SHOWN} kinds more: mmret sql "SELECT * FROM remarks"'))


def _found_by_text_alone(evaluations: dict[str, Any], share: float = 0.7) -> list[str]:
    """Recipes whose text alone finds at least ``share`` of what the composed query finds first, on triplets of the lake."""
    found = evaluations.get("held-out triplets", {})
    return [
        recipe
        for recipe, values in found.items()
        if isinstance(values, dict) and recipe != "untrained" and values.get("text R@1", -1) >= share * max(values["R@1"], 1)
    ]


def _explain_pairs(summary: dict[str, Any], console: Console) -> None:
    images, queries = summary["rows"]["images"], summary["queries_with_pairs"]
    if not images:
        return
    share = queries / images
    bands = ", ".join(f"{s} {low:.3f} to {high:.3f}" for s, (low, high) in summary["bands"].items())
    text = f"pairs: {summary['rows']['pairs']:,} for {queries:,} of {images:,} images ({share:.0%}); bands {bands}"
    if share < 0.5:
        text += (
            "\n  Few images have a neighbour that is alike yet different: this corpus is sparse in the three spaces. "
            "A larger corpus, or wider bands (--set mine.bands.clip_image={low: ..., high: ...}), gives more."
        )
    console.print(Text(text))


def print_before_after(evaluations: dict[str, Any], console: Console) -> None:
    """Composed retrieval of every recipe beside the untrained model, per benchmark; below, what image or text alone find."""
    for benchmark, figures in evaluations.items():
        recipes = {name: values for name, values in figures.items() if isinstance(values, dict)}
        ks = list(dict.fromkeys(metric.split()[-1] for values in recipes.values() for metric in values))
        table = Table("model", *ks, box=box.SIMPLE_HEAD)
        for recipe, values in sorted(recipes.items(), key=lambda item: (item[0] != "untrained", item[0])):
            for part, named in (
                ("", recipe),
                ("first ", "  before it"),
                ("image ", "  its image alone"),
                ("text ", "  its text alone"),
            ):
                if f"{part}{ks[0]}" in values:
                    table.add_row(named, *(f"{values[part + k]:.1f}" for k in ks), style="dim" if part else "")
        console.print(Text(f"{benchmark}: {figures['queries']:,} queries over {figures['gallery']:,} images, percent"))
        console.print(table)
