"""Invariants of the filters: nine in ten planted faults are found, nine in ten of what is dropped are faults, by none of the
attributes; a corpus without faults loses next to nothing; the same triplets have the same verdicts; what cannot be judged is
kept, and it is said."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mmret.benchmarks.planted_faults import found, plant
from mmret.filters.check import JUDGES
from mmret.filters.consistency import LEAST, _cases, threshold
from mmret.filters.corpus import Corpus, Triplets
from mmret.filters.false_negatives import valley
from tests.filters.made import made

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def case():
    return made()


def test_wrong_texts_and_swapped_targets_are_found_at_ninety_and_ninety(case):
    corpus, triplets, scenes = case
    planted = plant(triplets, {"text": 0.2, "target": 0.05, "same_source": 0.05}, scenes)
    verdicts = JUDGES["consistency"](corpus, planted.triplets, "m")
    figures = found(planted, verdicts.rows)
    assert figures["precision"] >= 0.9 and figures["recall"] >= 0.9, figures
    few = planted.triplets.slice(0, 400)
    assert JUDGES["consistency"](corpus, few, "m").rows == JUDGES["consistency"](corpus, few, "m").rows
    dropped = verdicts.dropped.to_pylist()
    assert all(row["reason"] and row["score"] <= row["threshold"] for row in dropped)
    assert {s for row in dropped for s in row["signals"]} == {"words", "clip_image", "dino_image"}


@pytest.mark.parametrize(("kind", "share"), [("text", 0.1), ("target", 0.1), ("target", 0.03), ("same_source", 0.1)])
def test_each_kind_of_fault_alone_is_found_too(case, kind, share):
    corpus, triplets, scenes = case
    planted = plant(triplets, {kind: share}, scenes, seed=1)
    figures = found(planted, JUDGES["consistency"](corpus, planted.triplets, "m").rows)
    assert figures["precision"] >= 0.85 and figures["recall"] >= 0.85, figures


def test_hard_negatives_that_are_right_are_found_at_ninety_and_ninety(case):
    corpus, triplets, scenes = case
    planted = plant(triplets, {"false_negative": 0.2}, scenes)
    assert len(planted.planted_negatives) > 100
    verdicts = JUDGES["false_negatives"](corpus, planted.triplets, "m")
    figures = found(planted, verdicts.rows)
    assert figures["precision"] >= 0.9 and figures["recall"] >= 0.9, figures
    assert all(row["reason"] and "words" in row["signals"] for row in verdicts.dropped.to_pylist())
    assert JUDGES["false_negatives"](corpus, planted.triplets, "m").rows == verdicts.rows


def test_where_nothing_is_wrong_next_to_nothing_is_dropped(case):
    corpus, triplets, scenes = case
    planted = plant(triplets, {}, scenes)
    assert planted.triplets == triplets and not planted.pairs
    for name, judge in JUDGES.items():
        verdicts = judge(corpus, triplets, "m")
        assert found(planted, verdicts.rows)["dropped"] <= 0.015, name


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_of_so_few_texts_as_are_judged_next_to_nothing_is_dropped_where_nothing_is_wrong(case, seed):
    corpus, triplets, _ = case
    some = np.sort(np.random.default_rng(seed).permutation(len(triplets))[: LEAST // 3 + 7])
    verdicts = JUDGES["consistency"](corpus, triplets.take(pa.array(some)), "m")
    assert len(verdicts.rows) >= LEAST and len(verdicts.dropped) <= 0.02 * len(verdicts.rows)


def test_where_each_picture_asks_once_wrong_targets_are_found_too():
    corpus, triplets, scenes = made(a_source=1)
    planted = plant(triplets, {"target": 0.1}, scenes, seed=1)
    figures = found(planted, JUDGES["consistency"](corpus, planted.triplets, "m").rows)
    assert figures["precision"] >= 0.9 and figures["recall"] >= 0.6, figures


def test_what_is_tried_as_wrong_is_another_target_or_another_triplets_text(case):
    corpus, rows, _ = case
    for some in (rows, rows.slice(0, 3)):
        triplets = Triplets.of(some, corpus.ids)
        own, *wrong = _cases(triplets)
        assert (own[0] == np.arange(len(triplets.texts))).all() and (own[1] == triplets.row).all()
        texts_of_others, *targets_of_others = wrong
        assert (triplets.row[texts_of_others[0]] != triplets.row)[texts_of_others[2]].all()
        for texts, tried, certain in targets_of_others:
            assert (texts == own[0]).all() and (triplets.target[tried] != triplets.target[triplets.row])[certain].all()


def test_planting_is_a_function_of_its_seed_and_wrong_by_the_scenes(case):
    _, triplets, scenes = case
    shares = {"text": 0.2, "target": 0.1, "same_source": 0.1, "false_negative": 0.2}
    one, again, other = (plant(triplets, shares, scenes, seed) for seed in (1, 1, 2))
    assert one == again and one.pairs != other.pairs and one.triplets.num_rows == triplets.num_rows
    before = {row["pair_id"]: row for row in triplets.to_pylist()}
    for row in one.triplets.to_pylist():
        kind = one.pairs.get(row["pair_id"])
        if kind in ("target", "same_source"):
            assert scenes[row["target_id"]] != scenes[before[row["pair_id"]]["target_id"]]
        assert (row["texts"] != before[row["pair_id"]]["texts"]) == (kind == "text")


def test_faults_are_planted_too_where_only_some_pictures_have_scenes(case):
    _, triplets, scenes = case
    some = dict(list(scenes.items())[::2])
    planted = plant(triplets.slice(0, 200), {"text": 0.3, "target": 0.3, "false_negative": 0.4}, some)
    assert len(planted.pairs) == 120 and all(some[picture] for _, picture in planted.negatives)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda corpus, rows: (corpus, rows.slice(0, 1)), "3 texts are too few"),
        (lambda corpus, rows: (corpus, with_texts(rows, [["the same"] * 3] * len(rows))), "all texts are the same"),
        (lambda corpus, rows: (Corpus(corpus.ids, [""] * len(corpus.ids), {}), rows), "neither captions nor vectors"),
        (lambda corpus, rows: (corpus, with_texts(rows, shuffled(rows))), "too many to tell which are wrong"),
        (lambda corpus, rows: (corpus, rows.slice(0, 0)), "0 texts are too few"),
    ],
)
def test_texts_that_cannot_be_judged_are_kept_and_it_is_said(case, change, says):
    corpus, rows = change(case[0], case[1].slice(0, 400))
    verdicts = JUDGES["consistency"](corpus, rows, "m")
    assert (
        says in verdicts.note and not len(verdicts.dropped) and len(verdicts.rows) == len(rows["texts"].combine_chunks().flatten())
    )


def with_texts(rows: pa.Table, texts: list[list[str]]) -> pa.Table:
    place = rows.schema.get_field_index("texts")
    return rows.set_column(place, rows.schema.field(place), pa.array(texts, rows.schema.field(place).type))


def shuffled(rows: pa.Table) -> list[list[str]]:
    order = np.random.default_rng(0).permutation(len(rows))
    return rows["texts"].take(pa.array(order)).to_pylist()


def test_without_captions_pictures_still_judge_texts_and_no_negative_is_dropped(case):
    corpus, triplets, scenes = case
    mute = Corpus(corpus.ids, [""] * len(corpus.ids), corpus.vectors)
    planted = plant(triplets, {"text": 0.2, "false_negative": 0.2}, scenes)
    figures = found(planted, JUDGES["consistency"](mute, planted.triplets, "m").rows)
    assert figures["precision"] >= 0.8 and figures["recall"] >= 0.5, figures
    verdicts = JUDGES["false_negatives"](mute, planted.triplets, "m")
    assert "only equal captions count" in verdicts.note and not len(verdicts.dropped)


def test_the_valley_is_behind_a_hill_of_twins_and_there_is_none_without_twins():
    rng = np.random.default_rng(0)
    apart = rng.normal(size=(600, 16))
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    twins = np.repeat(apart, 2, axis=0) + 0.02 * rng.normal(size=(1200, 16))
    twins /= np.linalg.norm(twins, axis=1, keepdims=True)
    assert valley(apart.astype(np.float32)) is None
    assert 6 < valley(twins.astype(np.float32)) < 40


def test_the_threshold_finds_the_share_of_each_kind_of_wrong():
    rng = np.random.default_rng(0)
    far, near = rng.normal(-3, 1, 5000), rng.normal(0, 1, 5000)
    right = rng.normal(5, 1, 8000)
    scores = np.concatenate([right, rng.normal(-3, 1, 500), rng.normal(0, 1, 1500)])
    limit = threshold(scores, far, near)
    wrong = np.arange(len(scores)) >= len(right)
    assert (wrong & (scores <= limit)).sum() >= 0.95 * wrong.sum() and wrong[scores <= limit].mean() >= 0.93
    assert (right <= threshold(right, far, near)).mean() < 0.01
