"""Invariants of a benchmark's pictures and of a user's own queries: each distinct content is embedded once and its vector is its
own in whatever order, a changed file is looked at again, names are sought where they belong; no row of a query file is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mmret.benchmarks.common import pictures as module
from mmret.benchmarks.common.image_folder import ImageFolder
from mmret.benchmarks.common.pictures import Embedder, Shot
from mmret.benchmarks.common.runs import query_vectors
from mmret.benchmarks.triplets import Query, read_triplets
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.schemas import CORPUS_MANIFEST, IMAGES_INDEX
from mmret.search.models import pick_recipe, trained_recipes
from mmret.search.names import ImageNames
from tests.mine.lakes import filled

from .checkpoints import Colours, InstructedColours, paint


@pytest.fixture
def painted(tmp_path) -> list[Path]:
    """Five files of four pictures: the fourth is a copy of the first."""
    for n in range(3):
        paint(tmp_path / "pictures" / f"{n}.png", n)
    paint(tmp_path / "pictures" / "4.png", 9)
    (tmp_path / "pictures" / "3.png").write_bytes((tmp_path / "pictures" / "0.png").read_bytes())
    return [tmp_path / "pictures" / f"{n}.png" for n in range(5)]


def test_each_content_is_embedded_once_and_every_row_is_its_own_pictures(painted, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    colours = Colours()
    made = Embedder(colours, "m", Lake(tmp_path / "lake"), batch_size=1)
    found = made.picture_vectors([Shot(p) for p in painted])
    assert colours.pictures == 4 and found.keys[0] == found.keys[3] and len(set(found.keys)) == 4 and not found.unreadable
    alone = {p: Embedder(Colours(), "m").picture_vectors([Shot(p)]).rows[0] for p in painted}
    np.testing.assert_array_equal(found.rows, np.stack([alone[p] for p in painted]))
    turned = made.picture_vectors([Shot(p) for p in reversed(painted)])
    np.testing.assert_array_equal(turned.rows, found.rows[::-1])
    later = Colours()
    again = Embedder(later, "m", Lake(tmp_path / "lake")).picture_vectors([Shot(p) for p in painted])
    np.testing.assert_array_equal(again.rows, found.rows)
    assert later.pictures == 0
    Embedder(later, "n", Lake(tmp_path / "lake")).picture_vectors([Shot(painted[0])])
    assert later.pictures == 1, "another model's vectors are not taken"


def test_a_file_that_was_replaced_is_looked_at_again_whether_its_size_or_its_time_changed(painted):
    colours = Colours()
    made = Embedder(colours, "m")
    first = made.picture_vectors([Shot(painted[0])]).rows[0]
    paint(painted[0], 77)
    os.utime(painted[0], ns=(1, 1))
    second = made.picture_vectors([Shot(painted[0])]).rows[0]
    assert colours.pictures == 2 and not np.array_equal(first, second)
    made.picture_vectors([Shot(painted[0])])
    assert colours.pictures == 2


def test_a_box_is_a_picture_of_its_own(painted):
    made = Embedder(Colours(), "m")
    boxes = [Shot(painted[0], box) for box in (None, (0, 0, 4, 4), (0, 0, 5, 4))]
    assert len(set(made.picture_vectors([*boxes, Shot(painted[1])]).keys)) == 4


def test_what_is_no_picture_has_a_row_of_zeros_and_a_reason_and_the_others_keep_their_places(painted):
    painted[1].write_bytes(b"no picture")
    found = Embedder(Colours(), "m", batch_size=2).picture_vectors([Shot(p) for p in painted])
    assert list(found.unreadable) == [1] and "not_an_image" in found.unreadable[1] and not found.rows[1].any()
    alone = Embedder(Colours(), "m").picture_vectors([Shot(painted[2])]).rows[0]
    np.testing.assert_array_equal(found.rows[2], alone)


def test_equal_texts_are_embedded_once_and_instructions_go_to_those_who_take_them():
    colours, instructed = Colours(), InstructedColours()
    rows = Embedder(colours, "m").text_vectors(["to 1 2 3", "to 4 5 6", "to 1 2 3"], "find it")
    assert colours.texts == ["to 1 2 3", "to 4 5 6"] and np.array_equal(rows[0], rows[2]) and not np.array_equal(rows[0], rows[1])
    Embedder(instructed, "m").text_vectors(["to 1 2 3"], "find it")
    Embedder(instructed, "m").text_vectors(["to 1 2 3"])
    assert instructed.instructions == ["find it", None]


def test_composed_queries_are_embedded_in_batches_each_picture_with_its_own_text(painted):
    made = Embedder(Colours(1.0), "m", batch_size=2)
    texts = [f"to {n} 0 0" for n in range(5)]
    shots = [Shot(p) for p in painted]
    whole = made.composed_vectors(shots, texts)
    one = np.concatenate([made.composed_vectors([s], [t]) for s, t in zip(shots, texts, strict=True)])
    np.testing.assert_array_equal(whole, one)
    both = query_vectors(made, shots, [(t, "to 7 7 7") for t in texts], "")
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, rtol=1e-5)
    assert not np.allclose(both, whole) and np.array_equal(query_vectors(made, shots, [(t,) for t in texts], ""), whole)
    assert np.array_equal(query_vectors(made, None, [(t,) for t in texts], ""), made.text_vectors(texts))


def test_a_model_that_embeds_different_pictures_alike_is_refused_and_copies_of_one_are_not(painted):
    class Same(Colours):
        def encode(self, images=None, texts=None, batch_size=64):
            return np.ones((len(images), 3), np.float32)

    Embedder(Same(), "m").picture_vectors([Shot(painted[0]), Shot(painted[3])])
    with pytest.raises(UserError, match="all 2 pictures have the same embedding"):
        Embedder(Same(), "m").picture_vectors([Shot(painted[0]), Shot(painted[1])])


def test_pictures_are_sought_in_the_folder_then_in_its_subfolders_and_elsewhere_where_the_name_tells(tmp_path):
    for name in ("a.jpg", "sub/a.png", "sub/b.png", "sub/b.jpg", "other/c.png", "d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folder = ImageFolder(tmp_path, ("sub", "none"), (".png", ".jpg"))
    found = {n: folder.find(n) for n in ("a", "b", "c", "d")}
    assert found == {"a": tmp_path / "a.jpg", "b": tmp_path / "sub/b.png", "c": None, "d": None}
    assert ImageFolder(tmp_path, ("sub",), (".png",), anywhere=True).find("c") == tmp_path / "other/c.png"
    (tmp_path / "deep").mkdir()
    (tmp_path / "other").rename(tmp_path / "deep" / "other")
    assert ImageFolder(tmp_path, (), (".png",)).find("other/c") == tmp_path / "deep/other/c.png"
    assert ImageFolder(tmp_path, (), (".png",)).find("another/c") is None
    assert ImageFolder(tmp_path).find("d") == tmp_path / "d" and ImageFolder(tmp_path).find("x/../d") is None
    with pytest.raises(UserError, match="no folder of images"):
        ImageFolder(tmp_path / "d")


# -- queries of a user ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def lake(tmp_path) -> Lake:
    """Images a, b and c under /one, another a.png under /two; d.png was rejected; b has two names."""
    made = Lake(tmp_path / "lake")
    roots, ids = ["/one", "/one", "/one", "/two", "/one"], ["A", "B", "B", "A2", None]
    columns = {"root": roots, "path": ["a.png", "b.png", "b2.png", "a.png", "d.png"], "image_id": ids}
    made.write("corpus_manifest", "shard-00000", filled(CORPUS_MANIFEST, columns | {"shard": ["shard-00000"] * 5}), "x")
    made.write("images", "shard-00000", filled(IMAGES_INDEX, {"image_id": ["A", "B", "A2"], "shard": ["shard-00000"] * 3}), "x")
    return made


def test_a_picture_is_named_by_id_by_path_or_by_absolute_path_where_two_sources_share_one(lake):
    names = ImageNames(lake)
    said = ("A", "b.png", "./b.png", "b2.png", "/one/a.png", "/two/a.png", "d.png", "/one/d.png")
    found = {name: names.resolve(name, "here") for name in said}
    assert list(found.values()) == ["A", "B", "B", "B", "A", "A2", None, None]
    with pytest.raises(UserError, match="here: a.png names 2 images of different sources"):
        names.resolve("a.png", "here")
    with pytest.raises(UserError, match="here: no image of the corpus is called 'x.png'"):
        names.resolve("x.png", "here")


def test_every_row_of_a_query_file_is_a_query_or_is_counted_with_a_reason(lake, tmp_path):
    rows = [
        {"reference": "/one/a.png", "text": "x", "target": "b.png"},
        {"reference": "b.png", "text": "y", "target": ["/two/a.png", "b2.png", "d.png"]},
        {"reference": "b.png", "text": "z", "target": "b2.png"},
        {"reference": "d.png", "text": "z", "target": "b.png"},
        {"reference": "b.png", "text": "z", "target": ["d.png"]},
    ]
    expected = [Query("A", "x", frozenset("B")), Query("B", "y", frozenset(["A2"]))]
    for text in (json.dumps(rows), "\n\n".join(map(json.dumps, rows)), "\ufeff" + json.dumps(rows)):
        (tmp_path / "q").write_text(text, encoding="utf-8")
        assert read_triplets(lake, tmp_path / "q") == (expected, {"target_is_the_reference": 1, "rejected_at_ingest": 2})
    (tmp_path / "q").write_text(json.dumps(rows[0]))
    assert read_triplets(lake, tmp_path / "q") == (expected[:1], {})


@pytest.mark.parametrize("text, said", [
    ('{"reference": "A", "text": "x", "target": "B"}\n{"reference": "A"', "line 2: not JSON"),
    ('[{"reference": "A", "text": "x", "target": "B"}, {"reference": "A", "text": "x"}]', "row 2: expected an object"),
    ('[1]', "row 1: expected an object"),
    ('[["reference", "text", "target"]]', "row 1: expected an object"),
    ('{"reference": "A", "text": " ", "target": "B"}', "row 1: text and target must not be empty"),
    ('{"reference": "A", "text": "x", "target": []}', "row 1: text and target must not be empty"),
    ('{"reference": "A", "text": 3, "target": "B"}', "row 1: text and target must not be empty"),
    ('{"reference": "d.png", "text": "x", "target": "B"}', "holds no triplet that can be asked"),
])  # fmt: skip
def test_a_query_file_that_is_malformed_is_refused_by_row(lake, tmp_path, text, said):
    (tmp_path / "q").write_text(text)
    with pytest.raises(UserError, match=said):
        read_triplets(lake, tmp_path / "q")


def test_recipes_that_run_trains_come_first_and_those_without_a_checkpoint_not_at_all(tmp_path):
    from mmret.schemas import CHECKPOINTS
    from mmret.settings import load_profile

    lake, profile = Lake(tmp_path), load_profile("demo").model_copy(update={"train": ("z", "y")})
    assert pick_recipe(lake, profile) == "untrained" == pick_recipe(lake, profile, "untrained")
    for name in ("a", "y", "z", "empty"):
        rows = filled(CHECKPOINTS, {"recipe": [name], "folder": [name]})
        lake.write("checkpoints", name, rows if name != "empty" else CHECKPOINTS.empty_table(), "x")
    assert trained_recipes(lake, profile) == ["z", "y", "a"] and pick_recipe(lake, profile) == "z"
    assert pick_recipe(lake, profile, "a") == "a"
    with pytest.raises(UserError, match="no checkpoint of recipe 'empty'.*there are z, y, a, untrained"):
        pick_recipe(lake, profile, "empty")


def test_without_an_instruction_a_model_keeps_its_own_and_one_that_knows_none_is_asked_without(painted):
    class OwnWords(InstructedColours):
        def encode(self, images=None, texts=None, batch_size=64, instruction="its own"):
            return super().encode(images, texts, batch_size, instruction)

    model, plain = OwnWords(), Colours()
    for instruction in (None, "", "find it"):
        Embedder(model, "m").text_vectors(["to 1 2 3"], instruction)
        Embedder(plain, "p").composed_vectors([Shot(painted[0])], ["to 1 2 3"], instruction)
    assert model.instructions == ["its own", "its own", "find it"] and plain.pictures == 3
