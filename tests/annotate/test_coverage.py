"""What pairs change is told from the captions alone: kinds of words are those of the truth, shares add up, and no order matters."""

import math
import os
import random
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from mmret.annotate.quality import coverage as module
from mmret.annotate.quality.coverage import SAMPLE, TELLS_LITTLE, coverage, effective, kinds_shown, lake_coverage, sentences
from mmret.annotate.quality.word_kinds import WordKinds, words_of
from mmret.hashing import pair_id
from mmret.ingest.shapes import ATTRIBUTES, caption, scene
from mmret.lake import Lake
from mmret.schemas import IMAGES_INDEX, PAIRS
from tests.conftest import CHECKOUT
from tests.mine.lakes import filled

SHAPES = 2500
ALWAYS_SAID = {"shape": 0.06, "colour": 0, "size": 0}
"""Attributes that every caption names (of the others a caption may say nothing), and the share of pairs in which only the name
changes: a ring is also called a hoop."""
WORDS = {
    "shape": "circle disk square triangle star heart cross ring hoop moon crescent|crescent moon|plus sign",
    "colour": "red orange yellow green blue purple",
    "size": "large small",
    "pattern": "plain striped dotted",
    "background": "white black striped|sky blue|pale blue|grey stripes|gray stripes",
    "position": "left right center|left edge|right edge",
    "other": "white ball|black box|pink flower",
}
"""What captions call the values of each attribute: words, and after a bar phrases."""


def named(attribute: str) -> set[str]:
    words, *phrases = WORDS[attribute].split("|")
    return {*words.split(), *phrases} | {words} if attribute == "other" else {*words.split(), *phrases}


def tables(pairs: list[tuple[str, str]], captions: dict[str, str | None]) -> tuple[pa.Table, pa.Table]:
    columns = {
        "pair_id": [pair_id(*pair) for pair in pairs],
        "query_id": [query for query, _ in pairs],
        "target_id": [target for _, target in pairs],
        "signals": [["caption"] if at % 3 else ["clip_image", "dino_image"] for at in range(len(pairs))],
    }
    images = {"image_id": pa.array(captions, pa.string()), "caption": pa.array(captions.values(), pa.string())}
    return filled(PAIRS, columns), pa.table(images)


@pytest.fixture(scope="module")
def shapes() -> tuple[pa.Table, pa.Table, dict[str, float]]:
    """Pairs of scenes that differ in few attributes, their captions, and the true share of pairs by attribute that differs."""
    scenes = [scene(5, at) for at in range(SHAPES)]
    values = np.array([[list(ATTRIBUTES[name]).index(value) for name, value in s.attributes.items()] for s in scenes])
    draw = random.Random(3)
    pairs, differ = [], []
    for at in range(0, SHAPES, 2):
        unlike = values != values[at]
        near = np.flatnonzero((unlike.sum(1) <= 3) & (unlike.sum(1) > 0) & (unlike[:, 1] | (np.arange(SHAPES) % 4 == 0)))
        for other in draw.sample(near.tolist(), min(2, len(near))):
            pairs.append((f"{at:05}", f"{other:05}"))
            differ.append(unlike[other])
    truth = dict(zip(ATTRIBUTES, np.mean(differ, axis=0), strict=True))
    return *tables(pairs, {f"{at:05}": caption(s) for at, s in enumerate(scenes)}), truth


@pytest.fixture(scope="module")
def found(shapes) -> dict:
    return coverage(*shapes[:2])


def attribute_of(kind: dict) -> str:
    holding = [name for name in WORDS if set(kind["words"]) <= named(name)]
    assert len(holding) == 1, f"words of more than one attribute, or of none: {kind['words']}"
    return holding[0]


def test_each_kind_of_words_is_one_attribute_and_every_attribute_has_one_at_most(found):
    kinds = [attribute_of(kind) for kind in found["kinds"]]
    assert len(set(kinds)) == len(kinds)
    assert set(WORDS) - set(kinds) <= {"other"}  # so few captions name one that no two are equal but for it


def test_the_share_of_each_kind_is_the_share_of_pairs_that_differ_in_that_attribute(shapes, found):
    shares = {attribute_of(kind): kind for kind in found["kinds"]}
    assert shapes[2]["colour"] > 2 * shapes[2]["size"]  # else equal shares would do
    for name, more in ALWAYS_SAID.items():
        assert -0.03 < shares[name]["replaced"] - shapes[2][name] < 0.03 + more
        assert shares[name]["added_or_removed"] < 0.03 + more
    for name in ("pattern", "position"):  # what is left unsaid is no replacement
        assert shares[name]["replaced"] <= shapes[2][name] + 0.05
        assert shares[name]["replaced"] + shares[name]["added_or_removed"] >= shapes[2][name] - 0.05


def test_the_outcomes_and_the_sizes_are_shares_of_a_whole(found):
    assert math.isclose(sum(found[name] for name in ("told", "unlike", "same", "no_caption")), 1)
    assert math.isclose(sum(found["words"].values()), 1)
    assert all(0 <= kind[part] <= 1 for kind in found["kinds"] for part in ("replaced", "added_or_removed"))
    assert found["says"] is None and found["looked_at"] == found["pairs"]
    assert 1 <= found["effective_kinds"] <= len(found["kinds"])
    assert set(found["by_signal"]) == {"clip_image", "dino_image", "caption"}


def test_the_order_of_pairs_and_captions_does_not_matter(shapes, found):
    def shuffled(table: pa.Table) -> pa.Table:
        return table.take(np.random.default_rng(1).permutation(table.num_rows))

    assert coverage(*map(shuffled, shapes[:2])) == found


def test_a_word_of_two_meanings_is_in_two_kinds_and_each_swap_counts_for_its_own():
    balls, walls, things = ("striped", "dotted", "plain"), ("striped", "white", "black"), ("ball", "box", "cone", "ring")
    captions = {
        f"{ball} {thing} {wall}": f"a {ball} {thing} on a {wall} wall" for ball in balls for thing in things for wall in walls
    }
    kinds = WordKinds({name: words_of(text) for name, text in captions.items()})
    by_words = {frozenset(words): kind for kind, words in enumerate(kinds.members)}
    assert set(by_words) == {frozenset(balls), frozenset(walls), frozenset(things)}

    def replaced(query: str, target: str) -> set:
        old, new = kinds.bags[query], kinds.bags[target]
        return set(kinds.changes(old - new, new - old).replaced)

    assert replaced("plain box striped", "plain box black") == {by_words[frozenset(walls)]}
    assert replaced("striped box white", "dotted box white") == {by_words[frozenset(balls)]}
    assert replaced("plain box white", "plain cone black") == {by_words[frozenset(walls)], by_words[frozenset(things)]}


def test_a_word_is_not_split_into_meanings_by_neighbours_that_are_merely_rare():
    chain = ("red hat", "blue hat", "blue bag", "green bag")  # red and green never stand in one place
    captions = [f"{size} {text}" for size in ("big", "small", "old") for text in chain]
    assert {"red", "blue", "green"} in map(set, WordKinds({text: words_of(text) for text in captions}).members)


def test_captions_that_have_nothing_in_common_tell_nothing_and_it_is_said():
    draw = random.Random(0)
    texts = {f"{at:03}": " ".join(f"w{draw.randrange(5000)}" for _ in range(40)) for at in range(60)}
    pairs = [(query, target) for query, target in zip(texts, [*texts][1:], strict=False)]
    told = coverage(*tables(pairs, texts))
    assert told["unlike"] == 1 and told["kinds"] == [] and told["effective_kinds"] == 0
    assert told["says"] == TELLS_LITTLE and any(TELLS_LITTLE[1:] in line for line in sentences(told))
    assert kinds_shown(told) == []


def test_equal_missing_and_unknown_captions_are_told_apart():
    captions = {"a": "a red hat", "b": "A red hat.", "c": None, "d": "  ", "e": "a blue hat"}
    told = coverage(*tables([("a", "b"), ("a", "c"), ("a", "d"), ("a", "gone"), ("a", "e")], captions))
    assert {name: round(told[name] * 5) for name in ("told", "unlike", "same", "no_caption")} == {
        "told": 1,
        "unlike": 0,
        "same": 1,
        "no_caption": 3,
    }
    assert told["words"]["1"] == 1 and told["other"] == {"replaced": 1, "added_or_removed": 0}
    assert coverage(*tables([], captions))["says"] is None


def test_more_pairs_than_the_sample_are_drawn_by_their_ids_and_it_is_said(shapes, found, monkeypatch):
    assert shapes[0].num_rows <= SAMPLE
    monkeypatch.setattr(module, "SAMPLE", 1000)
    drawn = coverage(*shapes[:2])
    assert 850 < drawn["looked_at"] < 1150 and drawn["pairs"] == found["pairs"]
    assert "drawn by hash" in sentences(drawn)[0] and "drawn by hash" not in sentences(found)[0]
    assert abs(drawn["kinds"][0]["replaced"] - found["kinds"][0]["replaced"]) < 0.06


def test_the_effective_number_of_equal_shares_is_their_number_and_never_more():
    assert effective({}) == 0 and math.isclose(effective(dict.fromkeys("abcd", 7)), 4)
    assert 1 < effective({"a": 99, "b": 1}) < 1.1


def test_a_lake_s_coverage_is_that_of_its_pairs_and_a_lake_without_pairs_has_none(shapes, found, tmp_path):
    pairs, captions, _ = shapes
    lake = Lake(tmp_path)
    assert lake_coverage(lake) is None
    ids, texts = captions["image_id"].to_pylist(), captions["caption"].to_pylist()
    lake.write("images", "shard-00000", filled(IMAGES_INDEX, {"image_id": ids, "caption": texts}), "x")
    lake.write("pairs", "shard-00000", pairs.slice(0, 700), "x")
    lake.write("pairs", "shard-00001", pairs.slice(700), "x")
    lake.write("pairs", "shard-00002", PAIRS.empty_table(), "x")
    whole = lake_coverage(lake)
    assert whole["pairs"] == pairs.num_rows and whole["told"] == pytest.approx(found["told"], abs=0.02)
    assert lake_coverage(lake, ["shard-00001"])["pairs"] == pairs.num_rows - 700
    assert lake_coverage(lake, ["shard-00002"]) is None


def test_coverage_is_the_same_in_every_process(tmp_path):
    """Whatever order sets of text have there."""
    program = (
        "import json, sys; from tests.annotate.test_coverage import *\n"
        "captions = {str(i): words_of(caption(scene(0, i))) for i in range(700)}\n"
        "kinds = WordKinds(captions)\n"
        "print(json.dumps([kinds._links, kinds.members], sort_keys=True))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            cwd=CHECKOUT,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_the_sample_of_a_lake_is_that_of_all_its_pairs_whatever_shards_they_are_in(monkeypatch):
    monkeypatch.setattr(module, "SAMPLE", 300)
    pairs = pa.table({"pair_id": [pair_id(str(i), "x") for i in range(2000)]})
    whole = module._sample(pairs, 2000)["pair_id"].to_pylist()
    parts = [module._sample(pairs.slice(at, 500), 2000)["pair_id"].to_pylist() for at in range(0, 2000, 500)]
    assert whole == [i for part in parts for i in part] and 200 < len(whole) < 400
