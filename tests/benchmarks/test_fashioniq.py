"""Where people misread FashionIQ: each rule of the official code that is easy to get wrong, pinned."""

from __future__ import annotations

import pytest

from .conftest import dump, load
from .layouts import (
    ASINS,
    fashioniq,
    fashioniq_predictions,
)


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
