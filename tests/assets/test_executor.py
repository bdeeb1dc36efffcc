"""The executor is the run's choice: its configuration first, then MMRET_EXECUTOR when it starts, else one process."""

import dagster as dg
import pytest

from assets.executor import executor


@dg.job(executor_def=executor)
def nothing() -> None: ...


def chosen(run: dict | None, monkeypatch: pytest.MonkeyPatch, variable: str | None = None) -> dict:
    """The configuration of Dagster's executor that a run gets."""
    from dagster import validate_run_config

    if variable is None:
        monkeypatch.delenv("MMRET_EXECUTOR", raising=False)
    else:
        monkeypatch.setenv("MMRET_EXECUTOR", variable)
    execution = {"execution": {"config": run}} if run else {}
    found = validate_run_config(nothing, execution)["execution"]
    return next(iter(found.values()))["config"]


def test_a_run_that_says_nothing_is_one_process(monkeypatch):
    assert list(chosen(None, monkeypatch)) == ["in_process"]


def test_the_environment_of_the_process_that_starts_it_decides_for_a_run_that_says_nothing(monkeypatch):
    found = chosen(None, monkeypatch, "multiprocess")
    assert found["multiprocess"]["max_concurrent"] == 2 and "forkserver" in found["multiprocess"]["start_method"]


def test_the_configuration_of_the_run_comes_first(monkeypatch):
    assert chosen({"multiprocess": {"max_concurrent": 3}}, monkeypatch)["multiprocess"]["max_concurrent"] == 3
    assert list(chosen({"in_process": {}}, monkeypatch, "multiprocess")) == ["in_process"]


def test_a_name_that_is_none_is_refused(monkeypatch):
    with pytest.raises(Exception, match="config mapping function") as refused:
        chosen(None, monkeypatch, "threads")
    assert "choose in_process or multiprocess" in str(refused.value.__cause__)
