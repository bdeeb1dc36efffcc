"""How many pairs of a real lake survive when its corpus grows by a tenth: what stays need not be described again.

    python bench/survival.py --lake L [--grow 0.1] [--draws 5]

The lake is read, never written. Its images are cut anew: a random tenth (or the last one sealed) arrives as a shard of its
own after the others, which are mined before and after. Printed is the share of the old pairs that are chosen again, the
share whose hard negatives are also the same, and for comparison the share that survives if targets are drawn without
regard to what was there first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.mine.candidates import ShardVectors, candidates
from mmret.mine.choose import choose
from mmret.mine.lake_vectors import shard_vectors
from mmret.mine.merge import neighbours
from mmret.schemas import SIGNALS
from mmret.settings import BandSettings, MineSettings


def whole(lake: Lake) -> ShardVectors:
    shards = [shard_vectors(lake, s) for s in lake.shards()]
    vectors = {signal: np.concatenate([s.vectors[signal] for s in shards]) for signal in SIGNALS}
    return ShardVectors("all", [image_id for s in shards for image_id in s.ids], vectors)


def cut(corpus: ShardVectors, order: np.ndarray, cuts: list[int]) -> list[ShardVectors]:
    """The images in ``order``, cut into shards at ``cuts``."""
    return [
        ShardVectors(
            f"shard-{at:05d}", [corpus.ids[i] for i in order[a:b]], {signal: v[order[a:b]] for signal, v in corpus.vectors.items()}
        )
        for at, (a, b) in enumerate(zip(cuts[:-1], cuts[1:], strict=True))
    ]


def chosen(
    parts: list[ShardVectors], captions: dict[str, str], settings: MineSettings, bands: dict[str, BandSettings], sealed: bool
) -> dict[str, tuple[str, ...]]:
    """Pair ids with their hard negatives; ``sealed``: whether choosing knows which shard an image is of."""
    found = neighbours([candidates(p, parts[:at], settings, bands) for at, p in enumerate(parts)], settings.k)
    rows = [(i, captions[i], p.shard) for p in parts for i in p.ids]
    images = pa.table(dict(zip(("image_id", "caption", "shard"), map(list, zip(*rows, strict=True)), strict=True)))
    scoreless = {f"{s}_score": pa.float32() for s in SIGNALS}
    pairs, _ = choose(
        found,
        images if sealed else images.drop_columns("shard"),
        lambda p: pa.table({n: pa.nulls(p.num_rows, t) for n, t in scoreless.items()}),
        settings,
    )
    return dict(zip(pairs["pair_id"].to_pylist(), map(tuple, pairs["hard_negatives"].to_pylist()), strict=True))


def gate() -> dict[str, float | list[float]]:
    """Shares of the old pairs that stay when a tenth arrives, on made-up vectors; all else equal, they are the same every time."""
    from neighbours import CLUSTER, vectors

    count, dim = 1650, 64
    ids = [f"{at:032x}" for at in range(count)]
    corpus = ShardVectors("all", ids, {s: vectors(count, dim, at, count // CLUSTER) for at, s in enumerate(SIGNALS)})
    captions = {i: f"a picture of {at % 97} things" for at, i in enumerate(ids)}
    settings, bands = MineSettings(k=20), dict.fromkeys(SIGNALS, BandSettings())
    parts = cut(corpus, np.random.default_rng(0).permutation(count), [0, 750, 1500, count])
    shares = {}
    for sealed, name in ((True, "kept"), (False, "kept_without_regard_to_shards")):
        before, after = (chosen(p, captions, settings, bands, sealed) for p in (parts[:-1], parts))
        shares[name] = len(before.keys() & after.keys()) / len(before)
    return {"old_pairs": len(before), **shares}


def main(
    lake: Annotated[Path, typer.Option(help="folder of a lake that has been mined")],
    grow: Annotated[float, typer.Option(help="images that arrive, as a share of those that were there")] = 0.1,
    draws: Annotated[int, typer.Option(help="random draws of what arrives")] = 5,
    shards: Annotated[int, typer.Option(help="equal shards of the old corpus")] = 2,
) -> None:
    """Measure and print one JSON object per draw."""
    store = Lake(lake)
    settings = resolve(store)[0].mine
    noted = store.facts("candidates", store.shards()[0]).notes["bands"]
    bands = {signal: BandSettings(low=low, high=high) for signal, (low, high) in noted.items()}
    images = store.read("images", columns=["image_id", "caption"]).to_pylist()
    captions = {row["image_id"]: row["caption"] for row in images}
    corpus = whole(store)
    count = len(corpus.ids)
    old = round(count / (1 + grow))
    orders = [
        ("last sealed", np.arange(count)),
        *((f"draw {n}", np.random.default_rng(n).permutation(count)) for n in range(draws)),
    ]
    for name, order in orders:
        cuts = [*np.linspace(0, old, shards + 1, dtype=int), count]
        parts = cut(corpus, order, cuts)
        shares = {}
        for sealed in (True, False):
            before, after = (chosen(p, captions, settings, bands, sealed) for p in (parts[:-1], parts))
            kept = before.keys() & after.keys()
            shares["pairs kept" if sealed else "kept without regard to shards"] = round(len(kept) / len(before), 4)
            if sealed:
                same = sum(before[pair] == after[pair] for pair in kept)
                shares |= {
                    "with the same hard negatives": round(same / len(before), 4),
                    "old pairs": len(before),
                    "pairs": len(after),
                }
        print(json.dumps({"arriving": name, "images": [old, count - old], **shares}), flush=True)


if __name__ == "__main__":
    typer.run(main)
