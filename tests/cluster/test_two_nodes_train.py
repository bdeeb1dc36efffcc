"""Invariants: two training processes on two hosts have the loss curve of one process; one that is killed, or a whole host that is
lost, costs no bit of the weights, under torchrun and with Ray's workers. Root, minutes; figures by bench/two_nodes_train.py."""

from __future__ import annotations

import pytest

from bench.two_nodes_train import SUBNET, ZONE, Bench, named
from tests.cluster.namespaces import hosts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def machines():
    with hosts(ZONE, 2, SUBNET) as made, named(made):
        yield made


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("two_nodes"))


def assert_sound(found: dict) -> None:
    print(found)
    assert found["largest_difference_of_losses_to_one_process"] < 1e-4
    assert found["mean_difference_of_weights_to_one_process"] < 1e-4
    assert found["bit_equal_to_two_undisturbed"]


@pytest.mark.parametrize("recipe", ["sum", "ddp", "fsdp", "mllm"])
def test_two_hosts_under_torchrun_train_as_one_process_whatever_is_killed(bench, machines, recipe):
    assert_sound(bench.torchrun(machines, recipe))
    assert_sound(bench.torchrun(machines, recipe, kill=True))


def test_two_hosts_of_a_ray_cluster_train_as_one_process_whatever_is_lost(bench, machines):
    assert_sound(bench.by_ray(machines, "sum"))
    assert_sound(bench.by_ray(machines, "sum", kill=True))
