"""Every golden vector comes out of ``mmret score --json`` to its printed digits, and the JSON has the promised keys."""

from __future__ import annotations

import pytest

from .conftest import dump, load


def same(given, expected):
    assert given == pytest.approx(expected, abs=5e-9)


@pytest.mark.parametrize("case", ["official_example", "perfect_target_last"])
@pytest.mark.parametrize("folder", [True, False])
def test_circo_equals_the_official_evaluation(golden, call, case, folder):
    expected = load(golden / "circo" / "expected.json")[case]
    annotations = golden / "circo" if folder else golden / "circo" / "val.json"
    values = call("circo", "--annotations", annotations, "--predictions", golden / "circo" / expected["file"], "--json").json
    assert list(values) == ["mAP", "Recall", "semantic_mAP@10"]
    same(values["mAP"], expected["mAP"])
    same(values["Recall"], expected["recall"])
    same(values["semantic_mAP@10"], expected["semantic_mAP@10"])


@pytest.mark.parametrize("case", ["official_example", "perfect_target_last"])
def test_circo_lists_cut_to_10_give_map_at_5_and_10_as_they_are_and_the_rest_as_lower_bounds(golden, call, tmp_path, case):
    expected = load(golden / "circo" / "expected.json")[case]
    whole = load(golden / "circo" / expected["file"])
    cut = dump(tmp_path / "cut.json", {query: ids[:10] for query, ids in whole.items()})
    answer = call("circo", "--annotations", golden / "circo", "--predictions", cut, "--json")
    same(answer.json["semantic_mAP@10"], expected["semantic_mAP@10"])
    for name, figures in (("mAP", expected["mAP"]), ("Recall", expected["recall"])):
        for k in ("5", "10"):
            same(answer.json[name][k], figures[k])
        for k in ("25", "50"):
            assert answer.json[name][k] <= figures[k] + 5e-9
    assert answer.json["lower_bounds"] == ["mAP@25", "mAP@50", "Recall@25", "Recall@50"]


def cirr_arguments(golden):
    folder = golden / "cirr"
    return (
        "cirr",
        "--annotations",
        folder,
        "--predictions",
        folder / "val_pred_ranks_recall.json.gz",
        "--subset-predictions",
        folder / "val_pred_ranks_recall_subset.json.gz",
        "--json",
    )


def test_cirr_equals_searle_by_hard_targets(golden, call):
    expected = load(golden / "cirr" / "expected.json")["hard_target_percent"]
    values = call(*cirr_arguments(golden)).json
    assert list(values) == ["R", "Rs"]
    assert {k: round(v, 2) for k, v in values["R"].items()} == {k: expected[f"cirr_recall_at{k}"] for k in values["R"]}
    assert {k: round(v, 2) for k, v in values["Rs"].items()} == {k: expected[f"cirr_group_recall_at{k}"] for k in "123"}


def test_cirr_soft_targets_are_an_extra_and_differ(golden, call):
    values = call(*cirr_arguments(golden), "--soft").json
    assert round(values["R"]["1"], 2) == 40.90
    assert round(values["soft"]["R"]["1"], 2) == 40.56


def test_fashioniq_equals_searle_and_megapairs(golden, call):
    expected = load(golden / "fashioniq" / "expected.json")["dress"]
    answer = call(
        "fashioniq",
        "--annotations",
        golden / "fashioniq",
        "--predictions",
        golden / "fashioniq" / "dress_val_rankings.json.gz",
        "--json",
    )
    same(answer.json["dress"], expected)
    assert list(answer.json) == ["dress", "mean"]
    assert "mean over dress only" in answer.err


def test_genecis_equals_get_recall(golden, call):
    expected = load(golden / "genecis" / "expected.json")["focus_attribute"]
    answer = call(
        "genecis",
        "--annotations",
        golden / "genecis",
        "--predictions",
        golden / "genecis" / "focus_attribute_rankings.json.gz",
        "--json",
    )
    same(answer.json["focus_attribute"], expected)
    same(answer.json["mean"], expected)


def mmeb_answer(golden, call, dump_to, percents):
    """Rankings that score the given percentages exactly: 1,000 queries a set."""
    lists = {name: [[0, 1]] * round(p * 10) + [[1, 0]] * (1000 - round(p * 10)) for name, p in percents.items()}
    path = dump(dump_to / "mmeb.json.gz", lists)
    return call("mmeb", "--annotations", golden / "mmeb", "--predictions", path, "--json")


@pytest.mark.parametrize("model", ["CLIP", "OpenCLIP", "SigLIP", "BLIP2", "MagicLens", "E5-V", "UniIR", "VLM2Vec"])
def test_mmeb_aggregates_of_the_paper_table_come_out(golden, call, tmp_path, model):
    table = load(golden / "mmeb" / "paper_table6.json")
    recomputed = table["recomputed_aggregates"][model]
    values = mmeb_answer(golden, call, tmp_path, table["per_dataset"][model]).json
    assert list(values) == ["sets", "meta", "IND", "OOD", "overall"]
    assert len(values["sets"]) == 36
    same(values["sets"], table["per_dataset"][model])
    given = {name.lower(): v for name, v in values["meta"].items()} | {k.lower(): values[k] for k in ("IND", "OOD", "overall")}
    assert given == pytest.approx({k.lower(): v for k, v in recomputed.items()}, abs=6e-5)


def test_mmeb_aggregates_of_the_published_v2_scores_come_out(golden):
    from mmret.benchmarks.mmeb.scorer import aggregate

    for scores in load(golden / "mmeb" / "vlm2vec_all_scores_v2.0.0.json")["models"].values():
        image = scores["per_dataset"]["image"]
        if len(image) < 36:
            continue
        values = aggregate({name: 100 * value for name, value in image.items()})
        expected = {k.lower(): v for k, v in scores["image_aggregates_percent"].items()}
        given = values["meta"] | {k.lower(): values[k] for k in ("IND", "OOD", "overall")}
        assert given == pytest.approx(expected, abs=1e-3)


def test_the_list_of_36_sets_is_the_published_one(golden):
    from mmret.benchmarks.mmeb.scorer import published_sets

    splits = load(golden / "mmeb" / "splits.json")
    sets = published_sets()
    assert {s: [d.name for d in sets.values() if s in (d.split, d.meta)] for s in splits} == splits


@pytest.mark.parametrize(
    "benchmark, annotations, predictions, metrics",
    [
        ("circo", "circo", "circo/submission_val.json", ("mAP@5", "semantic_mAP@10 viewpoint", "0.62")),
        ("cirr", "cirr", "cirr/val_pred_ranks_recall.json.gz", ("R@1", "40.90")),
        ("fashioniq", "fashioniq", "fashioniq/dress_val_rankings.json.gz", ("dress R@10", "62.42", "mean R@50")),
        ("genecis", "genecis", "genecis/focus_attribute_rankings.json.gz", ("focus_attribute R@1", "19.85")),
    ],
)
def test_without_json_a_table_shows_the_same_numbers(golden, call, benchmark, annotations, predictions, metrics):
    answer = call(benchmark, "--annotations", golden / annotations, "--predictions", golden / predictions)
    assert answer.code == 0
    assert all(m in answer.out for m in metrics)
