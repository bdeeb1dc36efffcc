"""Pictures of a card: histograms and thumbnails of sample triplets. A figure takes about a second, a thumbnail a millisecond."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from mmret.export.card_facts import SCORE_BINS, LakeFacts
from mmret.ingest.pictures.decode import open_rgb

SIDE = 128  # pixels of a thumbnail
_INK, _BAR = "#57606a", "#4078c0"
_TITLES = {"clip_image": "CLIP image similarity", "dino_image": "DINOv2 similarity", "caption": "caption similarity"}


def thumbnail(data: bytes, side: int = SIDE) -> bytes:
    """PNG (small pictures, drawings) or JPEG, whichever is smaller, at most ``side`` pixels wide and high, on white."""
    picture = open_rgb(data)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    files = []
    for format_, options in (("PNG", {"optimize": True}), ("JPEG", {"quality": 85})):
        out = io.BytesIO()
        picture.save(out, format_, **options)
        files.append(out.getvalue())
    return min(files, key=len)


def histograms(facts: LakeFacts) -> bytes:
    """One PNG: the scores of the pairs by the signal that found them, words per instruction, sides of the pictures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3).flat
    for signal, counts in facts.scores.items():
        _bars(next(axes), [low + 0.5 / SCORE_BINS for low, _ in counts], [n for _, n in counts], 0.9 / SCORE_BINS, _TITLES[signal])
    longest = 40
    words: dict[int, int] = {}
    for count, n in facts.words:
        words[min(count, longest)] = words.get(min(count, longest), 0) + n
    _bars(next(axes), list(words), list(words.values()), 0.9, "words per instruction")
    _sides(next(axes), facts.sides)
    found: dict[str, int] = {signal: sum(n for _, n in counts) for signal, counts in facts.scores.items()}
    _bars(last := next(axes), list(range(len(found))), list(found.values()), 0.6, "triplets found by")
    last.set_xticks(range(len(found)), [s.replace("_image", "") for s in found])
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130, metadata={"Software": None})
    return out.getvalue()


def _sides(axis: Any, sides: list[tuple[int, int]]) -> None:
    """Longer sides in pixels, in powers of two, since they span orders of magnitude."""
    bins: dict[int, int] = {}
    for side, n in sides:
        bins[int(side).bit_length() - 1] = bins.get(int(side).bit_length() - 1, 0) + n
    powers = list(range(min(bins, default=0), max(bins, default=0) + 1))
    _bars(axis, list(range(len(powers))), [bins.get(p, 0) for p in powers], 0.8, "longer side, pixels")
    axis.set_xticks(range(len(powers)), [f"{2**p}+" for p in powers])


def _bars(axis: Any, at: list[float], heights: list[int], width: float, title: str) -> None:
    axis.bar(at, heights, width, color=_BAR)
    axis.set_title(title, fontsize=10, color="#1d2329", loc="left")
    axis.tick_params(labelsize=8, colors=_INK, length=2)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.locator_params(axis="y", nbins=4)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#d0d7de")
    if not heights or not sum(heights):
        axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", color=_INK)
