"""Steps on other machines: what an earlier try of a step still says, and who tries what again."""

import sys
from types import SimpleNamespace

import dagster as dg
import pytest

from assets.dagster_internals import step_delegation
from assets.dagster_internals.retries import LOST_NODE
from assets.dagster_internals.step_delegation import WatchedSteps


class Steps:
    name = "Steps"

    def __init__(self, *under_way):
        self.under_way, self.stopped = set(under_way), False

    def stop_all(self):
        self.stopped = True


def event(kind: str, key: str = "pairs") -> SimpleNamespace:
    return SimpleNamespace(step_key=key, **{f"is_step_{k}": k == kind for k in ("success", "failure", "up_for_retry")})


def heeded(steps: Steps, events: list, monkeypatch) -> list:
    monkeypatch.setattr(step_delegation.StepDelegatingExecutor, "_pop_events", lambda *_: events)
    return WatchedSteps(steps, 10)._pop_events(None, "run", set())


def test_the_first_end_of_a_step_counts_and_what_a_lost_try_says_later_does_not(monkeypatch):
    steps = Steps("pairs")
    first, late, other = event("success"), event("failure"), event("started")
    assert heeded(steps, [other, first, late], monkeypatch) == [other, first] and steps.under_way == set()
    assert heeded(steps, [late], monkeypatch) == []
    steps.under_way.add("pairs")  # tried again
    assert heeded(steps, [late], monkeypatch) == [late]


def test_whoever_follows_a_run_gives_up_when_the_process_that_launched_it_is_gone(monkeypatch):
    steps = Steps("pairs")
    executor = WatchedSteps(steps, 10)
    monkeypatch.setattr(step_delegation.os, "getppid", lambda: 1)
    executor._parent = 999
    with pytest.raises(dg.DagsterExecutionInterruptedError, match="^$"):
        executor._pop_events(None, "run", set())
    assert steps.stopped


def test_a_lost_node_is_tried_again_and_what_a_step_raised_is_not():
    assert bool(LOST_NODE) and LOST_NODE.max_retries == 3
    try:
        raise ValueError("x")
    except ValueError:
        assert sys.exc_info()[1] is not None and not LOST_NODE


def test_a_lake_or_a_history_out_of_reach_is_tried_again_by_every_stage():
    from mmret.storage import StorageUnreachable

    try:
        raise StorageUnreachable("s3://bucket cannot be reached")
    except StorageUnreachable:
        assert LOST_NODE


def test_every_stage_is_tried_again_when_its_node_is_lost_and_asks_for_what_the_table_states():
    from assets.definitions import defs
    from mmret.stages import stage_of

    for asset in defs.assets:
        table = asset.key.path[-1] if len(asset.keys) == 1 else sorted(asset.keys)[0].path[-1]
        assert asset.op.retry_policy and asset.op.retry_policy.max_retries >= 2, table
        assert f'"num_cpus": {stage_of(table).resources.cores}' in asset.op.tags["dagster-ray/config"], table


def test_a_step_that_fails_by_itself_runs_once():
    calls = []

    @dg.asset(retry_policy=LOST_NODE)
    def pairs() -> None:
        calls.append(1)
        raise ValueError("a mistake")

    with dg.DagsterInstance.ephemeral() as instance:
        assert not dg.materialize([pairs], instance=instance, raise_on_error=False).success
    assert calls == [1]
