"""Where people misread CIRR: each rule of the official code that is easy to get wrong, pinned."""

from __future__ import annotations

import pytest

from mmret.benchmarks.cirr.scorer import RANKS, SUBSET_RANKS

from .conftest import dump, load
from .layouts import (
    CIRR_NAMES,
    cirr,
    cirr_predictions,
)


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
