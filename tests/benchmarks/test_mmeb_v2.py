"""MMEB-V2: ranking metrics equal the reference code's, its faults are not repeated, and the leaderboard's JSON is
well-formed.
"""

from __future__ import annotations

import json

import pytest

from mmret.benchmarks.common.runs import RunOptions
from mmret.benchmarks.mmeb.leaderboard import MAIN_METRIC, leaderboard_json, modality_sets, overall
from mmret.benchmarks.mmeb.ranking_metrics import evaluate, metrics
from mmret.benchmarks.run import run_benchmark
from mmret.errors import UserError

from .checkpoints import Colours
from .conftest import load
from .worlds import cirr, mmeb


def test_ranking_metrics_equal_the_reference_code(golden):
    data = load(golden / "mmeb" / "ranking_metrics_cases.json")
    assert evaluate(data["cases"], data["k"]) == pytest.approx(data["expected_all"])
    single = [c for c in data["cases"] if len(set(c["label"])) == 1]
    assert evaluate(single, data["k"]) == pytest.approx(data["expected_single_label_only"])


def test_graded_ndcg_equals_the_reference_function_called_directly(golden):
    data = load(golden / "mmeb" / "ndcg_graded_cases.json")
    for case in data["cases"]:
        given = metrics(case["prediction"], case["label"], case["rel_scores"])
        assert {k: given[k] for k in case["expected"]} == pytest.approx(case["expected"])


def test_a_candidate_listed_twice_exceeds_one_as_in_the_reference_unless_made_distinct():
    case = {"prediction": ["a", "a", "b"], "label": ["a", "b"]}
    assert evaluate([case])["ndcg_linear@5"] > 1
    assert evaluate([case], distinct=True)["ndcg_linear@5"] == pytest.approx(1)


def test_without_labels_recall_is_one_and_nothing_else():
    found = metrics(["a"], [])
    assert found.pop("recall@1") == found.pop("recall@5") == found.pop("recall@10") == 1
    assert set(found.values()) == {0}


def test_overall_of_the_published_scores_comes_out_over_78_sets(golden):
    names = modality_sets()
    assert {m: len(s) for m, s in names.items()} == {"image": 36, "visdoc": 24, "video": 18}
    for scores in load(golden / "mmeb" / "vlm2vec_all_scores_v2.0.0.json")["models"].values():
        assert {m: set(s) for m, s in scores["per_dataset"].items()} == {m: set(names[m]) for m in names}
        values = overall(scores["per_dataset"])
        assert values.pop("overall") == pytest.approx(scores["overall_mean_of_78_datasets"])
        assert values == pytest.approx(scores["modality_average"])


def test_leaderboard_json_has_scores_of_what_ran_and_says_what_did_not(tmp_path):
    run = run_benchmark("mmeb", Colours(), "m", RunOptions(*mmeb(tmp_path)))
    report = json.loads(json.dumps(leaderboard_json(run, {"model_name": "ours", "url": "https://example.org"})))
    assert report["metadata"]["model_name"] == "ours" and set(report["metrics"]) == set(MAIN_METRIC)
    image = report["metrics"]["image"]
    assert image["CIRR"]["hit@1"] == 1.0 and image["ImageNet-1K"] == "FILE_N/A"
    assert set(report["metrics"]["video"].values()) == {"FILE_N/A"}


def test_leaderboard_refuses_other_runs_missing_metadata_and_missing_pictures(tmp_path):
    form = {"model_name": "ours", "url": "https://example.org"}
    images, annotations = mmeb(tmp_path / "mmeb")
    with pytest.raises(UserError, match="not cirr"):
        leaderboard_json(run_benchmark("cirr", Colours(), "m", RunOptions(*cirr(tmp_path / "cirr"))), form)
    with pytest.raises(UserError, match="needs model_name"):
        leaderboard_json(run_benchmark("mmeb", Colours(), "m", RunOptions(images, annotations)), {})
    (images / "pics" / "3.png").unlink()
    run = run_benchmark("mmeb", Colours(), "m", RunOptions(images, annotations, allow_missing=True))
    with pytest.raises(UserError, match="cannot be reported"):
        leaderboard_json(run, form)
