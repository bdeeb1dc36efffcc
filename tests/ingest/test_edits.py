"""Invariants of held-out edits: targets are all pictures, and only those, with exactly the edited attributes; the
reference is never one; edits are reproducible; the words name what changes and nothing that stays."""

from __future__ import annotations

import inspect

from mmret.benchmarks import edits as module
from mmret.benchmarks.edits import ATTRIBUTES, edits
from mmret.ingest import shapes
from mmret.ingest.shapes import scene

CORPUS = [(f"{i:032x}", scene(0, i).attributes) for i in range(3000)]
BY_ID = dict(CORPUS)


def changes(edit: dict) -> list[str]:
    before, after = BY_ID[edit["reference"]], BY_ID[edit["targets"][0]]
    return [name for name in ATTRIBUTES if before[name] != after[name]]


def test_targets_are_exactly_the_pictures_with_the_edited_attributes():
    for edit in edits(CORPUS, 300, seed=1):
        wanted = BY_ID[edit["targets"][0]]
        assert edit["targets"] == sorted(i for i, extra in CORPUS if extra == wanted)
        assert edit["reference"] not in edit["targets"]
        assert len(changes(edit)) in (1, 2)


def test_edits_are_reproducible_whatever_the_order_of_the_corpus():
    made = edits(CORPUS, 200, seed=1)
    assert made == edits(CORPUS[::-1], 200, seed=1) != edits(CORPUS, 200, seed=2)
    assert len({edit["reference"] for edit in made}) == 200
    assert edits(CORPUS, 50, seed=1) == made[:50]


def test_every_attribute_is_edited_alone_and_with_another():
    made = edits(CORPUS, 1000)
    assert len(made) == 1000
    single = [edit for edit in made if len(changes(edit)) == 1]
    assert 0.4 < len(single) / len(made) < 0.9
    for name in ATTRIBUTES:
        assert sum(changes(edit) == [name] for edit in single) > 30


def test_words_name_the_new_value_and_none_that_stays():
    for edit in edits(CORPUS, 500):
        before, after, changed = BY_ID[edit["reference"]], BY_ID[edit["targets"][0]], changes(edit)
        words = edit["text"].replace("light blue background", "").split()
        assert words.count("and") == len(changed) - 1
        for name in ("shape", "colour"):
            assert (after[name] in words) == (name in changed)
            assert name not in changed or before[name] not in words


def test_wordings_are_different_texts_of_the_same_edit_and_begin_with_its_own():
    made = edits(CORPUS, 500)
    for edit in made:
        texts = edit["wordings"]
        assert texts[0] == edit["text"] and len(set(texts)) == len(texts) <= module.WORDINGS
        assert len(texts) > 1 or changes(edit) == ["other"], "what is added or taken away has one phrase"
        assert {text.count(" and ") for text in texts} == {len(changes(edit)) - 1}
    assert sum(len(edit["wordings"]) == 3 for edit in made) > 200


def test_rows_without_the_attributes_and_empty_corpora_give_no_edits():
    assert edits([], 10) == []
    assert edits([("a", {}), ("b", {"shape": "star"})], 10) == []
    assert edits(CORPUS[:1], 10) == []


def test_edits_know_the_attributes_of_scenes_and_share_no_code_with_the_annotator():
    assert tuple(shapes.ATTRIBUTES) == ATTRIBUTES
    lines = inspect.getsource(module).splitlines()
    imported = [line for line in lines if line.startswith(("from mmret", "import mmret"))]
    assert imported == ["from mmret.hashing import uniform"]
