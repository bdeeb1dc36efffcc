"""Reads vectors in the form that mining needs: those of all signals of a shard, in one order, and of one model only.

Cost: :func:`mmret.encode.vectors.read_vectors` for each signal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mmret.encode.vectors import read_vectors
from mmret.errors import UserError
from mmret.lake import Facts, Lake
from mmret.mine.candidates import ShardVectors
from mmret.schemas import SIGNALS

READERS = 16
K, T = TypeVar("K"), TypeVar("T")


def shard_vectors(lake: Lake, shard: str, signals: Iterable[str] = SIGNALS) -> ShardVectors:
    """All signals' vectors of a shard, in position order."""
    read = {signal: read_vectors(lake, shard, signal) for signal in signals}
    ids = next(iter(read.values()))[0]
    return ShardVectors(shard, ids, {signal: vectors for signal, (_, vectors) in read.items()})


def at_once(lake: Lake, read: Callable[[K], T], each: Iterable[K]) -> list[T]:
    """``read`` of ``each``, in their order; of a lake on an object store sixteen at a time, since each waits for the network."""
    if lake.storage.is_local:
        return [read(one) for one in each]
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, each))


def check_one_model(lake: Lake, shards: Collection[str], signals: Iterable[str]) -> dict[str, dict[str, Facts]]:
    """By signal and shard what is recorded of the vectors, where there are any. Raises UserError where two shards' vectors of one
    signal come from different models: their cosines mean nothing."""
    found = {}
    for signal in signals:
        facts = at_once(lake, lambda shard, signal=signal: lake.facts(signal, shard), shards)
        found[signal] = {shard: of_shard for shard, of_shard in zip(shards, facts, strict=True) if of_shard}
    for signal, vectors in found.items():
        models = {s: facts.notes["model"] for s, facts in vectors.items()}
        if len(set(models.values())) > 1:
            (one, first), *others = models.items()
            other, second = next((s, m) for s, m in others if m != first)
            raise UserError(
                f"{signal}: {one} was encoded by {first}, {other} by {second}; the weights were changed in place: "
                f"delete {lake.storage.shown(signal)} and run again, and every shard is encoded by today's"
            )
    return found


def select_images(shard: ShardVectors, ids: Iterable[str]) -> ShardVectors:
    """``shard`` reduced to the images ``ids``."""
    place = {name: at for at, name in enumerate(shard.ids)}
    ids = list(ids)
    rows = [place[name] for name in ids]
    return ShardVectors(shard.shard, ids, {signal: vectors[rows] for signal, vectors in shard.vectors.items()})
