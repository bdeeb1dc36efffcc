"""The studies as two tables of text, for a terminal or for a page: the figures of each variant, and what the claims rest on.

Costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Table = tuple[list[str], list[list[list[str]]]]
"""Header, and the rows of each section."""
CLAIMS = {"rising": "each above the one before", "last": "the last as good as each other"}
NOTE = (
    "differences are paired by seed, and each interval is for its own comparison; a claim is shown where all those that it needs "
    "are above zero, and contradicted where one is below"
)


def figures(found: dict[str, Any]) -> Table:
    """A row per variant: mean and standard deviation over the seeds. ``found``: of :func:`mmret.studies.results.results`."""
    metrics = [m for m in ("R@1", "R@10", "R@50") if m in found["untrained"]]
    sections = [[["", "untrained", "", *(f"{found['untrained'][m]:.1f}" for m in metrics)]]]
    for study in found["studies"]:
        rows = []
        for n, v in enumerate(study["variants"]):
            cells = [_with_deviation(v["mean"].get(m), v["spread"].get(m)) for m in metrics]
            rows.append([study["title"] if not n else "", v["label"], str(len(v["seeds"])), *cells])
        sections.append(rows)
    return ["study", "variant", "seeds", *metrics], sections


def claims(found: dict[str, Any]) -> Table:
    """A row per difference that a claim is about, and one with the verdict."""
    sections = []
    for study in found["studies"]:
        rows = [["", f"{d['label']} over {d['over']}", *_difference(d)] for d in study["differences"]]
        rows[0][0] = study["title"]
        rows.append(["", f"{CLAIMS[study['claim']]}{_order_of_means(study)}", "", "", "", _verdict(study)])
        sections.append(rows)
    return ["study", f"difference in {found['metric']}", "mean", "95 % interval", "positive", "shown"], sections


def markdown(table: Table) -> str:
    """GitHub's."""
    header, sections = table
    lines = [header, ["---"] * len(header), *(row for rows in sections for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _difference(d: dict[str, Any]) -> Sequence[str]:
    mean = "-" if d["mean"] is None else f"{d['mean']:+.1f}"
    ends = "-" if d["low"] is None else f"{d['low']:+.1f} to {d['high']:+.1f}"
    return mean, ends, f"{d['positive']} of {d['seeds']}", d["verdict"]


def _order_of_means(study: dict[str, Any]) -> str:
    if study["holds"] is None:
        return ""
    return f"; means {'' if study['holds'] else 'not '}in order, in {study['holds_in']} of {study['seeds']} seeds"


def _verdict(study: dict[str, Any]) -> str:
    below = study["at_most_below"]
    return study["verdict"].upper() + (f", at most {below:.1f} below" if below and study["verdict"] == "not shown" else "")


def _with_deviation(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"
