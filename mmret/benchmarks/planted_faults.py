"""Plants faults into training triplets and knows them, so that what finds faults can be measured.

Three kinds: texts of another pair; another target, of another pair or, which is harder, of the same source; and hard negatives that
are right answers. Where the scenes of a ``shapes`` corpus are known, what is planted is wrong by their attributes, and a false
negative has all attributes of the target. Costs a pass over the triplets.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from mmret.benchmarks.edits import ATTRIBUTES
from mmret.lake import Lake

KINDS = ("text", "target", "same_source", "false_negative")
"""Wrong texts, targets of other pairs, targets of the same source, and hard negatives that are right."""
Scene = tuple[str, ...]


@dataclass
class Planted:
    """``triplets`` with faults in them; ``pairs``: the kind of fault by pair_id; ``negatives``: (pair_id, picture) of those that
    are right, whether planted or found there; ``planted_negatives``: those that were planted."""

    triplets: pa.Table
    pairs: dict[str, str] = field(default_factory=dict)
    negatives: set[tuple[str, str]] = field(default_factory=set)
    planted_negatives: set[tuple[str, str]] = field(default_factory=set)


def scenes_of(lake: Lake) -> dict[str, Scene]:
    """The attributes of each picture of a ``shapes`` corpus; none of another corpus."""
    images = lake.read("images", columns=["image_id", "extra"])
    found = {}
    for image_id, extra in zip(images["image_id"].to_pylist(), images["extra"].to_pylist(), strict=True):
        values = json.loads(extra) if extra else {}
        if all(isinstance(values.get(name), str) for name in ATTRIBUTES):
            found[image_id] = tuple(values[name] for name in ATTRIBUTES)
    return found


def plant(triplets: pa.Table, shares: Mapping[str, float], scenes: Mapping[str, Scene], seed: int = 0) -> Planted:
    """``triplets`` (columns of TRIPLETS) of which so large a share of split ``train`` has each kind of fault; a triplet has at most
    one of its texts or target. Of pictures that ``scenes`` leaves out another text or target is taken as wrong, and no false
    negative is planted. The same arguments give the same faults.

    >>> plant(lake.read("triplets"), {"text": 0.2}, scenes_of(lake)).pairs
    """
    rng, rows = np.random.default_rng(seed), triplets.to_pylist()
    train = np.array([at for at, row in enumerate(rows) if row["split"] == "train"], np.int64)
    before = [dict(row) for row in rows]
    done = Planted(triplets)
    order, start = rng.permutation(train), 0
    of_source = defaultdict(list)
    for at in train:
        of_source[rows[at]["query_id"]].append(int(at))
    for kind in ("text", "target", "same_source"):
        count = round(shares.get(kind, 0.0) * len(train))
        for at in order[start : start + count].tolist():
            others = of_source[rows[at]["query_id"]] if kind == "same_source" else train
            for other in rng.permutation(others)[:20].tolist() if len(others) < 64 else rng.choice(others, 20).tolist():
                if _is_fault(before[at], before[other], kind, scenes):
                    column = "texts" if kind == "text" else "target_id"
                    rows[at][column] = before[other][column]
                    done.pairs[rows[at]["pair_id"]] = kind
                    break
        start += count
    _plant_negatives(done, rows, rng.permutation(train), shares.get("false_negative", 0.0), scenes, rng)
    done.triplets = pa.Table.from_pylist(rows, triplets.schema)
    return done


def _is_fault(row: dict, other: dict, kind: str, scenes: Mapping[str, Scene]) -> bool:
    if kind == "text":
        if set(row["texts"]) & set(other["texts"]) or other["pair_id"] == row["pair_id"]:
            return False
        changes = _change(row, scenes), _change(other, scenes)
        return None in changes or changes[0] != changes[1]
    if other["target_id"] in (row["target_id"], row["query_id"]):
        return False
    shown = scenes.get(other["target_id"]), scenes.get(row["target_id"])
    return None in shown or shown[0] != shown[1]


def _change(row: dict, scenes: Mapping[str, Scene]) -> tuple[str | None, ...] | None:
    """The new value of each attribute that changes; None where a picture's are not known."""
    source, target = scenes.get(row["query_id"]), scenes.get(row["target_id"])
    if source is None or target is None:
        return None
    pairs = zip(source, target, strict=True)
    return tuple(None if before == after else after for before, after in pairs)


def _plant_negatives(
    done: Planted, rows: list[dict], order: np.ndarray, share: float, scenes: Mapping[str, Scene], rng: np.random.Generator
) -> None:
    alike = defaultdict(list)
    for image_id in sorted(scenes):
        alike[scenes[image_id]].append(image_id)
    for place, at in enumerate(order.tolist()):
        row = rows[at]
        if row["pair_id"] in done.pairs or row["target_id"] not in scenes:
            continue
        mined = [n for n in row["hard_negatives"] if n != row["query_id"]]
        right = [n for n in alike[scenes[row["target_id"]]] if n not in (row["query_id"], row["target_id"], *mined)]
        if place < share * len(order) and mined and right:
            old, new = mined[int(rng.integers(len(mined)))], right[int(rng.integers(len(right)))]
            row["hard_negatives"] = [new if n == old else n for n in row["hard_negatives"]]
            done.planted_negatives.add((row["pair_id"], new))
        done.negatives |= {
            (row["pair_id"], n) for n in row["hard_negatives"] if n != row["query_id"] and scenes.get(n) == scenes[row["target_id"]]
        }


def found(planted: Planted, verdicts: pa.Table) -> dict[str, float]:
    """Of the verdicts of one filter: ``precision`` (of what is dropped), ``recall`` (of all faults that it looks for), ``dropped``
    (share of what it looked at) and ``recall <kind>`` of each kind that was planted. Texts are counted one by one."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    right = dropped = 0
    rows: Sequence[dict] = verdicts.select(["pair_id", "text", "candidate_id", "verdict"]).to_pylist()
    for row in rows:
        key = (row["pair_id"], row["candidate_id"])
        if row["text"] is not None:
            kind = planted.pairs.get(row["pair_id"])
        elif row["pair_id"] in planted.pairs:
            continue  # whose target is wrong itself
        else:
            kind = "false_negative" if key in planted.negatives else None
        drop = row["verdict"] == "drop"
        dropped += drop
        if kind is not None:
            right += drop
            counts[kind][0] += drop
            counts[kind][1] += 1
            if key in planted.planted_negatives:
                counts["planted"][0] += drop
                counts["planted"][1] += 1
    every = [c for kind, c in counts.items() if kind != "planted"]
    hit, there = (sum(column) for column in zip(*every, strict=True)) if every else (0, 0)
    figures = {
        "precision": right / dropped if dropped else 1.0,
        "recall": hit / there if there else 1.0,
        "dropped": dropped / max(1, len(rows)),
    }
    return figures | {f"recall {kind}": counts[kind][0] / counts[kind][1] for kind in sorted(counts)}
