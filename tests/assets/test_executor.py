"""The executor is the run's choice: its configuration first, then MMRET_EXECUTOR when it starts, else one process."""

import os

import dagster as dg
import pytest

from assets.executor import chosen, executor
from mmret.errors import UserError


@dg.op
def process() -> int:
    return os.getpid()


@dg.job(executor_def=executor)
def one_step() -> None:
    process()


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv("MMRET_EXECUTOR", raising=False)


def test_a_run_that_says_nothing_is_one_process():
    assert chosen(None) == chosen({}) == {"in_process": {}}
    with dg.instance_for_test() as instance, dg.execute_job(dg.reconstructable(one_step), instance=instance) as run:
        assert run.success and run.output_for_node("process") == os.getpid()


def test_the_environment_when_it_starts_decides_for_a_run_that_says_nothing(monkeypatch):
    monkeypatch.setenv("MMRET_EXECUTOR", "multiprocess")
    found = chosen(None)["multiprocess"]
    assert found["max_concurrent"] == 2 and "assets.definitions" in found["start_method"]["forkserver"]["preload_modules"]


def test_the_configuration_of_the_run_comes_first(monkeypatch):
    assert chosen({"multiprocess": {"max_concurrent": 3}})["multiprocess"]["max_concurrent"] == 3
    monkeypatch.setenv("MMRET_EXECUTOR", "multiprocess")
    assert chosen({"in_process": {}}) == {"in_process": {}}


def test_a_name_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("MMRET_EXECUTOR", "threads")
    with pytest.raises(UserError, match="MMRET_EXECUTOR=threads: choose in_process or multiprocess"):
        chosen(None)
