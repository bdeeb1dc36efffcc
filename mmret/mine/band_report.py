"""What the band does to a corpus: scores, neighbours and agreement of the signals, as numbers and as one small picture.

Cost: one pass over the neighbours, a shard in memory at a time; the numbers are counts, so shards add up.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.schemas import SIGNALS
from mmret.settings import BandSettings

BINS = 40  # of the histograms, from the band's low end to 1


def report(neighbours: Iterable[pa.Table], bands: Mapping[str, BandSettings], images: int, k: int) -> dict[str, Any]:
    """JSON-ready numbers from neighbour tables (schema ``NEIGHBOURS``, each image's rows in one table) of ``images``
    images.

    ``signals``: per signal the band; ``edges`` (BINS + 1,) and ``counts`` (BINS,) of the scores; neighbours
    ``in_band`` and ``above_band`` and ``share_in_band`` of both; ``images_with_neighbours`` as a share;
    ``full_lists``, the share of images that have ``k`` (more of them lie in the band than are kept); the ``median``
    and ``mean`` per image. ``overlap``: distinct (query, target) in the band by the set of signals that found them,
    keys such as ``"clip_image+caption"``. ``pairs``: their sum.
    """
    tally = {s: _Tally(bands[s]) for s in SIGNALS if s in bands}
    sets = np.zeros(1 << len(SIGNALS), np.int64)
    for table in neighbours:
        inside = table.filter(pc.invert(table["above_band"]))
        for signal, counts in tally.items():
            counts.add(table.filter(pc.equal(table["signal"], signal)))
        sets += _sets(inside)
    names = {
        "+".join(s for at, s in enumerate(SIGNALS) if bits >> at & 1): int(sets[bits])
        for size in range(1, len(tally) + 1)
        for bits in _masks(tally, size)
    }
    return {
        "images": images,
        "k": k,
        "pairs": int(sets.sum()),
        "overlap": names,
        "signals": {signal: counts.numbers(images, k) for signal, counts in tally.items()},
    }


def _masks(tally: Mapping[str, object], size: int) -> list[int]:
    return [sum(1 << SIGNALS.index(s) for s in chosen) for chosen in combinations(tally, size)]


class _Tally:
    def __init__(self, band: BandSettings):
        self.band = band
        self.edges = np.linspace(band.low, max(1.0, band.high), BINS + 1)
        self.counts = np.zeros(BINS, np.int64)
        self.above = 0
        self.per_image: list[np.ndarray] = []

    def add(self, rows: pa.Table) -> None:
        above = rows["above_band"].to_numpy()
        scores = np.clip(rows["score"].to_numpy(), self.edges[0], self.edges[-1])  # float16 may exceed one by a hair
        self.counts += np.histogram(scores, self.edges)[0]
        self.above += int(above.sum())
        queries = rows["query_id"].filter(pa.array(~above))
        self.per_image.append(pc.value_counts(queries).field("counts").to_numpy())

    def numbers(self, images: int, k: int) -> dict[str, Any]:
        per_image = np.concatenate([np.zeros(0, np.int64), *self.per_image])
        inside = int(per_image.sum())
        everyone = np.append(per_image, np.zeros(max(0, images - len(per_image)), np.int64))
        return {
            "low": self.band.low,
            "high": self.band.high,
            "edges": self.edges.round(5).tolist(),
            "counts": self.counts.tolist(),
            "in_band": inside,
            "above_band": self.above,
            "share_in_band": inside / max(1, inside + self.above),
            "images_with_neighbours": len(per_image) / max(1, images),
            "full_lists": float((per_image >= k).sum() / max(1, images)),
            "median": float(np.median(everyone)) if len(everyone) else 0.0,
            "mean": inside / max(1, images),
        }


def _sets(inside: pa.Table) -> np.ndarray:
    """How many distinct pairs each set of signals found, indexed by the bits of the set."""
    if not inside.num_rows:
        return np.zeros(1 << len(SIGNALS), np.int64)
    ids = pa.chunked_array([*inside["query_id"].chunks, *inside["target_id"].chunks])
    ids = ids.combine_chunks().dictionary_encode()
    one, other = np.split(ids.indices.to_numpy().astype(np.int64), 2)
    bits = 1 << pc.index_in(inside["signal"], value_set=pa.array(SIGNALS)).to_numpy().astype(np.int64)
    _, pair = np.unique(one * len(ids.dictionary) + other, return_inverse=True)
    found = np.bincount(pair, weights=bits).astype(np.int64)  # a signal finds a pair once, so adding bits sets them
    return np.bincount(found, minlength=1 << len(SIGNALS))


def plot(numbers: Mapping[str, Any]) -> bytes:
    """A PNG under 30 kB of a :func:`report`: per signal the scores and the band, then the agreement of the signals."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    signals = numbers["signals"]
    with matplotlib.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        width = 3.0 * (len(signals) + 1)
        figure = Figure(figsize=(width, 2.8), dpi=100)  # margins in inches: having them worked out draws everything twice
        figure.subplots_adjust(left=0.6 / width, right=1 - 0.15 / width, bottom=0.27, top=0.88, wspace=0.42)
        axes = figure.subplots(1, len(signals) + 1, squeeze=False)[0]
        for axis, (signal, of) in zip(axes, signals.items(), strict=False):
            edges = np.array(of["edges"])
            axis.axvspan(of["low"], of["high"], color="#dbe9f6", zorder=0)
            inside = edges[:-1] < of["high"] - 1e-6
            for chosen, colour in ((inside, "#3574b0"), (~inside, "#9aa5b1")):
                axis.stairs(np.where(chosen, of["counts"], 0), edges, fill=True, color=colour)
            axis.set(
                title=f"{signal}  ({of['low']:g}, {of['high']:g})",
                xlim=(edges[0], edges[-1]),
                ylim=(0, 1.05 * max(*of["counts"], 1)),
                ylabel="neighbours" if axis is axes[0] else "",
                xlabel="cosine similarity\n"
                f"{of['images_with_neighbours']:.0%} of images have neighbours in the band\n"
                f"median {of['median']:g} (at most {numbers['k']}), {of['above_band']:,} above it",
            )
            axis.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
        overlap = {name.replace("_image", "").replace("+", " + "): count for name, count in numbers["overlap"].items()}
        bars = axes[-1].barh(list(overlap), list(overlap.values()), color="#d9822b")
        axes[-1].bar_label(bars, [f"{count / max(1, numbers['pairs']):.1%}" for count in overlap.values()], padding=2)
        axes[-1].invert_yaxis()
        axes[-1].margins(x=0.2)
        axes[-1].set(title=f"found by ({numbers['pairs']:,} pairs)")
        axes[-1].ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
        left, bottom, wide, high = axes[-1].get_position().bounds
        axes[-1].set_position((left + 0.6 / width, bottom, wide - 0.6 / width, high))  # its labels are long
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    small = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(48).save(small, "PNG", optimize=True)
    return small.getvalue()
