"""Reads vectors in the form that mining needs: those of all signals of a shard, in one order, and of one model only.

Cost: :func:`mmret.encode.vectors.read_vectors` for each signal.
"""

from __future__ import annotations

from collections.abc import Iterable

from mmret.encode.vectors import read_vectors
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.mine.candidates import ShardVectors
from mmret.schemas import SIGNALS


def shard_vectors(lake: Lake, shard: str, signals: Iterable[str] = SIGNALS) -> ShardVectors:
    """All signals' vectors of a shard, in position order."""
    read = {signal: read_vectors(lake, shard, signal) for signal in signals}
    ids = next(iter(read.values()))[0]
    return ShardVectors(shard, ids, {signal: vectors for signal, (_, vectors) in read.items()})


def check_one_model(lake: Lake, shards: Iterable[str], signals: Iterable[str]) -> None:
    """Raise UserError where two shards' vectors of one signal come from different models: their cosines mean nothing."""
    for signal in signals:
        models = {s: facts.notes["model"] for s in shards if (facts := lake.facts(signal, s))}
        if len(set(models.values())) > 1:
            (one, first), *others = models.items()
            other, second = next((s, m) for s, m in others if m != first)
            raise UserError(
                f"{signal}: {one} was encoded by {first}, {other} by {second}; the weights were changed in place: "
                f"delete {lake.storage.shown(signal)} and run again, and every shard is encoded by today's"
            )


def select_images(shard: ShardVectors, ids: Iterable[str]) -> ShardVectors:
    """``shard`` reduced to the images ``ids``."""
    place = {name: at for at, name in enumerate(shard.ids)}
    ids = list(ids)
    rows = [place[name] for name in ids]
    return ShardVectors(shard.shard, ids, {signal: vectors[rows] for signal, vectors in shard.vectors.items()})
