"""Invariants of pairs on a lake: a near-duplicate of the target is no negative, in whatever shard each image lies; every pair and
negative obeys the rule that a comparison of all with all would give; choices do not depend on the shards."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mmret.lake import Lake
from mmret.mine.stage import mine_candidates, mine_duplicates, mine_neighbours, mine_pairs
from mmret.schemas import SIGNALS
from mmret.settings import DuplicateSettings, MineSettings
from tests.mine.corpora import BANDS, clustered, image_ids
from tests.mine.lakes import add_shard, no_encoder


def mined(root, parts: list[tuple[list[str], dict[str, np.ndarray]]], settings: MineSettings) -> Lake:
    lake = Lake(root)
    for at, (ids, vectors) in enumerate(parts):
        add_shard(lake, f"shard-{at:05d}", ids, vectors)
        mine_candidates(lake, f"shard-{at:05d}", settings, "x", no_encoder)
    for shard in lake.shards():
        mine_neighbours(lake, shard, settings, "x")
    for shard in lake.shards():
        mine_pairs(lake, shard, settings, "x")
    return lake


def at_angles(*degrees: float) -> np.ndarray:
    """Unit vectors in a plane, float16."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles), *np.zeros((6, len(degrees)))], 1).astype(np.float16)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
def test_query_target_and_a_near_duplicate_of_the_target_in_three_shards(tmp_path, order):
    images = [(["query"], at_angles(0)), (["target"], at_angles(30)), (["copy", "other"], at_angles(31, -30))]
    parts = [(ids, dict.fromkeys(SIGNALS, vectors)) for ids, vectors in (images[at] for at in order)]
    settings = MineSettings(tile=64, bands=BANDS, targets_per_query=1)
    rows = {row["query_id"]: row for row in mined(tmp_path, parts, settings).read("pairs").to_pylist()}
    target, negatives = rows["query"]["target_id"], rows["query"]["hard_negatives"]
    assert set(negatives) == ({"target", "copy"} if target == "other" else {"other"})
    assert order == (1, 2, 0) or target == "target", "the others lie in a later shard"


@pytest.mark.parametrize("k", [3, 40])
def test_no_negative_is_above_a_band_of_query_or_target_however_the_corpus_is_cut(tmp_path, k):
    ids = image_ids(160)
    vectors = {signal: clustered(160, 16, at, repeats=0.5) for at, signal in enumerate(SIGNALS)}
    settings = MineSettings(k=k, tile=64, bands=BANDS)

    def cut(root, cuts: list[int]) -> pa.Table:
        ends = [0, *cuts, 160]
        spans = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        return mined(root, [(ids[s], {g: v[s] for g, v in vectors.items()}) for s in spans], settings).read("pairs")

    pairs = cut(tmp_path / "four", [30, 70, 120])
    above = np.zeros((160, 160), bool)
    for signal, values in vectors.items():
        above |= (values.astype(np.float64) @ values.astype(np.float64).T).astype(np.float32) >= np.float32(BANDS[signal].high)
    place = {image_id: at for at, image_id in enumerate(ids)}
    negatives = 0
    for row in pairs.to_pylist():
        query, target = place[row["query_id"]], place[row["target_id"]]
        assert not above[query, target]
        for negative in row["hard_negatives"]:
            assert not above[query, place[negative]] and not above[target, place[negative]]
            negatives += 1
    assert negatives > 100
    assert {row["query_id"] for row in cut(tmp_path / "one", []).to_pylist()} == {row["query_id"] for row in pairs.to_pylist()}


def test_one_of_a_group_of_near_duplicates_is_in_pairs_and_the_others_are_counted(tmp_path):
    ids = image_ids(120)
    vectors = {signal: clustered(120, 16, at, repeats=0.5) for at, signal in enumerate(SIGNALS)}
    settings = MineSettings(k=40, tile=64, bands=BANDS)
    lake = mined(tmp_path, [(ids, vectors)], settings)
    kept = lake.read("pairs")
    mine_duplicates(lake, DuplicateSettings(agree=1), "x")
    groups = lake.read("duplicates").to_pylist()
    others = {row["image_id"] for row in groups if not row["first"]}
    assert others & set(kept["query_id"].to_pylist())
    facts = mine_pairs(lake, "shard-00000", settings.model_copy(update={"duplicates": "one_of_group"}), "x")
    pairs = lake.read("pairs")
    named = {*pairs["query_id"].to_pylist(), *pairs["target_id"].to_pylist(), *pc.list_flatten(pairs["hard_negatives"]).to_pylist()}
    assert pairs.num_rows and not others & named and facts.notes["reasons"]["not_first_of_its_duplicates"] > 0
    mine_pairs(lake, "shard-00000", settings, "x")
    assert lake.read("pairs").equals(kept), "kept by default"
