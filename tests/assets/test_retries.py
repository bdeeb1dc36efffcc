"""Only what may pass by itself is tried again."""

import dagster as dg
import httpx
import pytest

from assets.materialize import TRANSIENT, current_or_compute, is_transient
from mmret.errors import UserError
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
