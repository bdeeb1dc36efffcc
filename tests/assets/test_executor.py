"""The executor is the run's choice: its configuration, MMRET_EXECUTOR when it starts, a deployment's file, else one process."""

import os

import dagster as dg
import pytest

from assets.executor import FILE, chosen, dagsters_own, executor
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
    assert chosen(None) == {"multiprocess": {}}
    found = dagsters_own("multiprocess", {})["multiprocess"]
    assert found["max_concurrent"] == 2 and "assets.definitions" in found["start_method"]["forkserver"]["preload_modules"]


def test_a_step_of_its_own_process_where_the_run_says_so():
    choice = {"execution": {"config": {"multiprocess": {"max_concurrent": 1}}}}
    with dg.instance_for_test() as instance:
        with dg.execute_job(dg.reconstructable(one_step), instance=instance, run_config=choice) as run:
            assert run.success and run.output_for_node("process") != os.getpid()


def test_the_configuration_of_the_run_comes_first(monkeypatch, tmp_path):
    assert chosen({"multiprocess": {"max_concurrent": 3}}) == {"multiprocess": {"max_concurrent": 3}}
    monkeypatch.setenv("MMRET_EXECUTOR", "multiprocess")
    (tmp_path / FILE).write_text("ray: {address: http://head:8265}")
    assert chosen({"in_process": {}}, str(tmp_path)) == {"in_process": {}}


def test_a_file_of_the_deployment_decides_for_runs_that_say_nothing(monkeypatch, tmp_path):
    (tmp_path / FILE).write_text("ray: {address: http://head:8265, stages: {images: {memory: 4}}}")
    ray = {"address": "http://head:8265", "stages": {"images": {"memory": 4}}}
    assert chosen(None, str(tmp_path)) == {"ray": ray}
    monkeypatch.setenv("MMRET_EXECUTOR", "in_process")
    assert chosen(None, str(tmp_path)) == {"in_process": {}}
    monkeypatch.setenv("MMRET_EXECUTOR", "ray")
    assert chosen(None, str(tmp_path)) == {"ray": ray}


def test_the_file_that_comes_along_is_one_of_the_choices(tmp_path):
    from tests.conftest import CHECKOUT

    (tmp_path / FILE).write_text((CHECKOUT / "dagster_home" / "executor.ray.yaml").read_text())
    assert chosen(None, str(tmp_path)).keys() == {"ray"}


@pytest.mark.parametrize(
    ("text", "said"),
    [("ray: {adress: x}", "ray has no option adress; it has address"), ("slurm: {}", "one of in_process"), ("ray: [", "expected")],
)
def test_a_file_that_is_none_of_the_choices_is_refused(tmp_path, text, said):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=said):
        chosen(None, str(tmp_path))


def test_a_name_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("MMRET_EXECUTOR", "threads")
    with pytest.raises(UserError, match="MMRET_EXECUTOR=threads: choose one of in_process, multiprocess, ray"):
        chosen(None)


def test_a_launchpad_takes_a_cluster_with_its_options():
    choice = {"ray": {"address": "http://head:8265", "gpus": "always", "env": ["HF_HOME"], "stages": {"images": {"cores": 4.0}}}}
    found = dg.validate_run_config(one_step, {"execution": {"config": choice}})["execution"]
    assert next(iter(found.values()))["ray"]["gpus"] == "always"
    with pytest.raises(dg.DagsterInvalidConfigError, match="adress"):
        dg.validate_run_config(one_step, {"execution": {"config": {"ray": {"adress": "x"}}}})
