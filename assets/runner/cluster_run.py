"""`mmret run --on ray`: what is missing or stale, as :mod:`assets.runner.run` finds it, with the steps on the nodes of a cluster.

Sources are listed and checks made by this process; every other step is a Ray job. A shard is the unit of failure: where a node is
lost its steps are tried again elsewhere, and a launch that fails leaves what other shards have finished.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from assets.cluster.launching import OnRay, cluster_instance
from assets.display import live
from assets.runner.launched import Launched
from assets.runner.run import OnStage, Runner
from assets.runner.several import Unit, in_flight, order
from mmret.freshness.outcome import Outcome
from mmret.freshness.survey import Snapshot
from mmret.ingest.enough import check_enough
from mmret.lake.lease import Lease
from mmret.settings import Profile
from mmret.stages import STAGES, UNPARTITIONED, assets_of


class Watcher(Protocol):
    """Hears of launches, several at once. A runner's ``on_stage`` says that one began."""

    def moved(self, stage: str, partition: str | None, done: int, total: int | None, note: str) -> None:
        """``done`` of ``total`` units of a stage's loop are finished."""

    def ended(self, stages: Sequence[str], partition: str | None) -> None:
        """A launch is over, well or not."""


class ClusterRunner(Runner):
    """Launches runs whose steps are jobs of the Ray cluster at ``address`` (None: RAY_ADDRESS); ``watcher`` hears how far they are.

    Raises UserError where the cluster or the database of its history cannot be reached.
    """

    def __init__(self, lease: Lease, profile: Profile, on_stage: OnStage, watcher: Watcher, address: str | None = None):
        super().__init__(lease, profile, on_stage)
        self.watcher, self.ray = watcher, OnRay(self.instance, address)
        self._begun: dict[Unit, tuple[tuple[str, ...], float]] = {}
        self._said: dict[tuple[str, str], Any] = {}
        self._now: Snapshot | None = None
        self.ray.stop_jobs_of(self.abandoned)

    def _open_instance(self) -> Any:
        return cluster_instance(self.lake)

    def run(self, until: str | None = None, forget_missing: bool = False, check: bool = False) -> Outcome:
        try:
            return super().run(until, forget_missing, check)
        finally:
            self.ray.close()

    def _bring_up_to_date(self, group: Sequence[str]) -> None:
        keys = self._partitions(group[0])
        self._group, self._launches, self._now = order(group, keys, self.profile), 0, None
        in_flight(self._group, self.ray.at_once, self)

    def to_do(self, unit: Unit) -> Sequence[str]:
        # what it reads can only have changed by a launch that has ended since
        self._now = self._now or Snapshot(self.lake)
        return self.stale(unit.stages, unit.partition or UNPARTITIONED, self._now)

    def submit(self, unit: Unit, stages: Sequence[str]) -> Future[Launched]:
        self.lease.check()
        if not self._launches and "images" not in unit.stages:
            check_enough(self.lake)
        self._launches += 1
        self.on_stage(list(stages), unit.partition, self._launches - 1, len(self._group))
        live.forget(self.instance, self._lake, stages, unit.partition or UNPARTITIONED)
        self._begun[unit] = tuple(stages), time.monotonic()
        return self.ray.submit(assets_of(stages), unit.partition, self._tags(), self._lake)

    def over(self, unit: Unit, stages: Sequence[str], future: Future[Launched]) -> None:
        _, began = self._begun.pop(unit)
        self._now = None
        self.watcher.ended(stages, unit.partition)
        self.take_note(stages, unit.partition, future.result(), time.monotonic() - began)

    def meanwhile(self) -> None:
        """Hand on what steps have said of how far they are."""
        of = [(stage, unit.partition or UNPARTITIONED) for unit, (stages, _) in self._begun.items() for stage in stages]
        for (stage, partition), said in live.published(self.instance, self._lake, of).items():
            if self._said.get((stage, partition)) != said:
                self._said[stage, partition] = said
                self.watcher.moved(stage, None if STAGES[stage].partitions == "whole" else partition, *said)

    def stop(self) -> None:
        self.ray.stop()

    @property
    def _lake(self) -> str:
        """What the lake is called among the runs of its Dagster instance."""
        return self._tags()["mmret/lake"]
