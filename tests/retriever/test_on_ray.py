"""Invariants: what a cluster needs and lacks is said in a sentence; a worker's mistake is the command's. Without Ray."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from mmret import ray_cluster
from mmret.cli import app
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.retriever.train import on_ray
from mmret.retriever.train.stage import TrainingJob
from mmret.settings import load_profile


@pytest.fixture
def no_ray(monkeypatch):
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)


def said(*words: str) -> str:
    done = CliRunner().invoke(app, ["train", *words])
    assert isinstance(done.exception, UserError), done.output
    return str(done.exception)


def test_a_cluster_without_the_library_is_one_sentence(tmp_path, no_ray):
    words = ("--lake", str(tmp_path), "--recipe", "demo", "--on", "ray", "--workers", "2")
    assert said(*words) == ("a Ray cluster needs the extra `cluster` (ray is not installed): uv pip install -e '.[cluster]'")


def test_what_does_not_go_together_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: "there")
    lake = ("--lake", str(tmp_path), "--recipe", "demo")
    assert "add --on ray" in said(*lake, "--workers", "2")
    assert "by how many processes? Add --workers N, or set recipes.demo.workers" in said(*lake, "--on", "ray")
    assert "--on slurm: `ray`, or `ray:`" in said(*lake, "--on", "slurm", "--workers", "2")
    assert "512 workers cannot share a batch" in said(*lake, "--on", "ray:10.0.0.1:6379", "--workers", "512")


@pytest.fixture
def unnamed(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def test_the_cluster_is_the_one_named_or_that_of_the_environment(monkeypatch, unnamed):
    assert ray_cluster.address_in("ray") is None and ray_cluster.address_in("ray:http://head:8265") == "http://head:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265")
    assert ray_cluster.address_to_join(None) == "http://head:8265"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # of a job of the cluster: its own
    assert ray_cluster.address_to_join(None) == "10.0.0.1:6379" and ray_cluster.address_to_join("auto") == "auto"


def test_no_cluster_is_joined_that_nobody_named(tmp_path, monkeypatch, unnamed):
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: "there")
    job = TrainingJob.of(Lake(tmp_path), load_profile("demo", {"recipes.demo.workers": 2}), "demo")
    with pytest.raises(UserError, match="which Ray cluster. Set RAY_ADDRESS .* ray:local begins one"):
        on_ray.train_on_ray(job)
    assert "which Ray cluster?" in said("--lake", str(tmp_path), "--recipe", "demo", "--on", "ray", "--workers", "2")


def test_a_step_of_a_machine_outside_the_cluster_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: "there")
    job = TrainingJob.of(Lake(tmp_path), load_profile("demo", {"recipes.demo.workers": 2}), "demo")
    with pytest.raises(UserError, match="no node of the cluster .* `mmret train --lake .* --on ray:http://head:8265`"):
        on_ray.train_on_ray(job, address="http://head:8265")


def test_the_mistake_of_a_worker_is_found_among_the_failures_of_the_others():
    mistake = SimpleNamespace(_base_exc=UserError("lower the rate"), _traceback_str="...")
    lost, fault = RuntimeError("actor died"), SimpleNamespace(_base_exc=KeyError("x"), __cause__=None)
    assert on_ray._mistake(SimpleNamespace(worker_failures={0: lost, 1: mistake})) == "lower the rate"
    assert on_ray._mistake(SimpleNamespace(worker_failures={0: lost, 1: fault})) is None
    assert on_ray._mistake(RuntimeError("the controller")) is None


def test_a_cluster_that_is_too_small_now_is_said(tmp_path):
    profile = load_profile("demo", {"recipes.demo.workers": 4, "recipes.demo.worker_cpus": 2})
    job = TrainingJob.of(Lake(tmp_path), profile, "demo")
    assert on_ray._wanted(job, {"CPU": 8.0}) == "training demo by 4 workers of 2 CPUs each"
    assert on_ray._wanted(job, {"CPU": 7.0}).endswith("the cluster has 7 CPUs in all, so this waits for more nodes")
    assert on_ray._wanted(job, {"CPU": 64.0, "GPU": 2.0}).endswith("has 64 CPUs and 2 GPUs in all, so this waits for more nodes")
