"""The studies as one picture: a panel each, bars for the means, a dot for every seed, a line for the 95 % interval of the mean.

Under a panel's title stands what its claim's paired differences show: intervals of two means may overlap where that of their
difference does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmret.atomic import replacing
from mmret.studies.tables import CLAIMS


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
            top = max(values)
            if variant["low"][metric] is not None:
                ends = [variant["low"][metric], variant["high"][metric]]
                panel.plot([place] * 2, ends, color="#c0392b", linewidth=1.6, solid_capstyle="butt", zorder=4)
                top = max(top, ends[1])
            panel.annotate(
                f"{variant['mean'][metric]:.1f}",
                (place, top),
                ha="center",
                va="bottom",
                xytext=(0, 4),
                textcoords="offset points",
                fontsize=8.5,
            )
        if results["untrained"]:
            panel.axhline(results["untrained"][metric], color="gray", linestyle="--", linewidth=1, zorder=4)
        panel.set_xticks(list(places), [v["label"].replace(" ", "\n").replace("+\n", "+ ") for v in variants], fontsize=8.5)
        panel.set_title(f"{study['title']}\n{CLAIMS[study['claim']]}:\n{study['verdict']}", fontsize=8.5)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(y=0.12)
    panels[0].set_ylabel(f"{metric}, percent; lines: 95 % interval of the mean", fontsize=8.5)
    panels[0].set_ylim(bottom=0)
    if results["untrained"]:
        inside = panels[0].get_yaxis_transform()  # x as a share of the panel's width
        panels[0].text(0.01, results["untrained"][metric], "untrained", transform=inside, fontsize=7.5, va="bottom", zorder=5)
    with replacing(path) as aside:
        figure.savefig(aside, format="png")
