"""When assets run by themselves: what the lake itself says is missing or stale, and training once enough is new.

Dagster's own conditions know events, not settings: a changed band would go unnoticed, and a new shard would fire every older one
(``any_deps_updated``) or none (``eager()`` and ``on_missing()`` ignore what was missing at their first evaluation). These
conditions ask :mod:`mmret.freshness.survey` instead, the same survey that plans `mmret run`: exact for growth, settings and models.
They are evaluated in the code server (``use_user_code_server``), once a tick for all assets: a Parquet footer per partition.
"""

from datetime import datetime
from functools import lru_cache

import dagster as dg
from dagster import AssetKey
from dagster._core.definitions.events import AssetKeyPartitionKey

from mmret.freshness.fingerprints import UNPARTITIONED
from mmret.freshness.survey import Snapshot, Status, due, new_pairs, recorded, survey
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.lake.lease import busy
from resources.lake import lake_folder

AC = dg.AutomationCondition


@lru_cache(maxsize=1)
def _surveyed(folder: str, _tick: datetime) -> list[Status]:
    """The state of every partition at this tick; nothing while `mmret run` is at work or no shard is sealed."""
    lake = Lake(folder)
    if busy(lake) or not lake.shards():
        return []
    return survey(lake, resolve(lake)[0])


def _subset(context: dg.AutomationContext, partitions: set[str]) -> dg.AutomationResult:
    key = context.key
    keys = {AssetKeyPartitionKey(key, None if p == UNPARTITIONED else p) for p in partitions}
    found = context.asset_graph_view.get_asset_subset_from_asset_partitions(key, keys, validate_existence=True)
    return dg.AutomationResult(context, found.compute_intersection(context.candidate_subset))


def _table(key: AssetKey) -> str:
    table = key.path[-1]
    return "images" if table == "rejects" else table


class Due(dg.AutomationCondition):
    """Missing or stale by the lake's own record, with everything it reads up to date or part of the same request."""

    @property
    def name(self) -> str:
        return "due"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        work = due(_surveyed(lake_folder(), context.evaluation_time), together=True)
        return _subset(context, {w.partition for w in work if _table(context.key) in w.tables})


class InLake(dg.AutomationCondition):
    """Current in the lake: computed by `mmret run`, or before this Dagster instance was made."""

    @property
    def name(self) -> str:
        return "current_in_lake"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        statuses = _surveyed(lake_folder(), context.evaluation_time)
        return _subset(context, {s.partition for s in statuses if s.table == _table(context.key) and s.state == "current"})


class EnoughNewPairs(dg.AutomationCondition):
    """A recipe of the profile's ``train`` whose data is settled and has grown by ``automation.new_pairs`` triplets."""

    @property
    def name(self) -> str:
        return "enough_new_pairs"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        lake = Snapshot(lake_folder())
        settled = [
            s.partition
            for s in _surveyed(lake_folder(), context.evaluation_time)
            if s.table == "checkpoints" and s.state != "current" and not s.waits_for
        ]
        profile = resolve(lake)[0] if settled else None
        return _subset(
            context,
            {recipe for recipe in settled if recipe in profile.train and new_pairs(lake, recipe) >= profile.automation.new_pairs},
        )


class NewCheckpoint(dg.AutomationCondition):
    """A checkpoint that its evaluation was not made from."""

    @property
    def name(self) -> str:
        return "new_checkpoint"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        lake = Snapshot(lake_folder())
        statuses = _surveyed(lake_folder(), context.evaluation_time)
        return _subset(context, {s.partition for s in statuses if s.table == "evaluations" and _unmeasured(lake, s.partition)})


def _unmeasured(lake: Lake, recipe: str) -> bool:
    checkpoint, evaluation = lake.facts("checkpoints", recipe), lake.facts("evaluations", recipe)
    if checkpoint is None or evaluation is None:
        return checkpoint is not None
    made_from = recorded(lake, evaluation.inputs) or {"upstream": {}}
    return made_from["upstream"].get("checkpoints", {}).get(recipe, [None])[0] != checkpoint.digest


def _quietly(condition: dg.AutomationCondition, label: str) -> dg.AutomationCondition:
    """Once, not while it runs, and not again after a failure: that waits for a person."""
    return (condition & ~AC.in_progress() & ~AC.execution_failed()).with_label(label)


def fill_missing() -> dg.AutomationCondition:
    """Every partition that is missing or stale, once what it reads is there; what the lake has already is only registered."""
    return _quietly(Due() | (InLake() & AC.missing()), "missing_or_stale")


def enough_new_pairs() -> dg.AutomationCondition:
    """Training waits for a threshold of new triplets (setting ``automation.new_pairs``)."""
    return _quietly(EnoughNewPairs(), "enough_new_pairs")


def new_checkpoint() -> dg.AutomationCondition:
    """Evaluation follows training."""
    return _quietly(NewCheckpoint(), "new_checkpoint")


CONDITIONS = {"towers": fill_missing(), "leaks": fill_missing(), "checkpoints": enough_new_pairs(), "evaluations": new_checkpoint()}
"""Of the assets that are not partitioned by shard."""
