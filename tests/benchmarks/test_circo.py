"""Where people misread CIRCO: each rule of the official code that is easy to get wrong, pinned."""

from __future__ import annotations

import pytest

from mmret.benchmarks.circo import scorer as circo_benchmark
from mmret.benchmarks.circo.submission import circo_submission
from mmret.errors import UserError

from .conftest import dump, load
from .layouts import (
    CIRCO_IDS,
    circo,
    circo_predictions,
)


def test_circo_ap_divides_by_the_smaller_of_ground_truths_and_k():
    truths = list(range(8))
    ranking = [0, 99, 1, 98, 97, 2]
    assert circo_benchmark.average_precision(ranking, truths, 5) == pytest.approx(100 * (1 + 2 / 3) / 5)
    assert circo_benchmark.average_precision(ranking, truths, 10) == pytest.approx(100 * (1 + 2 / 3 + 3 / 6) / 8)


def test_circo_recall_counts_only_the_target_not_the_other_ground_truths(call, tmp_path):
    rankings = {str(i): [120 + i, *(x for x in CIRCO_IDS if x not in (110 + i, 120 + i))][:50] for i in range(4)}
    values = call("circo", "--annotations", circo(tmp_path), "--predictions", dump(tmp_path / "p.json", rankings), "--json").json
    assert values["Recall"] == {"5": 0, "10": 0, "25": 0, "50": 0}
    assert values["mAP"]["5"] == pytest.approx(50)


def test_circo_a_query_counts_for_each_of_its_aspects_and_an_aspect_without_query_is_null(call, tmp_path):
    rankings = circo_predictions()
    rankings["0"] = [110, 120, *(x for x in CIRCO_IDS if x not in (110, 120))][:50]
    values = call("circo", "--annotations", circo(tmp_path), "--predictions", dump(tmp_path / "p.json", rankings), "--json").json
    semantic = values["semantic_mAP@10"]
    assert list(semantic) == list(circo_benchmark.ASPECTS)
    assert semantic["negation"] == pytest.approx(100)
    assert semantic["addition"] == semantic["viewpoint"] is not None
    assert semantic["cardinality"] is None


def test_circo_the_reference_stays_in_the_ranking_unless_asked(call, tmp_path):
    rankings = {str(i): [100 + i, 110 + i, *(x for x in CIRCO_IDS if x not in (100 + i, 110 + i))][:50] for i in range(4)}
    arguments = (
        "circo",
        "--annotations",
        circo(tmp_path),
        "--predictions",
        dump(tmp_path / "p.json", rankings),
        "--json",
    )
    kept, removed = call(*arguments), call(*arguments, "--remove-reference")
    assert kept.json["mAP"]["5"] == pytest.approx(100 * (1 / 2) / 2)
    assert removed.json["mAP"]["5"] == pytest.approx(100 * 1 / 2)
    assert "not comparable" in removed.err and "not comparable" not in kept.err


def test_circo_the_released_test_files_hold_the_reference_as_often_as_counted(golden):
    queries = circo_benchmark.load(golden / "circo" / "test.json").queries
    expected = load(golden / "circo" / "expected_test_submissions.json")["mmret_base_circo"]["reference_in_top"]
    rankings = load(golden / "circo" / "mmret_base_circo.json")
    assert {k: sum(q.reference in rankings[str(q.id)][: int(k)] for q in queries) for k in expected} == expected


def test_circo_a_file_with_only_the_first_queries_does_not_pass_as_a_whole(golden, call, tmp_path):
    rankings = load(golden / "circo" / "submission_val.json")
    first = dump(tmp_path / "first.json", {str(i): rankings[str(i)] for i in range(100)})
    answer = call("circo", "--annotations", golden / "circo" / "val.json", "--predictions", first)
    assert answer.code == 2 and "no predictions for 120 of 220 queries" in answer.err


def test_circo_lists_longer_than_50_score_the_same_and_are_remarked(call, tmp_path):
    arguments = ("circo", "--annotations", circo(tmp_path), "--json", "--predictions")
    fifty = call(*arguments, dump(tmp_path / "p.json", circo_predictions()))
    sixty = call(*arguments, dump(tmp_path / "q.json", {str(i): CIRCO_IDS for i in range(4)}))
    assert sixty.json == fifty.json and "longer than 50" in sixty.err


@pytest.mark.parametrize(
    "length, bounds",
    [
        (50, []),
        (30, ["mAP@50", "Recall@50"]),
        (10, ["mAP@25", "mAP@50", "Recall@25", "Recall@50"]),
        (3, [f"{m}@{k}" for m in ("mAP", "Recall") for k in (5, 10, 25, 50)]),
    ],
)
def test_circo_lists_shorter_than_50_are_scored_and_what_lies_deeper_is_flagged_as_a_lower_bound(call, tmp_path, length, bounds):
    arguments = ("circo", "--annotations", circo(tmp_path), "--predictions")
    others = [i for i in CIRCO_IDS if i not in range(110, 114)]
    rankings = {str(i): [*others[:35], 110 + i, *others[35:]][:50] for i in range(4)}
    whole = call(*arguments, dump(tmp_path / "whole.json", rankings), "--json").json
    cut = {"1": rankings["1"][:length], "2": rankings["2"][: max(length, 40) if length < 50 else 50]}
    cut_lists = dump(tmp_path / "cut.json", rankings | cut)  # the shortest decides
    answer, table = call(*arguments, cut_lists, "--json"), call(*arguments, cut_lists)
    aspects = [f"semantic_mAP@10 {aspect}" for aspect in circo_benchmark.ASPECTS] if length < 10 else []
    assert answer.json.get("lower_bounds", []) == bounds + aspects
    for name in ("mAP", "Recall"):
        for k, value in whole[name].items():
            assert answer.json[name][k] <= value + 1e-9
            assert f"{name}@{k}" in bounds or answer.json[name][k] == value
    if bounds:
        assert f"the shortest has {length}" in answer.err and answer.json["remarks"] and table.out.count("≥") >= len(bounds)
        assert answer.json["Recall"]["50"] < whole["Recall"]["50"]  # the target of query 1 stands at 36
    else:
        assert answer.json.keys() == whole.keys() and "≥" not in table.out and not answer.err


def test_circo_a_list_of_a_gallery_smaller_than_50_is_whole(call, tmp_path):
    folder, ids = circo(tmp_path), CIRCO_IDS[:30]
    dump(tmp_path / "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json", {"images": [{"id": i} for i in ids]})
    whole = dump(tmp_path / "p.json", {str(i): ids for i in range(4)})
    assert "lower_bounds" not in call("circo", "--annotations", folder, "--predictions", whole, "--json").json


def test_circo_a_submission_still_needs_exactly_50(tmp_path):
    truth = circo_benchmark.load(circo(tmp_path))
    rankings = {key: ids[:10] for key, ids in circo_predictions().items()}
    with pytest.raises(UserError, match="exactly 50 distinct ids a query, here are 10 of 10"):
        circo_submission(rankings, truth)


def test_circo_short_lists_for_the_test_split_are_not_called_ready(golden, call, tmp_path):
    rankings = load(golden / "circo" / "mmret_base_circo.json")
    cut = dump(tmp_path / "cut.json", {key: ids[:10] for key, ids in rankings.items()})
    answer = call("circo", "--annotations", golden / "circo" / "test.json", "--predictions", cut)
    assert answer.code == 2 and "no submission yet: 800 of its lists hold fewer than 50" in answer.err


def test_circo_val_predictions_are_not_test_predictions(golden, call):
    answer = call(
        "circo",
        "--annotations",
        golden / "circo" / "val.json",
        "--predictions",
        golden / "circo" / "mmret_base_circo.json",
    )
    assert answer.code == 2 and "unknown query ids" in answer.err


def test_circo_annotations_are_what_was_counted(golden):
    stats = load(golden / "circo" / "annotation_stats.json")
    queries = circo_benchmark.load(golden / "circo" / "val.json").queries
    assert len(queries) == stats["val"]["queries"]
    assert sum(len(q.ground_truths) for q in queries) == stats["val"]["gt_total"]
    assert {a: sum(a in q.aspects for q in queries) for a in circo_benchmark.ASPECTS} == stats["val"]["semantic_aspect_counts"]
    assert not any(q.reference in q.ground_truths for q in queries)
    gallery = circo_benchmark.load(golden / "circo" / "val.json").gallery
    assert len(gallery) == stats["gallery"]["images"] and list(gallery[:5]) == stats["gallery"]["first_ids"]
