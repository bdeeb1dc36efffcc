"""The studies as one picture: a panel each, bars for the means, a dot for every seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmret.atomic import replacing


def draw_studies(results: dict[str, Any], path: Path) -> None:
    """Write the results of :func:`mmret.studies.results.results` to ``path`` as a PNG; a study without figures is left out."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    metric = results["metric"]
    studies = [s for s in results["studies"] if any(v["mean"] for v in s["variants"])]
    figure = Figure(figsize=(2.3 + 2.5 * len(studies), 3.3), dpi=130, layout="constrained")
    panels = figure.subplots(
        1, max(1, len(studies)), sharey=True, squeeze=False, width_ratios=[len(s["variants"]) + 0.6 for s in studies] or None
    )[0]
    for panel, study in zip(panels, studies, strict=False):
        variants = study["variants"]
        places = range(len(variants))
        panel.bar(places, [v["mean"].get(metric, 0) for v in variants], width=0.62, color="#9db8d9", zorder=2)
        for place, variant in zip(places, variants, strict=True):
            if not variant["mean"]:
                continue
            values = variant["values"][metric]
            panel.scatter([place] * len(values), values, s=14, color="#1f3b63", zorder=3)
            panel.annotate(
                f"{variant['mean'][metric]:.1f}",
                (place, max(values)),
                ha="center",
                va="bottom",
                xytext=(0, 4),
                textcoords="offset points",
                fontsize=8.5,
            )
        if results["untrained"]:
            panel.axhline(results["untrained"][metric], color="gray", linestyle="--", linewidth=1, zorder=4)
        panel.set_xticks(list(places), [v["label"].replace(" ", "\n").replace("+\n", "+ ") for v in variants], fontsize=8.5)
        panel.set_title(study["title"], fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(y=0.12)
    panels[0].set_ylabel(f"{metric}, percent")
    if results["untrained"]:
        panels[0].text(-0.45, results["untrained"][metric], "untrained", fontsize=7.5, va="bottom", zorder=5)
    with replacing(path) as aside:
        figure.savefig(aside, format="png")
