"""One named test for every pitfall of the five benchmarks that others fell into, and hand-computed numbers."""

from __future__ import annotations

import pytest

from mmret.benchmarks.circo import scorer as circo_benchmark
from mmret.benchmarks.circo.submission import circo_submission
from mmret.benchmarks.cirr.scorer import RANKS, SUBSET_RANKS
from mmret.benchmarks.mmeb.scorer import aggregate, published_sets
from mmret.errors import UserError

from .conftest import dump, load
from .layouts import (
    ASINS,
    CIRCO_IDS,
    CIRR_NAMES,
    circo,
    circo_predictions,
    cirr,
    cirr_predictions,
    fashioniq,
    fashioniq_predictions,
    genecis,
    genecis_predictions,
    mmeb,
    mmeb_predictions,
)

# -- CIRCO --------------------


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
    one_cut = dump(tmp_path / "cut.json", {**rankings, "1": rankings["1"][:length]})  # the shortest list decides
    answer, table = call(*arguments, one_cut, "--json"), call(*arguments, one_cut)
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


# -- CIRR --------------------


def test_cirr_the_reference_left_in_the_ranking_changes_nothing(call, tmp_path):
    clean, left = cirr_predictions(), cirr_predictions()
    for i in range(4):
        left[str(12060 + i)].insert(0, CIRR_NAMES[i])
    arguments = ("cirr", "--annotations", cirr(tmp_path), "--json", "--predictions")
    a, b = call(*arguments, dump(tmp_path / "a.json", clean)), call(*arguments, dump(tmp_path / "b.json", left))
    assert a.json == b.json and "reference image; it was removed" in b.err


def test_cirr_subset_has_five_candidates_so_chance_is_20_percent(call, tmp_path):
    annotations = cirr(tmp_path, 5)
    recall, subset = cirr_predictions(queries=5), cirr_predictions("recall_subset", 5)
    for place in range(5):  # the target is put first for one query in five
        members = [CIRR_NAMES[10 * j + place] for j in range(1, 6)]
        subset[str(12060 + place)] = (members[place:] + members[:place])[:3]
    values = call(
        "cirr",
        "--annotations",
        annotations,
        "--predictions",
        dump(tmp_path / "r.json", recall),
        "--subset-predictions",
        dump(tmp_path / "s.json", subset),
        "--json",
    ).json
    assert values["Rs"]["1"] == pytest.approx(20)
    assert tuple(map(int, values["R"])) == RANKS and tuple(map(int, values["Rs"])) == SUBSET_RANKS


def test_cirr_hard_targets_ignore_soft_weights_and_soft_never_goes_below_zero(call, tmp_path):
    lists = cirr_predictions()
    for i in range(4):
        first = {0: 10, 1: 20, 2: 30, 3: 40}[i] + i  # hard target, weight 0.5, weight -1, no weight
        names = [n for n in CIRR_NAMES if n not in (CIRR_NAMES[i], CIRR_NAMES[first])]
        lists[str(12060 + i)] = [CIRR_NAMES[first], *names][:50]
    values = call(
        "cirr", "--annotations", cirr(tmp_path), "--predictions", dump(tmp_path / "p.json", lists), "--json", "--soft"
    ).json
    assert values["R"]["1"] == pytest.approx(25)
    assert values["soft"]["R"]["1"] == pytest.approx(100 * (1 + 0.5 + 0 + 0) / 4)


def test_cirr_a_gallery_cut_down_to_references_is_remarked(golden, call, tmp_path):
    queries = load(golden / "cirr" / "cap.rc2.val.json")
    references = list(dict.fromkeys(q["reference"] for q in queries))
    assert sum(q["target_hard"] not in set(references) for q in queries) >= 100
    lists = {
        "version": "rc2",
        "metric": "recall",
        **{str(q["pairid"]): [r for r in references[:51] if r != q["reference"]][:50] for q in queries},
    }
    answer = call("cirr", "--annotations", golden / "cirr", "--predictions", dump(tmp_path / "p.json", lists), "--json")
    assert answer.code == 0 and "cut down to references" in answer.err


def test_cirr_reference_rank_is_not_an_index_into_members(golden):
    queries = load(golden / "cirr" / "cap.rc2.val.json")
    sets = [q["img_set"] for q in queries]
    assert any(s["members"][s["reference_rank"]] != q["reference"] for q, s in zip(queries, sets, strict=True))


def test_cirr_without_a_subset_file_rs_is_left_out_not_invented(call, tmp_path):
    answer = call(
        "cirr",
        "--annotations",
        cirr(tmp_path),
        "--predictions",
        dump(tmp_path / "p.json", cirr_predictions()),
        "--json",
    )
    assert list(answer.json) == ["R"] and "R_subset is not scored" in answer.err


# -- FashionIQ --------------------


def test_fashioniq_mean_is_unweighted_over_categories(call, tmp_path):
    annotations = fashioniq(tmp_path)
    fashioniq(tmp_path, ("dress",), queries=8)  # dress gets twice the queries
    lists = fashioniq_predictions() | fashioniq_predictions(("dress",), 8)
    for i, ranking in enumerate(lists["shirt"]):
        ranking.remove(ASINS[10 + i])
        lists["shirt"][i] = [ASINS[10 + i], *ranking]
    values = call("fashioniq", "--annotations", annotations, "--predictions", dump(tmp_path / "p.json", lists), "--json").json
    assert [values[c]["R@10"] for c in ("dress", "shirt", "toptee")] == [0, 100, 0]
    assert values["mean"]["R@10"] == pytest.approx(100 / 3)
    assert values["mean"]["R@50"] == pytest.approx(100)


def test_fashioniq_the_smaller_gallery_is_an_explicit_choice_and_easier(golden, call):
    arguments = (
        "fashioniq",
        "--annotations",
        golden / "fashioniq",
        "--predictions",
        golden / "fashioniq" / "dress_val_rankings.json.gz",
        "--json",
    )
    answer = call(*arguments, "--gallery", "union")
    assert answer.code == 2 and "needs 50" in answer.err  # 50 images of the split are not 50 of the union


def test_fashioniq_union_gallery_reranks_complete_lists_and_says_so(call, tmp_path):
    union = [*ASINS[:4], *ASINS[10:14]]
    rest = [a for a in ASINS if a not in union]
    lists = {"dress": [[*rest[:30], ASINS[10 + i], *rest[30:], *(a for a in union if a != ASINS[10 + i])] for i in range(4)]}
    arguments = (
        "fashioniq",
        "--annotations",
        fashioniq(tmp_path),
        "--predictions",
        dump(tmp_path / "p.json", lists),
        "--json",
    )
    original, union_answer = call(*arguments), call(*arguments, "--gallery", "union")
    assert original.json["dress"]["R@10"] == 0 and union_answer.json["dress"]["R@10"] == 100
    assert "not the original split" in union_answer.err


def test_fashioniq_predictions_made_over_the_union_are_remarked(golden, call, tmp_path):
    queries = load(golden / "fashioniq" / "cap.dress.val.json")
    union = sorted({a for q in queries for a in (q["candidate"], q["target"])})
    assert len(union) == 2628
    lists = dump(tmp_path / "p.json", {"dress": [union[:50]] * len(queries)})
    answer = call("fashioniq", "--annotations", golden / "fashioniq", "--predictions", lists, "--json")
    assert answer.code == 0 and "not comparable: the gallery has 3817" in answer.err


def test_fashioniq_reference_stays_in_the_gallery(call, tmp_path):
    lists = {
        "dress": [
            [ASINS[i], *(a for a in ASINS[30:] if a != ASINS[i])][:10] + [ASINS[10 + i], *ASINS[20:30], *ASINS[40:]]
            for i in range(4)
        ]
    }
    lists["dress"] = [list(dict.fromkeys([*r, *ASINS]))[:50] for r in lists["dress"]]
    arguments = (
        "fashioniq",
        "--annotations",
        fashioniq(tmp_path),
        "--predictions",
        dump(tmp_path / "p.json", lists),
        "--json",
    )
    assert call(*arguments).json["dress"]["R@10"] == 0
    assert call(*arguments, "--remove-reference", "--partial").json["dress"]["R@10"] == 100


def test_fashioniq_a_target_is_matched_whole_not_as_a_substring(call, tmp_path):
    annotations = fashioniq(tmp_path, ("dress",), 1)
    dump(
        tmp_path / "captions" / "cap.dress.val.json",
        [{"candidate": ASINS[0], "target": "B00000001", "captions": ["a", "b"]}],
    )
    dump(tmp_path / "image_splits" / "split.dress.val.json", [*ASINS, "B00000001"])
    lists = {"dress": [ASINS[1:51]]}  # B000000010 and others contain the target's name
    values = call("fashioniq", "--annotations", annotations, "--predictions", dump(tmp_path / "p.json", lists), "--json").json
    assert values["dress"]["R@50"] == 0


def test_fashioniq_a_single_caption_file_finds_its_split(call, tmp_path):
    lists = dump(tmp_path / "p.json", fashioniq_predictions(("shirt",)))
    file = fashioniq(tmp_path) / "captions" / "cap.shirt.val.json"
    assert call("fashioniq", "--annotations", file, "--predictions", lists, "--json").json["shirt"]["R@50"] == 100


def test_fashioniq_split_of_another_category_is_refused(call, tmp_path):
    annotations = fashioniq(tmp_path)
    dump(tmp_path / "image_splits" / "split.dress.val.json", [f"X{a}" for a in ASINS])
    answer = call("fashioniq", "--annotations", annotations, "--predictions", dump(tmp_path / "p.json", fashioniq_predictions()))
    assert answer.code == 2 and "do not belong together" in answer.err


# -- GeneCIS --------------------


def test_genecis_mean_over_tasks_and_ranks(call, tmp_path):
    lists = genecis_predictions()
    lists["change_object"] = [[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [1, 2, 0, 3, 4], [1, 2, 3, 0, 4]]
    values = call("genecis", "--annotations", genecis(tmp_path), "--predictions", dump(tmp_path / "p.json", lists), "--json").json
    assert values["focus_attribute"] == {"R@1": 0, "R@2": 100, "R@3": 100}
    assert values["change_object"] == {"R@1": 25, "R@2": 50, "R@3": 75}
    assert values["mean"] == {"R@1": 12.5, "R@2": 75, "R@3": 87.5}


def test_genecis_a_repeated_target_in_the_gallery_is_kept_and_not_a_second_hit(call, tmp_path):
    path = genecis(tmp_path, ("focus_object",), 1) / "focus_object.json"
    template = load(path)
    template[0]["gallery"][0] = template[0]["target"]
    dump(path, template)
    lists = dump(tmp_path / "p.json", {"focus_object": [[1, 2, 3, 4, 0]]})
    values = call("genecis", "--annotations", path, "--predictions", lists, "--json").json
    assert values["focus_object"]["R@3"] == 0


def test_genecis_official_files_have_the_counted_templates_and_galleries(golden):
    from mmret.benchmarks.genecis.scorer import load as load_tasks

    tasks = load_tasks(golden / "genecis")
    assert {n: (len(t.templates), {len(x.candidates) for x in t.templates}) for n, t in tasks.items()} == {
        "focus_attribute": (2000, {10}),
        "change_attribute": (2112, {15}),
        "focus_object": (1960, {15}),
        "change_object": (1960, {15}),
    }


# -- MMEB --------------------


def test_mmeb_means_are_over_sets_not_over_meta_tasks(call, tmp_path):
    values = call(
        "mmeb",
        "--annotations",
        mmeb(tmp_path),
        "--predictions",
        dump(tmp_path / "p.json", mmeb_predictions()),
        "--json",
    ).json
    assert values["sets"] == {"ImageNet-1K": 25, "N24News": 50, "ImageNet-A": 75, "GQA": 100}
    assert values["meta"] == {"classification": 50, "vqa": 100}
    assert (values["IND"], values["OOD"], values["overall"]) == (37.5, 87.5, 62.5)


def test_mmeb_a_subset_of_the_sets_is_scored_and_called_partial(golden, call, tmp_path):
    lists = dump(tmp_path / "p.json", {"ImageNet-1K": [[0]] * 1000, "SUN397": [[1]] * 1000})
    answer = call("mmeb", "--annotations", golden / "mmeb", "--predictions", lists, "--json")
    assert answer.json == {
        "sets": {"ImageNet-1K": 100, "SUN397": 0},
        "meta": {"classification": 50},
        "IND": 50,
        "OOD": None,
        "overall": 50,
    }
    assert "partial: 2 of 36 sets" in answer.err


def test_mmeb_published_aggregates_that_contradict_their_own_rows_do_not_come_out(golden):
    table = load(golden / "mmeb" / "paper_table6.json")
    names = {"Overall": "overall", "IND": "IND", "OOD": "OOD"}
    for model, column, published, recomputed in table["published_vs_recomputed_gt_0.06"]:
        values = aggregate(table["per_dataset"][model])
        ours = values[names[column]] if column in names else values["meta"][column.lower()]
        assert ours == pytest.approx(recomputed, abs=1e-3) and abs(ours - published) > 0.06


def test_mmeb_number_of_queries_is_read_from_the_parquet_files_not_assumed(call, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "N24News").mkdir()
    pq.write_table(
        pa.table({"qry_text": ["a", "b"], "tgt_text": [["x", "y"], ["x", "y", "z"]]}),
        tmp_path / "N24News" / "test.parquet",
    )
    arguments = ("mmeb", "--annotations", tmp_path, "--json", "--predictions")
    assert call(*arguments, dump(tmp_path / "p.json", {"N24News": [[0, 1], [2, 0]]})).json["sets"] == {"N24News": 50}
    assert "do not exist" in call(*arguments, dump(tmp_path / "q.json", {"N24News": [[2], [0]]})).err
    assert "3 rankings for the 2 queries" in call(*arguments, dump(tmp_path / "r.json", {"N24News": [[0]] * 3})).err
    assert "1 rankings for the 2 queries" in call(*arguments, dump(tmp_path / "s.json", {"N24News": [[0]]})).err


def test_mmeb_prompts_are_the_published_ones_with_their_spelling(golden):
    import yaml

    from mmret.benchmarks.mmeb.scorer import PROTOCOL

    ours = yaml.safe_load(PROTOCOL.read_text())["sets"]
    for task in load(golden / "mmeb" / "tasks.json"):
        entry = ours[task["dataset"]]
        assert entry["query_instruction"] == task["query_instruction"]
        assert entry["target_instruction"] == task["target_instruction"]
        assert (entry["query"], entry["target"]) == (
            task["query_modality"].replace("+", ""),
            task["target_modality"].replace("+", ""),
        )
    assert "to to" in ours["MSCOCO"]["query_instruction"]
    assert len(published_sets()) == 36
