"""Rows of the other tasks: every captioned picture asks and is asked for, twins are above a band, no hard negative is right."""

from __future__ import annotations

from itertools import product

import pyarrow as pa
import pytest

from mmret.assemble.stage import make_tasks
from mmret.assemble.tasks import task_rows
from mmret.assemble.twins import COMMON, NEGATIVES
from mmret.curation.split import split_of, split_of_caption
from mmret.hashing import content_id
from mmret.lake import Lake
from mmret.mine.images import normalise_caption
from mmret.schemas import CORPUS_MANIFEST, IMAGES_INDEX, LEAKS, NEIGHBOURS, TASKS, TRIPLETS
from mmret.settings import EvaluateSettings
from mmret.tasks import MADE_TASKS, task_of
from tests.mine.lakes import filled

SETTINGS = EvaluateSettings(held_out=0.3)
ABOVE, INSIDE = True, False
CAPTIONS = {
    "a": "a red star", "b": "a red  Star", "c": "a scarlet star", "d": "a blue star", "e": "a green ring", "f": "a red ring",
    "g": "a moon", "h": "", "lone": "a lone thing",
}  # fmt: skip


def neighbours(*rows: tuple[str, str, str, bool] | tuple[str, str, str, bool, float]) -> pa.Table:
    """Rows (query, target, signal, above[, score])."""
    names = ("query_id", "target_id", "signal", "above_band", "score")
    return filled(NEIGHBOURS, {n: [(*row, 0.9)[at] for row in rows] for at, n in enumerate(names)})


def images(captions: dict[str, str] = CAPTIONS) -> pa.Table:
    licences = [None if i == "c" else "CC0" for i in captions]
    columns = {"image_id": list(captions), "caption": list(captions.values()), "licence": licences}
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def made(found: pa.Table, triplets: pa.Table = TRIPLETS.empty_table(), own: str = "abcdefgh", **more) -> dict[str, list[dict]]:
    rows, counts = task_rows(found, triplets, images(**more), pa.array([*own, "lone"]), SETTINGS)
    assert rows.schema == TASKS and sum(counts.values()) == rows.num_rows
    by_task = {name: [row for row in rows.to_pylist() if row["task"] == name] for name in MADE_TASKS}
    assert counts == {name: len(of) for name, of in by_task.items()}
    assert rows["task"].to_pylist() == [name for name, of in by_task.items() for _ in of], "by task, so that one is read alone"
    return by_task


NEAR = neighbours(
    ("a", "b", "caption", ABOVE), ("a", "b", "dino_image", INSIDE),  # the same caption, and alike
    ("a", "c", "clip_image", ABOVE), ("a", "c", "dino_image", ABOVE), ("a", "c", "caption", INSIDE),  # looks the same
    ("a", "d", "clip_image", INSIDE), ("a", "e", "dino_image", INSIDE), ("a", "f", "caption", INSIDE),
    ("d", "a", "clip_image", INSIDE), ("d", "e", "clip_image", INSIDE), ("d", "e", "caption", INSIDE),
)  # fmt: skip


def expected_split(row: dict) -> str:
    sides = [split_of(row[f"{side}_id"], SETTINGS) for side in ("query", "target")]
    said = [split_of_caption(normalise_caption(row[f"{side}_caption"]), SETTINGS) for side in ("query", "target")]
    return "test" if "test" in sides + said else "train"


def test_a_picture_or_caption_that_is_held_out_is_on_neither_side_of_a_row_that_is_trained_on():
    captions = {f"p{n}": f"thing {n // 2}" for n in range(60)} | {f"q{n}": f"other words for {n}" for n in range(60)}
    alike = [(f"p{n}", f"p{n ^ 1}", signal, ABOVE) for n in range(60) for signal in ("caption", "dino_image")]
    seen = [(f"p{n}", f"q{n}", signal, ABOVE) for n in range(60) for signal in ("clip_image", "dino_image")]
    words = [(f"p{n}", f"q{n}", "caption", INSIDE) for n in range(60)]
    rows, _ = task_rows(
        neighbours(*alike, *seen, *words), TRIPLETS.empty_table(), images(captions), pa.array(list(captions)), SETTINGS
    )
    by_task: dict[str, list[dict]] = {}
    for row in rows.to_pylist():
        by_task.setdefault(row["task"], []).append(row)
    assert set(by_task) == {"text_to_image", "image_to_text", "image_to_image", "text_to_text"}
    for found in by_task.values():
        assert [row["split"] for row in found] == [expected_split(row) for row in found]
        assert {row["split"] for row in found} == {"train", "test"}
        trained = {
            normalise_caption(row[f"{side}_caption"]) for row in found if row["split"] == "train" for side in ("query", "target")
        }
        assert not any(split_of_caption(said, SETTINGS) == "test" for said in trained), "what evaluations ask back"


def test_every_captioned_picture_asks_by_its_caption_and_is_asked_for_once_each_with_or_without_neighbours():
    rows = made(NEAR)
    for task in ("text_to_image", "image_to_text"):
        assert [row["query_id"] for row in rows[task]] == sorted(i for i, caption in CAPTIONS.items() if caption)
        for row in rows[task]:
            assert row["target_id"] == row["query_id"] and row["pair_id"] is None
            assert row["query_caption"] == row["target_caption"] == CAPTIONS[row["query_id"]]
            assert row["texts"] == ([row["query_caption"]] if task == "text_to_image" else [])
            assert row["split"] == expected_split(row)
            assert row["task_id"] == content_id(f"{task}:{row['query_id']}:{row['target_id']}".encode())


def test_a_hard_negative_is_inside_the_band_of_an_image_signal_above_none_and_says_something_else():
    rows = made(NEAR)
    of = {row["query_id"]: row for row in rows["text_to_image"]}
    assert sorted(of["a"]["hard_negatives"]) == ["d", "e"], "b says the same, c looks the same, f was found by its caption alone"
    assert of["a"]["signals"] == ["clip_image", "dino_image"]
    assert of["d"]["hard_negatives"] == ["a", "e"], "what the caption signal did not find comes first"
    assert of["e"]["hard_negatives"] == of["lone"]["hard_negatives"] == [] == of["lone"]["signals"]
    for task in MADE_TASKS:
        for row in rows[task]:
            assert row["negative_captions"] == [CAPTIONS[i] for i in row["hard_negatives"]]
            assert row["target_id"] not in row["hard_negatives"]


def test_a_picture_said_to_be_the_same_is_a_better_twin_than_one_seen_to_be_and_texts_are_twins_only_if_they_differ():
    rows = made(NEAR)
    assert [(r["query_id"], r["target_id"], r["texts"]) for r in rows["image_to_image"]] == [("a", "b", [])]
    assert [(r["query_id"], r["target_id"], r["texts"]) for r in rows["text_to_text"]] == [("a", "c", ["a red star"])]
    assert rows["image_to_image"][0]["signals"] == ["dino_image", "caption"]
    assert [r["licence"] for t in ("image_to_image", "text_to_text") for r in rows[t]] == ["CC0", "CC0 | unknown"]


def test_a_pair_inside_all_bands_is_no_twin_nor_is_one_that_some_signal_did_not_find():
    inside = neighbours(*((*pair, signal, INSIDE) for pair in (("a", "d"),) for signal in ("clip_image", "dino_image", "caption")))
    one_above = neighbours(("a", "d", "clip_image", ABOVE), ("a", "d", "dino_image", INSIDE))
    without_dino = neighbours(("a", "d", "clip_image", ABOVE), ("a", "d", "caption", INSIDE))
    for found in (inside, one_above, without_dino):
        rows = made(found)
        assert rows["image_to_image"] == rows["text_to_text"] == []


def test_a_caption_that_many_have_does_not_say_that_they_show_the_same_unless_they_look_alike():
    others = [f"x{n}" for n in range(COMMON + 1)]
    captions = {"q": "product photo", "lone": "a lone thing", **dict.fromkeys(others, "product photo")}
    few = made(neighbours(*(("q", i, "caption", ABOVE) for i in others[:-1])), own="q", captions=captions)
    many = made(neighbours(*(("q", i, "caption", ABOVE) for i in others)), own="q", captions=captions)
    assert len(few["image_to_image"]) == 1 and many["image_to_image"] == []
    seen = neighbours(*(("q", i, "caption", ABOVE) for i in others), ("q", "x3", "dino_image", INSIDE))
    assert [r["target_id"] for r in made(seen, own="q", captions=captions)["image_to_image"]] == ["x3"]


def test_no_negative_of_a_twin_has_its_caption_or_is_its_near_duplicate():
    found = neighbours(
        ("a", "c", "clip_image", ABOVE), ("a", "c", "dino_image", ABOVE), ("a", "c", "caption", INSIDE),
        *(("a", i, "clip_image", INSIDE) for i in "defg"), ("c", "e", "dino_image", ABOVE),
    )  # fmt: skip
    captions = CAPTIONS | {"d": "A Scarlet star"}
    [row] = made(found, captions=captions)["image_to_image"]
    assert sorted(row["hard_negatives"]) == ["f", "g"], "d has the caption of c, e is a near-duplicate of c"
    assert sorted({r["query_id"]: r for r in made(found, captions=captions)["text_to_image"]}["a"]["hard_negatives"]) == [*"defg"]


def test_a_row_has_at_most_so_many_negatives_and_the_draw_depends_on_no_order_of_rows():
    found = neighbours(*(("a", i, s, INSIDE) for i, s in product("cdefg", ("clip_image", "dino_image"))))
    rows, back = made(found), made(found.take(list(range(found.num_rows))[::-1]))
    assert rows == back and len(rows["text_to_image"][0]["hard_negatives"]) == NEGATIVES


def test_a_triplet_s_candidates_carry_their_captions_and_what_says_the_same_as_the_answer_is_no_negative():
    columns = {
        "pair_id": ["p1", "p2"], "query_id": ["a", "a"], "target_id": ["d", "h"], "texts": [["x", "y", "z"]] * 2,
        "hard_negatives": [["a", "e", "h", "gone", "g"]] * 2, "signals": [["caption"]] * 2,
    }  # fmt: skip
    [row] = made(NEAR, filled(TRIPLETS, columns), captions=CAPTIONS | {"g": "a blue star"})["image_text_to_image_text"]
    assert (row["pair_id"], row["texts"], row["signals"]) == ("p1", ["x", "y", "z"], ["caption"])
    assert (row["query_caption"], row["target_caption"]) == ("a red star", "a blue star")
    assert row["hard_negatives"] == ["a", "e"] and row["negative_captions"] == ["a red star", "a green ring"]


def test_a_shard_without_pictures_or_captions_has_no_rows_and_is_no_mistake():
    """As one is whose sources have been taken away."""
    for own, captions in ((pa.array([], pa.string()), {}), (pa.array(["h"]), {"h": ""})):
        rows, counts = task_rows(NEIGHBOURS.empty_table(), TRIPLETS.empty_table(), images(captions), own, SETTINGS)
        assert rows.schema == TASKS and not rows.num_rows and counts == dict.fromkeys(MADE_TASKS, 0)


def test_without_neighbours_there_are_still_captions_to_ask_by():
    rows = made(NEIGHBOURS.empty_table())
    assert len(rows["text_to_image"]) == 8 and not rows["image_to_image"]
    assert [task_of(name).candidate for name, of in rows.items() if of] == [("image",), ("text",)]


@pytest.mark.parametrize("leaked", ["a", "d"])
def test_a_picture_of_a_benchmark_is_in_no_row(tmp_path, leaked):
    lake, ids = Lake(tmp_path), [i for i in CAPTIONS]
    lake.write("corpus_manifest", "shard-00000", filled(CORPUS_MANIFEST, {"shard": ["shard-00000"], "image_id": ["a"]}), "x")
    table = filled(IMAGES_INDEX, {"image_id": ids, "caption": list(CAPTIONS.values()), "shard": ["shard-00000"] * len(ids)})
    lake.write("images", "shard-00000", table, "x")
    lake.write("leaks", "all", filled(LEAKS, {"image_id": [leaked]}), "x")
    lake.write("neighbours", "shard-00000", NEAR, "x", linked_shards=["shard-00000"])
    triplet = {"pair_id": ["p"], "query_id": ["a"], "target_id": ["d"], "texts": [["x"]], "hard_negatives": [["a", "e"]]}
    lake.write("triplets", "shard-00000", filled(TRIPLETS, triplet | {"signals": [["caption"]]}), "x")
    facts = make_tasks(lake, "shard-00000", SETTINGS, "inputs")
    rows = lake.read("tasks").to_pylist()
    assert all(leaked not in (row["query_id"], row["target_id"], *row["hard_negatives"]) for row in rows)
    assert facts.notes["tasks"]["text_to_image"] == 7 and facts.notes["train"] + facts.notes["test"] == len(rows)
