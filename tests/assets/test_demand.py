"""What a step asks a cluster for: what its stage states, for the size of its shard, as far as the nodes have it."""

from types import SimpleNamespace

import pytest

from assets.cluster.demand import CHECKS, Options, demand
from assets.cluster.nodes import Asked, Nodes
from mmret.errors import UserError
from mmret.stages import STAGES, TABLE
from tests.freshness.empty_tables import SHARDS, current_lake

CPU = {"CPU": 2.0, "memory": 8 * 2**30}
GPU = {"CPU": 16.0, "GPU": 1.0, "memory": 64 * 2**30}


def nodes(*each: dict) -> Nodes:
    found = Nodes(None)
    found.each = lambda: list(each)
    return found


def run_of(first: str, last: str | None = None) -> SimpleNamespace:
    ends = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    return SimpleNamespace(tags=ends if last else {"dagster/partition": first})


@pytest.fixture
def lake(tmp_path, monkeypatch):
    monkeypatch.setenv("MMRET_LAKE", str(tmp_path / "lake"))
    lake = current_lake(tmp_path / "lake")
    sizes = dict(zip(SHARDS, (1_000, 5_000, 2_000), strict=True))
    real = type(lake).facts
    rows = lambda self, table, p: SimpleNamespace(rows=sizes[p]) if table == "corpus_manifest" else real(self, table, p)  # noqa: E731
    monkeypatch.setattr(type(lake), "facts", rows)
    return lake


def test_every_stage_states_cores_and_memory_that_grows_by_its_shard_or_by_the_lake_it_reads_whole():
    for stage in TABLE:
        needs = stage.resources
        assert needs.cores >= 1 and needs.memory.bytes(0, 0) >= 2**29, stage.name
        assert (needs.gpus > 0) == (stage.needs == "gpu"), stage.name
        if stage.partitions == "shard":
            assert needs.memory.image > 0 and needs.memory.of_lake == 0, f"{stage.name}: bounded by its shard"
        assert needs.memory.bytes(100_000, 0) < 8 * 2**30, f"{stage.name}: a shard of 100,000 fits a small node"


def test_memory_is_that_of_the_shard_and_of_the_largest_where_a_run_has_several(lake):
    per_image = STAGES["pairs"].resources.memory.image
    small, large = (demand("pairs", run_of(shard), Options(), nodes(CPU)).memory for shard in SHARDS[:2])
    assert large - small == 4_000 * per_image
    assert demand("pairs", run_of(SHARDS[0], SHARDS[2]), Options(), nodes(CPU)).memory == large
    whole = demand("duplicates", SimpleNamespace(tags={}), Options(), nodes(CPU)).memory
    assert whole == STAGES["duplicates"].resources.memory.bytes(0, 8_000)


def test_gpus_are_asked_for_where_there_are_any_or_as_a_deployment_says(lake):
    step, run = "clip_image", run_of(SHARDS[0])
    assert demand(step, run, Options(), nodes(CPU)).gpus == 0 and demand(step, run, Options(), nodes(CPU, GPU)).gpus == 1
    assert demand(step, run, Options(gpus="always"), nodes(CPU)).gpus == 1
    assert demand(step, run, Options(gpus="never"), nodes(GPU)).gpus == 0
    assert demand("pairs", run, Options(gpus="always"), nodes(GPU)).gpus == 0


def test_no_step_asks_for_more_cores_than_the_largest_node_has(lake):
    assert demand("images", run_of(SHARDS[0]), Options(), nodes({"CPU": 1.0})).cores == 1
    assert demand("images", run_of(SHARDS[0]), Options(), nodes(CPU, GPU)).cores == STAGES["images"].resources.cores


def test_a_deployment_says_otherwise_for_a_stage_of_its_own_models(lake):
    options = Options.of({"stages": {"clip_image": {"cores": 8, "gpus": 2, "memory": 24}}, "address": None, "env": ["HF_HOME"]})
    assert demand("clip_image", run_of(SHARDS[0]), options, nodes(GPU)) == Asked(8, 2, 24 * 2**30)
    assert options.env == ("HF_HOME",) and options.check_every == 10


def test_checks_are_of_the_whole_lake(lake):
    asked = demand("checks_of_pairs", SimpleNamespace(tags={}), Options(), nodes(GPU))
    assert asked.memory == CHECKS.memory.bytes(0, 8_000)


def test_what_no_node_has_is_told_in_words():
    some = nodes(CPU, GPU)
    assert some.cannot_have(Asked(2, 0, 2**30)) == some.cannot_have(Asked(16, 1, 2**30)) == ""
    assert nodes().cannot_have(Asked(999, 9, 2**50)) == "", "of a cluster of which nothing is known nothing is said"
    too_much = Asked(1, 2, 2**30)
    assert "16 cores, 1 GPU and 64.0 GiB" in some.cannot_have(too_much) and str(too_much) == "1 cores, 2 GPU, 1.0 GiB of memory"


def test_a_step_that_only_drives_workers_holds_nothing_that_they_wait_for(lake):
    from mmret.lake.configuration import Configuration

    lake.write_configuration(Configuration({"profile": "demo", "overrides": {"recipes.demo.workers": 2}}, None))
    asked = demand("checkpoints", SimpleNamespace(tags={"dagster/partition": "demo"}), Options(gpus="always"), nodes(GPU))
    assert (asked.cores, asked.gpus) == (0, 0) and asked.memory > 0
    lake.write_configuration(Configuration({"profile": "demo", "overrides": {}}, lake.read_configuration().token))
    assert demand("checkpoints", SimpleNamespace(tags={"dagster/partition": "demo"}), Options(), nodes(GPU)).gpus == 1


def test_a_step_looks_at_its_own_shards_alone_unless_its_memory_grows_with_the_lake(lake, monkeypatch):
    looked, real = [], type(lake).facts
    monkeypatch.setattr(type(lake), "facts", lambda self, table, p: (looked.append(p), real(self, table, p))[1])
    demand("pairs", run_of(SHARDS[1]), Options(), nodes(CPU))
    assert looked == [SHARDS[1]]
    demand("duplicates", SimpleNamespace(tags={}), Options(), nodes(CPU))
    assert looked[1:] == list(SHARDS)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"gpus": "sometimes"}, "gpus is 'sometimes': one of where there are any, always, never"),
        ({"stages": {"clip_imag": {"cores": 2}}}, "stages has clip_imag, and there are corpus_manifest, "),
        ({"stages": {"clip_image": {"core": 2}}}, "stages.clip_image has core: 2; it takes numbers of cores, gpus and memory"),
        ({"stages": {"clip_image": {"memory": "24G"}}}, "stages.clip_image has memory: '24G'"),
        ({"check_every": 0}, "check_every is 0"),
        ({"env": [{"HF_HOME": "/models"}]}, "write variables as NAME or NAME=VALUE"),
        ({"address": {"env": "HEAD"}}, "write it as http://head:8265"),
    ],
)
def test_options_that_mean_nothing_are_refused_and_not_passed_over(config, said):
    with pytest.raises(UserError, match=said):
        Options.of(config)


def test_a_head_that_does_not_answer_at_first_is_asked_again_before_a_step_is_sent_without_a_gpu(monkeypatch):
    from assets.cluster import nodes as module

    answers = [OSError("busy"), OSError("busy"), [GPU], OSError("gone")]

    def alive(self):
        told = answers.pop(0)
        if isinstance(told, Exception):
            raise told
        return told

    monkeypatch.setattr(Nodes, "_alive", alive)
    monkeypatch.setattr(module, "_AGAIN_S", 0.0)
    found = Nodes(None)
    assert found.have_gpus() and len(answers) == 1
    found._asked_at = float("-inf")
    assert found.have_gpus() and not answers, "what was known holds while the head is away"
