"""The quality of a shard's texts as one picture for the Dagster UI: lengths, variety, and what each half of a query finds alone.

About 25 kB of PNG and half a second, most of it matplotlib's import.
"""

from __future__ import annotations

import io
from typing import Any

_INK, _BAR, _LIMIT = "#333333", "#4c78a8", "#d62728"


def quality_picture(quality: dict[str, Any], limits: dict[str, float]) -> bytes:
    """PNG of what :func:`mmret.annotate.quality.measure.measure` found; ``limits`` (fields of QualitySettings) are drawn as red
    marks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.6), dpi=80)  # margins by hand: an automatic layout would draw everything twice
    figure.subplots_adjust(left=0.1, right=0.98, bottom=0.04, top=0.94, hspace=0.32, wspace=0.26)
    FigureCanvasAgg(figure)
    (instructions, descriptions), (found, variety) = figure.subplots(2, 2)
    for axes, key, name in (
        (instructions, "instruction_words", "words per instruction"),
        (descriptions, "description_words", "words per description"),
    ):
        histogram = quality[key]
        width = histogram["bins"][1] - histogram["bins"][0]
        axes.bar([b + width / 2 for b in histogram["bins"]], histogram["counts"], width * 0.92, color=_BAR)
        middle = f", median {histogram['p50']:.0f}" if "p50" in histogram else ""
        axes.set_title(name + middle, fontsize=9, color=_INK)
        axes.set_yticks([])
    redundancy = quality["redundancy"] or {}
    _shares(
        found,
        f"targets ranked first among {redundancy.get('candidates', 0):,} images and the negatives",
        [
            ("text alone", redundancy.get("text_alone"), limits["max_text_alone"]),
            ("image alone", redundancy.get("image_alone"), limits["max_image_alone"]),
            ("neither", redundancy.get("neither"), None),
        ],
    )
    _shares(
        variety,
        f"variety of {quality['texts']:,} texts, and what they tell of the source",
        [
            ("distinct-1", quality["distinct_1"], None),
            ("distinct-2", quality["distinct_2"], limits["min_distinct_2"]),
            ("distinct-3", quality["distinct_3"], None),
            ("repeated", quality["repeated"], None),
            ("leakage", quality["leakage"], limits["max_leakage"]),
        ],
    )
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _shares(axes: Any, title: str, bars: list[tuple[str, float | None, float | None]]) -> None:
    axes.barh(range(len(bars)), [value or 0 for _, value, _ in bars], color=_BAR)
    for at, (_, value, limit) in enumerate(bars):
        axes.text((value or 0) + 0.01, at, "not measured" if value is None else f"{value:.1%}", va="center", fontsize=8, color=_INK)
        if limit is not None:
            axes.vlines(limit, at - 0.4, at + 0.4, color=_LIMIT)
    axes.set(yticks=range(len(bars)), xlim=(0, 1.12), xticks=[])
    axes.set_yticklabels([name for name, _, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9, color=_INK)
