"""Only what may pass by itself is tried again."""

import os
import signal
import sys
import time

import dagster as dg
import httpx
import pytest

from assets.materialize import TRANSIENT, current_or_compute, is_transient
from mmret import interrupts
from mmret.errors import UserError
from mmret.interrupts import heard, listen
from mmret.lake.configuration import resolve


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (UserError("set mine.k"), False),
        (TypeError("x"), False),
        (KeyError("x"), False),
        (FileNotFoundError("x"), False),
        (TimeoutError(), True),
        (ConnectionRefusedError(), True),
        (httpx.ReadTimeout("x"), True),
    ],
)
def test_what_may_pass_is_tried_again_and_a_mistake_is_not(error, again):
    assert is_transient(error) is again


def test_a_history_that_is_out_of_reach_for_a_while_may_pass_and_a_full_disk_does_not():
    psycopg2 = pytest.importorskip("psycopg2", reason="the extra `postgres` is not installed")
    import sqlite3

    from sqlalchemy.exc import OperationalError

    cut_off = OperationalError("INSERT", {}, psycopg2.OperationalError("no route to host"))
    cut_off.__cause__ = cut_off.orig
    assert is_transient(cut_off) and is_transient(psycopg2.OperationalError("no route to host"))
    assert not is_transient(sqlite3.OperationalError("database or disk is full"))
    assert not is_transient(psycopg2.ProgrammingError("no such column"))


def test_a_full_gpu_may_pass():
    import torch

    assert is_transient(torch.OutOfMemoryError("x"))


@pytest.mark.parametrize(("error", "tries"), [(UserError("set mine.k to a number"), 1), (TimeoutError("the server is slow"), 2)])
def test_a_step_says_why_it_failed_and_is_run_as_often_as_it_makes_sense(lake, error, tries):
    lake.path("pairs", "shard-00000").unlink()
    calls = []

    def compute(*_):
        calls.append(1)
        raise error

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
    def pairs(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        current_or_compute(lake, resolve(lake)[0], "pairs", "shard-00000", compute)
        return dg.MaterializeResult()

    with dg.instance_for_test() as instance:
        result = dg.materialize([pairs], raise_on_error=False, instance=instance)
    assert not result.success and len(calls) == tries and TRANSIENT.max_retries == 2
    (event,) = [e for e in result.all_events if e.is_step_failure]
    assert str(error) in str(event.step_failure_data.error)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_step_that_would_be_tried_again_after_an_error(number):
    tries = []

    @dg.asset(retry_policy=TRANSIENT)
    def slow() -> None:
        tries.append(1)
        os.kill(os.getpid(), number)
        time.sleep(5)

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.unraisablehook
    try:
        with dg.DagsterInstance.ephemeral() as instance, pytest.raises(KeyboardInterrupt, match="^$"), heard():
            listen()
            dg.materialize([slow], instance=instance, raise_on_error=False)
    finally:
        interrupts._received.clear()
        sys.unraisablehook = hook
        for each, handler in before.items():
            signal.signal(each, handler)
    assert tries == [1]
