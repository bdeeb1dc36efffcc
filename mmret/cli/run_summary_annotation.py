"""The part of `mmret run`'s summary on what models write, captions too: requests and cost, what has no answer yet, and how good the
texts are."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from mmret.cli.terminal import printable
from mmret.lake import Lake

ANNOTATION_TABLES = ("written_captions", "descriptions", "instructions")
"""What a model may write, and be paid for."""


def summarise_annotation(facts: dict[str, list[Any]], lake: Lake, outcome: Any) -> dict[str, Any]:
    """Requests, tokens and cost of this run, per table, and how many requests of the whole lake have no answer yet."""
    found: dict[str, Any] = {"unanswered": sum(f.notes.get("unanswered", 0) for t in ANNOTATION_TABLES for f in facts[t])}
    for table in ANNOTATION_TABLES:
        now = [f.notes for p in outcome.partitions.get(table, []) if (f := lake.facts(table, p))]
        seconds = sum(n.get("annotation_seconds", 0) for n in now)
        sent = sum(n.get("requests_sent", 0) for n in now)
        words = {reason: text for n in now for reason, text in n.get("server_words", {}).items()}
        found[table] = {
            "requests_sent": sent,
            "answers_reused": sum(n.get("answers_reused", 0) for n in now),
            "tokens_in": sum(n.get("sent_tokens_in", 0) for n in now),
            "tokens_out": sum(n.get("sent_tokens_out", 0) for n in now),
            "cost": round(sum(n.get("cost", 0) for n in now), 4),
            "requests_per_second": round(sent / seconds, 1) if seconds else 0.0,
        }
        if words:
            found[table]["server_words"] = words
        found.setdefault("remarks", []).extend(r for n in now for r in n.get("remarks", ()))
    found["remarks"] = list(dict.fromkeys(found["remarks"]))
    return found


def summarise_quality(triplets: list[Any]) -> dict[str, float]:
    """Means of the measurements over the shards that have them, weighted by their triplets; {} where none has."""
    measured = [q for f in triplets if (q := f.notes.get("quality"))]
    flat = [{**q, **(q.get("redundancy") or {}), "triplets": q["triplets"]} for q in measured]
    found = {}
    for name in ("text_alone", "image_alone", "neither", "distinct_2", "leakage"):
        known = [(q[name], q["triplets"]) for q in flat if q.get(name) is not None]
        if known:
            found[name] = round(sum(v * n for v, n in known) / sum(n for _, n in known), 4)
    return found


def print_annotation(summary: dict[str, Any], console: Console) -> None:
    """Print ``annotation`` and ``quality`` of the summary for a person."""
    for table in ANNOTATION_TABLES:
        done = summary["annotation"][table]
        if done["tokens_in"]:
            console.print(
                Text(
                    f"{table}: {done['requests_sent']:,} requests sent, {done['answers_reused']:,} answers reused, "
                    f"{done['tokens_in']:,} tokens in, {done['tokens_out']:,} out, cost {done['cost']:,.2f}, "
                    f"{done['requests_per_second']:,.1f} requests/s"
                )
            )
        for reason, words in done.get("server_words", {}).items():
            console.print(Text.assemble(f"{table}: {reason}, in the server's own words: “", printable(words), "”"))
    for remark in summary["annotation"]["remarks"]:
        console.print(printable(remark))
    if waiting := summary["annotation"]["unanswered"]:
        console.print(
            Text(
                f"{waiting:,} requests got no answer. Run again: they alone are sent, as many runs in a row as "
                "annotate.retries says"
            )
        )
    found = summary["quality"]
    if "text_alone" in found and not summary["up_to_date"]:
        console.print(
            Text(
                f"texts: {found['text_alone']:.0%} of targets are found by the instruction alone, "
                f"{found['image_alone']:.0%} by the query image alone, {found['neither']:.0%} by neither"
            )
        )
