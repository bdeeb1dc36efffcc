"""The model of a run on several machines: what it has to say whatever the rates are; a run that it was fed with is predicted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.scale import BYTES, Cluster, Rate, Recorded, app, made_up, on_its_own_nodes, overhead_of, rates_of, simulate
from mmret.cli.run_work import Work
from mmret.settings import load_profile

PROFILE = load_profile("demo")
FREE = {"node_speed": float("inf"), "store_speed": float("inf"), "overhead": 0.0}


def shards(count: int, images: int = 1000) -> dict[str, int]:
    return {f"shard-{at:05d}": images for at in range(count)}


def work(stages: tuple[str, ...], count: int) -> Work:
    return Work(shards(count), {stage: dict.fromkeys(shards(count), False) for stage in stages})


def recorded(stages: dict[str, float], count: int) -> Recorded:
    """One node did all, step after step, each stage in its own seconds."""
    steps, at = [], 0.0
    for shard in shards(count):
        for stage, seconds in stages.items():
            steps.append((stage, shard, at, at + seconds))
            at += seconds
    return Recorded("demo", {}, shards(count), steps)


def test_a_run_is_predicted_by_its_own_rates_and_a_larger_one_of_equal_shards_too():
    run = recorded({"descriptions": 5.0, "instructions": 3.0}, 4)
    rates = rates_of(run)
    assert simulate(run.work(), PROFILE, Cluster(**FREE), rates).seconds == pytest.approx(run.seconds, rel=1e-6)
    larger = work(("descriptions", "instructions"), 12)
    assert simulate(larger, PROFILE, Cluster(**FREE), rates).seconds == pytest.approx(3 * run.seconds, rel=1e-6)


def test_nodes_share_out_shards_and_a_shard_s_own_steps_follow_each_other():
    todo, rates = work(("descriptions", "instructions"), 8), {"descriptions": Rate(1.0)}
    one, four, many = (simulate(todo, PROFILE, Cluster(n, **FREE), rates).seconds for n in (1, 4, 100))
    assert one == pytest.approx(4 * four) and one == pytest.approx(8 * many), "no faster than one shard's chain"
    assert simulate(todo, PROFILE, Cluster(1, cpus=4, **FREE), rates).seconds == pytest.approx(four)


def test_bytes_and_overheads_take_time():
    todo = work(("neighbours",), 4)
    quick = simulate(todo, PROFILE, Cluster(**FREE), {}).seconds
    assert simulate(todo, PROFILE, Cluster(**FREE | {"overhead": 7.0}), {}).seconds == pytest.approx(quick + 28)
    slow = simulate(todo, PROFILE, Cluster(**FREE | {"node_speed": 1e6}), {})
    assert slow.bytes_read == 4 * 1000 * BYTES["neighbours"]["image"]
    assert slow.seconds > quick + slow.bytes_read / 1e6 - 1e-6


def test_a_step_of_a_node_that_fails_is_done_again():
    todo, rates = work(("descriptions",), 40), {"descriptions": Rate(1000.0)}
    sound = simulate(todo, PROFILE, Cluster(4, **FREE), rates)
    failing = simulate(todo, PROFILE, Cluster(4, failures=2.0, **FREE), rates)
    assert sound.done_again == 0 < failing.done_again and failing.seconds > sound.seconds
    assert failing == simulate(todo, PROFILE, Cluster(4, failures=2.0, **FREE), rates), "by the seed alone"


def test_a_step_that_outlives_its_node_never_ends():
    assert simulate(
        work(("descriptions",), 2), PROFILE, Cluster(failures=2.0, **FREE), {"descriptions": Rate(1e5)}
    ).seconds == float("inf")


def test_candidates_read_every_earlier_shard_and_pairs_no_more_vectors_than_they_have_pairs():
    def read(stage: str, count: int) -> float:
        return simulate(work((stage,), count), PROFILE, Cluster(**FREE), {}).bytes_read / count

    assert read("candidates", 40) / read("candidates", 20) == pytest.approx(41 / 21)
    vectors = BYTES["pairs"]["image"] * 1000
    assert read("pairs", 40) - read("pairs", 20) == pytest.approx(20 * 1000 * BYTES["pairs"]["image of the lake"])
    assert read("pairs", 20) > vectors


def test_the_commands_predict_a_recorded_run_and_print_tables(tmp_path):
    run = tmp_path / "run.json"
    run.write_text(json.dumps(recorded({"descriptions": 2.0, "instructions": 4.0}, 3).__dict__))
    said = CliRunner().invoke(app, ["predict", str(run), "--rates", str(run), "--overhead", "0"])
    assert said.exit_code == 0 and abs(json.loads(said.stdout.splitlines()[0])["off"]) < 0.001
    assert set(made_up(PROFILE, 10**6, 50_000).to_do) >= {"images", "candidates", "neighbours", "pairs", "triplets", "leaks"}


def test_a_lake_s_history_has_the_steps_of_every_shard(small_lake, tmp_path, monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)  # of another lake, where one was opened in this process
    out = tmp_path / "run.json"
    said = CliRunner().invoke(app, ["record", "--lake", str(small_lake[0]), str(out)])
    assert said.exit_code == 0, said.output
    run = Recorded.read(out)
    assert sum(run.images.values()) == 180 and run.seconds > 0
    for stage in ("images", "clip_image", "candidates", "neighbours", "pairs", "triplets"):
        assert {partition for name, partition, *_ in run.steps if name == stage} == set(run.images), stage
    assert all(began <= ended for *_, began, ended in run.steps)


RECORDED = Path(__file__).parents[2] / "bench" / "recorded"


@pytest.mark.parametrize("name", ["one_node_4_shards", "two_nodes_4_shards"])
def test_the_overhead_of_a_step_is_that_by_which_a_recorded_run_is_predicted(name):
    run = Recorded.read(RECORDED / f"{name}.json")
    cluster = on_its_own_nodes(run, overhead_of(run))
    assert simulate(run.work(), run.settings(), cluster, rates_of(run)).seconds == pytest.approx(run.seconds, rel=1e-3)


def test_twelve_shards_on_two_nodes_are_predicted_by_four_within_a_fifth():
    four = Recorded.read(RECORDED / "two_nodes_4_shards.json")
    names = [f"shard-{at:05d}" for at in range(12)]
    to_do = {s: dict.fromkeys(names if len(parts) == 4 else parts, False) for s, parts in four.work().to_do.items()}
    twelve = Work(dict.fromkeys(names, 40), to_do, four.pictures_trained_on)
    said = simulate(twelve, four.settings(), on_its_own_nodes(four, overhead_of(four)), rates_of(four)).seconds
    assert said == pytest.approx(400.7, rel=0.2), "the run took 400.7 s"
