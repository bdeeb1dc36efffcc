"""Automation conditions: an asset runs by itself when the lake says it is missing or stale, training when enough pairs are new.

Dagster's own conditions know events, not settings: a changed band would go unnoticed, and a new shard would fire every older one
(``any_deps_updated``) or none (``eager()`` and ``on_missing()`` ignore what was missing at their first evaluation). These
conditions ask :mod:`mmret.freshness.survey` instead, the same survey that plans `mmret run`: exact for growth, settings and models.
They are evaluated in the code server (``use_user_code_server``), once a tick for all assets: a Parquet footer per partition.
"""

from datetime import datetime
from functools import lru_cache

import dagster as dg

from assets.dagster_internals.partition_subsets import partitions_result
from mmret.freshness.survey import Snapshot, Status, due, new_pairs, survey
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.lake.inputs import read_inputs
from mmret.lake.lease import is_leased
from mmret.stages import UNPARTITIONED, stage_of
from resources.lake import lake_folder

AC = dg.AutomationCondition


@lru_cache(maxsize=1)
def _survey_of_tick(folder: str, _tick: datetime) -> list[Status]:
    """The state of every partition at this tick; empty while `mmret run` is at work or no shard is sealed."""
    lake = Lake(folder)
    if is_leased(lake) or not lake.shards():
        return []
    return survey(lake, resolve(lake)[0])


def _result(context: dg.AutomationContext, partitions: set[str]) -> dg.AutomationResult:
    return partitions_result(context, [None if p == UNPARTITIONED else p for p in partitions])


def _stage(context: dg.AutomationContext) -> str:
    return stage_of(context.key.path[-1]).name


class Due(dg.AutomationCondition):
    """The partition is missing or stale in the lake, and all that it reads is current or part of the same request."""

    @property
    def name(self) -> str:
        return "due"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        work = due(_survey_of_tick(lake_folder(), context.evaluation_time), together=True)
        return _result(context, {w.partition for w in work if _stage(context) in w.tables})


class InLake(dg.AutomationCondition):
    """The partition is current in the lake, whoever computed it: `mmret run`, or an earlier Dagster instance."""

    @property
    def name(self) -> str:
        return "current_in_lake"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        statuses = _survey_of_tick(lake_folder(), context.evaluation_time)
        return _result(
            context, {s.partition for s in statuses if s.table == _stage(context) and s.state == "current" and s.applies}
        )


class EnoughNewPairs(dg.AutomationCondition):
    """A recipe in ``train`` whose triplets are up to date and at least ``automation.new_pairs`` more than at its last training."""

    @property
    def name(self) -> str:
        return "enough_new_pairs"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        lake = Snapshot(Lake(lake_folder()))
        settled = [
            s.partition
            for s in _survey_of_tick(lake_folder(), context.evaluation_time)
            if s.table == "checkpoints" and s.state != "current" and not s.waits_for
        ]
        profile = resolve(lake)[0] if settled else None
        return _result(
            context,
            {recipe for recipe in settled if recipe in profile.train and new_pairs(lake, recipe) >= profile.automation.new_pairs},
        )


class NewCheckpoint(dg.AutomationCondition):
    """The recipe has a checkpoint newer than its evaluation, or one that was never evaluated."""

    @property
    def name(self) -> str:
        return "new_checkpoint"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        lake = Snapshot(Lake(lake_folder()))
        statuses = _survey_of_tick(lake_folder(), context.evaluation_time)
        return _result(
            context, {s.partition for s in statuses if s.table == "evaluations" and _evaluation_is_behind(lake, s.partition)}
        )


def _evaluation_is_behind(lake: Lake, recipe: str) -> bool:
    checkpoint, evaluation = lake.facts("checkpoints", recipe), lake.facts("evaluations", recipe)
    if checkpoint is None or evaluation is None:
        return checkpoint is not None
    made_from = read_inputs(lake, evaluation.inputs) or {"upstream": {}}
    return made_from["upstream"].get("checkpoints", {}).get(recipe, [None])[0] != checkpoint.digest


def _once(condition: dg.AutomationCondition, label: str) -> dg.AutomationCondition:
    """``condition``, but requested once only: not while it runs, and not again after a failure, which waits for a person."""
    return (condition & ~AC.in_progress() & ~AC.execution_failed()).with_label(label)


def fill_missing() -> dg.AutomationCondition:
    """Compute partitions that are missing or stale once what they read is there; those the lake has are only registered."""
    return _once(Due() | (InLake() & AC.missing()), "missing_or_stale")


def enough_new_pairs() -> dg.AutomationCondition:
    """Training waits for a threshold of new triplets (setting ``automation.new_pairs``)."""
    return _once(EnoughNewPairs(), "enough_new_pairs")


def new_checkpoint() -> dg.AutomationCondition:
    """Evaluation follows training."""
    return _once(NewCheckpoint(), "new_checkpoint")


CONDITIONS: dict[str, dg.AutomationCondition | None] = {
    "first": None,
    "when missing or stale": fill_missing(),
    "after enough new pairs": enough_new_pairs(),
    "after a new checkpoint": new_checkpoint(),
}
"""The condition of a stage by its ``trigger`` in the stage table."""
