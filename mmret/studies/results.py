"""The results of the studies: each variant's figures over its seeds, and what they show of the paper's claims.

Read from ``evaluations`` alone, so it shows what is there while the rest is still being trained. A claim is judged by the
paired differences that it is about (:mod:`mmret.studies.statistics`). Costs nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from mmret.lake import Lake
from mmret.search.models import UNTRAINED
from mmret.settings import StudySettings
from mmret.settings.studies import Study, designs, runs
from mmret.studies.statistics import at_most_below, differences, interval, verdict


def results(lake: Lake, settings: StudySettings) -> dict[str, Any]:
    """Plain JSON: ``benchmark, metric, queries, gallery, untrained`` (metric: percent) and ``studies``, a list of
    ``{name, title, claim, holds, holds_in, seeds, variants, verdict, differences, at_most_below}``.

    A variant is ``{label, recipes, seeds, mean, spread, values, low, high}``, all but the first three by metric, over the seeds
    there are; ``spread`` is the sample standard deviation, ``low`` and ``high`` the ends of the 95 % interval of the mean, all
    three None for one seed. ``verdict``: what the ``differences`` that the claim is about show, in the study's metric; each is
    ``{label, over, seeds, positive, mean, low, high, verdict}``. ``at_most_below``: of claim ``last``, how far the last may be
    below another by the intervals. ``holds``: whether the means are in order, whatever the intervals say, None while some variant
    has no figure; ``holds_in``: in how many seeds they are.
    """
    rows: dict[str, dict[str, float]] = {}
    sizes: dict[str, int] = {}
    for partition in lake.partitions("evaluations"):
        for row in lake.read("evaluations", partition).to_pylist():
            if row["benchmark"] == settings.benchmark:
                rows.setdefault(row["recipe"], {})[row["metric"]] = row["value"]
                sizes = {"queries": row["queries"], "gallery": row["gallery"]}
    names: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for study, variant, seed, name in runs(settings):
        names.setdefault((study.name, variant.label), []).append((seed, name))
    compared = []
    for study in designs(settings):
        variants = []
        for variant in study.variants:
            own = names[study.name, variant.label]
            there = [(seed, name) for seed, name in own if name in rows]
            values = {metric: [rows[name][metric] for _, name in there] for metric in (rows[there[0][1]] if there else ())}
            variants.append(
                {
                    "label": variant.label,
                    "recipes": [name for _, name in own],
                    "seeds": [seed for seed, _ in there],
                    "mean": {m: round(statistics.fmean(v), 3) for m, v in values.items()},
                    "spread": {m: round(statistics.stdev(v), 3) if len(v) > 1 else None for m, v in values.items()},
                    "values": {m: [round(x, 3) for x in v] for m, v in values.items()},
                    "low": {m: _rounded(interval(v)[0]) for m, v in values.items()},
                    "high": {m: _rounded(interval(v)[1]) for m, v in values.items()},
                }
            )
        compared.append(
            {
                "name": study.name,
                "title": study.title,
                "claim": study.claim,
                **_order(study, variants, settings.metric),
                "variants": variants,
                **_judged(study, variants, settings.metric),
            }
        )
    return {
        "benchmark": settings.benchmark,
        "metric": settings.metric,
        **sizes,
        "untrained": {m: round(v, 3) for m, v in rows.get(UNTRAINED, {}).items()},
        "studies": compared,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _judged(study: Study, variants: Sequence[dict[str, Any]], metric: str) -> dict[str, Any]:
    """The verdict on a study and the differences behind it."""
    by_seed = [(v["label"], dict(zip(v["seeds"], v["values"].get(metric, ()), strict=True))) for v in variants]
    found = differences(study.claim, by_seed)
    below = _rounded(at_most_below(found)) if study.claim == "last" else None
    return {"verdict": verdict(found), "differences": [d.to_json() for d in found], "at_most_below": below}


def _order(study: Study, variants: Sequence[dict[str, Any]], metric: str) -> dict[str, Any]:
    """Whether means, and the figures of each seed, are in the claim's order."""
    shared = sorted(set.intersection(*(set(v["seeds"]) for v in variants)))
    if not shared:
        return {"holds": None, "holds_in": 0, "seeds": 0}
    by_seed = [[v["values"][metric][v["seeds"].index(seed)] for v in variants] for seed in shared]
    return {
        "holds": claim_holds(study.claim, [v["mean"][metric] for v in variants]),
        "holds_in": sum(claim_holds(study.claim, values) for values in by_seed),
        "seeds": len(shared),
    }


def claim_holds(claim: str, values: Sequence[float]) -> bool:
    """Whether ``values``, one a variant, are in the order that ``claim`` says.

    ``rising``: each value is above the one before. ``last``: the last one is not below any other.
    """
    if claim == "rising":
        return all(a < b for a, b in zip(values, values[1:], strict=False))
    return values[-1] >= max(values)
