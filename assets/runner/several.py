"""Launches of one group of stages, several at once, each as soon as what it reads is there.

On one machine launches follow one another. On a cluster a shard waits for the shards that it reads and no others: `candidates` of
a shard begin when the vectors of all earlier ones are there, while later ones are still encoded. Costs a look at the lake per stage
and shard, to see what is current.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, NamedTuple, Protocol

from mmret.settings import Profile
from mmret.stage_declaration import Reads
from mmret.stages import STAGES, UNPARTITIONED, stage_of


class Unit(NamedTuple):
    """``stages`` of one partition, launched together; ``place`` of the stages in their group."""

    place: int
    stages: tuple[str, ...]
    partition: str | None


def chains(group: Sequence[str], keys: Sequence[str | None], profile: Profile) -> list[tuple[str, ...]]:
    """``group`` in parts, so that within a part no stage reads what another stage of it makes of another partition."""
    found: list[list[str]] = [[]]
    for stage in group:
        if any(r.scope != "same" and r.table in found[-1] for key in keys for r in reads_of(stage, key, profile)):
            found.append([])
        found[-1].append(stage)
    return [tuple(chain) for chain in found]


def reads_of(stage: str, key: str | None, profile: Profile) -> tuple[Reads, ...]:
    of = STAGES[stage]
    return (*of.reads, *of.conditional_reads(profile, key or UNPARTITIONED))


def order(group: Sequence[str], keys: Sequence[str | None], profile: Profile) -> dict[Unit, set[Unit]]:
    """Every unit of ``group`` and the units that have to end before it, those of earlier partitions first."""
    parts = chains(group, keys, profile)
    place = {table: n for n, part in enumerate(parts) for stage in part for table in STAGES[stage].tables}
    units = {(n, key): Unit(n, part, key) for key in keys for n, part in enumerate(parts)}
    found: dict[Unit, set[Unit]] = {}
    for (n, key), unit in units.items():
        before = {units[n - 1, key]} if n else set()
        for read in (r for stage in unit.stages for r in reads_of(stage, key, profile)):
            if read.table in place:
                before |= {units[place[read.table], other] for other in _read(read, key, keys)}
        found[unit] = before - {unit}
    return found


def _read(read: Reads, key: str | None, keys: Sequence[str | None]) -> Iterator[str | None]:
    """The partitions among ``keys`` that ``read`` names."""
    if stage_of(read.table).partitions == "whole":
        yield from (k for k in keys if k is None)
        return
    at = keys.index(key)
    by_scope = {"same": [key], "up_to": keys[: at + 1], "from": keys[at:], "named": [k for k in keys if k == read.via]}
    yield from by_scope.get(read.scope, keys)


class Launches(Protocol):
    """What :func:`in_flight` is to launch and whom it tells."""

    def to_do(self, unit: Unit) -> Sequence[str]:
        """Those of the stages of ``unit`` that there is anything to do for; none where all are current."""

    def submit(self, unit: Unit, stages: Sequence[str]) -> Future[Any]:
        """Begin a launch."""

    def over(self, unit: Unit, stages: Sequence[str], future: Future[Any]) -> None:
        """A launch has ended; raises where it failed."""

    def meanwhile(self) -> None:
        """Called each second."""

    def stop(self) -> None:
        """Make those that run give up, at Ctrl-C."""


def in_flight(waiting: dict[Unit, set[Unit]], at_once: int, launches: Launches) -> None:
    """Launch every unit when those before it have ended, up to ``at_once`` side by side.

    Where one fails, no other is begun, those that run are waited for, and the first error is raised.
    """
    waiting, ended = dict(waiting), set[Unit]()
    running: dict[Future[Any], tuple[Unit, Sequence[str]]] = {}
    failed: Exception | None = None
    try:
        while waiting or running:
            for unit in [unit for unit, before in waiting.items() if before <= ended]:
                if len(running) >= at_once:
                    break
                del waiting[unit]
                if stages := launches.to_do(unit):
                    running[launches.submit(unit, stages)] = unit, stages
                else:
                    ended.add(unit)
            if not running:
                if waiting and not any(before <= ended for before in waiting.values()):
                    raise RuntimeError(f"{next(iter(waiting))} waits for itself")
                continue
            over, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            launches.meanwhile()
            for future in over:
                unit, stages = running.pop(future)
                ended.add(unit)
                try:
                    launches.over(unit, stages, future)
                except Exception as error:
                    failed, waiting = failed or error, {}
    except BaseException:
        launches.stop()
        raise
    if failed:
        raise failed
