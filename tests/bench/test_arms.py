"""Invariants of the comparison of arms: sharing what does not change alters no figure, no arm trains on the queries' own pairs,
equal time gives a dearer arm fewer steps, a run that is there is not repeated, and a wrong file is refused with the place."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import bench.arms.runs as runs
import bench.ingredients as ingredients
from bench.arms.plan import Plan, read_plan
from bench.arms.report import print_report
from bench.arms.runs import MeasuredLake
from bench.ingredients import Comparison
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.settings import load_profile

TWO = {"studies": [{"name": "two", "arms": [{"name": "base"}, {"name": "AdamW", "recipe": {"matrix_learning_rate": None}}]}]}


@pytest.fixture(scope="module")
def work(small_lake, tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("arms")
    shutil.copytree(small_lake[0], work / "words")
    return work


def short(lake: MeasuredLake, **change):
    settings = {"steps": 6, "batch_size": 16, "log_every": 2, "evaluate_every": None}
    return lake.profile.recipes["demo"].model_copy(update=settings | change)


@pytest.mark.parametrize("trainable", ["text+blocks", "text+projection"])
def test_what_runs_share_changes_no_figure(work, tmp_path, monkeypatch, trainable):
    lake = MeasuredLake(Lake(work / "words"), None, tmp_path)
    recipe = short(lake, trainable=trainable)
    found = lake.run(recipe, tmp_path / "run")
    assert found["seconds"] > 0 and found["step_seconds"] > 0 and len(list(tmp_path.glob("frozen-*.npy"))) == 1
    monkeypatch.setattr(MeasuredLake, "frozen", lambda self, recipe: None)
    alone = lake.run(recipe, tmp_path / "run")
    figures = ("R@1", "R@10", "image R@10", "text R@10", "paraphrase spread")
    assert {name: found[name] for name in figures} == {name: alone[name] for name in figures}


def test_the_queries_own_pairs_are_trained_on_by_no_arm(work, tmp_path):
    lake = MeasuredLake(Lake(work / "words"), None, tmp_path)
    whole = lake.job(short(lake), tmp_path / "out").rows()
    asked = frozenset(zip(whole["query_id"].to_pylist()[:5], whole["target_id"].to_pylist()[:5], strict=True))
    lake.asked = asked
    for change in ({}, {"pair_source": "naive", "pairs": 40, "negatives": "query"}):
        rows = lake.job(short(lake, **change), tmp_path / "out").rows()
        assert len(rows) and not asked & set(zip(rows["query_id"].to_pylist(), rows["target_id"].to_pylist(), strict=True))
    assert len(lake.job(short(lake), tmp_path / "out").rows()) == len(whole) - 5


def test_costs_are_ratios_to_the_first_in_turns(work, tmp_path, monkeypatch):
    lake, turns = MeasuredLake(Lake(work / "words"), None, tmp_path), []

    def train(self, recipe, out):
        turns.append(recipe.seed)
        out.mkdir()
        return {"seconds": 1.0, "step_seconds": [1.0, 3.0][recipe.seed] * (1 + len(turns))}

    monkeypatch.setattr(MeasuredLake, "train", train)
    costs = runs.step_costs([("a", lake, short(lake, seed=0)), ("b", lake, short(lake, seed=1))], tmp_path)
    assert turns == [0, 1] * runs._ROUNDS and costs["a"] == 1.0
    assert costs["b"] == np.median([3.0 * (2 * n + 3) / (2 * n + 2) for n in range(runs._ROUNDS)])


def test_equal_time_gives_a_dearer_arm_fewer_steps_and_no_run_is_repeated(work, monkeypatch, capsys):
    asked, measured = [], []

    def run(self, recipe, out):
        asked.append((recipe.seed, recipe.steps, recipe.matrix_learning_rate is None))
        return {"R@1": 1.0 + recipe.seed, "R@10": float(recipe.steps), "seconds": 2.0, "step_seconds": 0.1}

    monkeypatch.setattr(MeasuredLake, "run", run)
    monkeypatch.setattr(ingredients, "step_costs", lambda timed, folder: measured.append(timed) or {"base": 1.0, "AdamW": 0.8})
    plan = Plan.model_validate(TWO)
    comparison = Comparison(plan, work, None, 40)
    comparison.run(range(2), set())
    assert asked == [(0, 40, False), (0, 50, True), (1, 40, False), (1, 50, True)] and len(measured) == 1
    Comparison(plan, work, None, 40).run(range(3), {"base"})
    assert asked[4:] == [(2, 40, False)] and len(measured) == 1
    print_report(plan, comparison.rows(), ["R@10"])
    said = capsys.readouterr().out
    assert "| AdamW | 50 | 2 | 2 | 50.0 ± 0.0 | +10.00 | +10.00 to +10.00 | 2 of 2 | shown |" in said


def test_a_run_that_fails_is_kept_with_its_reason_and_stops_no_other(work, tmp_path, monkeypatch, capsys):
    def run(self, recipe, out):
        if recipe.seed == 1:
            raise UserError("training stopped")
        return {"R@10": 5.0 + recipe.seed, "seconds": 1.0}

    monkeypatch.setattr(MeasuredLake, "run", run)
    (tmp_path / "words").symlink_to(work / "words")
    plan = Plan.model_validate({"studies": [TWO["studies"][0] | {"time": "steps"}]})
    comparison = Comparison(plan, tmp_path, None, 7)
    comparison.run(range(3), set())
    assert [row.get("failed") for row in comparison.rows()] == [None, None, "training stopped", "training stopped", None, None]
    print_report(plan, comparison.rows(), ["R@10"])
    assert "| base | 7 | 1 | 2 | 6.0 ± 1.4 |" in capsys.readouterr().out
    comparison.run(range(3), set())
    assert len(comparison.rows()) == 6


@pytest.mark.parametrize("name", ["demo", "ingredients", "without", "paper"])
def test_the_arms_that_come_with_the_project_are_recipes(name):
    plan, profile = read_plan(Path(name)), load_profile("demo")
    for _, arm in plan.arms():
        assert plan.recipe_of(arm, profile.recipes[plan.recipe], 3).seed == 3
    assert all(before.recipe in profile.recipes for before in plan.before.values())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"studies": [{"name": "s", "arms": [{"name": "a"}]}]}, "compares arms of different names"),
        ({"studies": [{"name": "s", "arms": [{"name": "a"}, "b"]}]}, "no study before has an arm called 'b'"),
        ({"studies": [{"name": "s", "arms": [{"name": "a"}, {"name": "a", "lake": "near"}]}]}, "two arms are called 'a'"),
        ({"studies": [{"name": "s", "arms": [{"name": "a"}, {"name": "b", "before": ["c"]}]}]}, "does not say how to make"),
        ({"studies": [{"name": "s", "arms": [{"name": "a"}, {"name": "b", "recpie": {}}]}]}, "recpie"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(tmp_path, wrong, said):
    (tmp_path / "arms.yaml").write_text(yaml.safe_dump(wrong))
    with pytest.raises(UserError, match=said):
        read_plan(tmp_path / "arms.yaml")


def test_settings_that_are_none_are_refused_with_the_arm():
    wrong = {"studies": [{"name": "s", "arms": [{"name": "a"}, {"name": "b", "recipe": {"stepps": 3}}]}]}
    plan = Plan.model_validate(wrong)
    with pytest.raises(UserError, match="(?s)'b' is no recipe.*stepps"):
        plan.recipe_of(plan.studies[0].arms[1], load_profile("demo").recipes["demo"])
    with pytest.raises(UserError, match="there are demo, headline, ingredients, negatives, paper, without"):
        read_plan(Path("nothing"))
