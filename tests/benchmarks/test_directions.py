"""Directions: held-out pictures ask, all that is right counts, galleries are bounded, a perfect model finds everything."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from mmret.benchmarks.directions import ENOUGH, Corpus, Direction, candidates, directions, evaluate_direction
from mmret.benchmarks.edits import ATTRIBUTES
from mmret.benchmarks.figures import by_direction, lost, markdown, nest
from mmret.benchmarks.triplets import Query
from mmret.curation.split import split_of_caption
from mmret.hashing import draws, hash64
from mmret.settings import EvaluateSettings

SETTINGS = EvaluateSettings(held_out=0.5)


def corpus(scenes: int = 60, wordings: int = 2, root: str = "shapes:240?seed=0") -> Corpus:
    """Four pictures a scene, two of each wording."""
    rows = []
    for scene in range(scenes):
        extra = json.dumps(dict.fromkeys(ATTRIBUTES, "any") | {"colour": f"c{scene}"})
        for n in range(4):
            caption = f"thing {scene}" if n % wordings == 0 else f"Object  {scene}"
            rows.append({"image_id": f"{scene:03}-{n}", "caption": caption, "root": root, "extra": extra})
    return Corpus.of(pa.Table.from_pylist(rows))


def asked(made: Corpus, settings: EvaluateSettings = SETTINGS, triplets: tuple[Query, ...] = ()):
    found, left_out = directions(made, triplets, settings)
    return {direction.task.name: direction for direction in found}, left_out


class Knowing:
    """A model that knows which scene a picture or text is of; ``asks`` records the keywords of each call."""

    dim = 64

    def __init__(self):
        self.asks: list[dict] = []

    def encode(self, images=None, texts=None, batch_size=64, **query):
        self.asks.append(query)
        scenes = [image.split("-")[0] for image in images] if images is not None else [f"{int(t.split()[-1]):03}" for t in texts]
        return np.stack([self.of(scene) for scene in scenes])

    def of(self, scene: str) -> np.ndarray:
        values = draws(np.full(self.dim, hash64(scene), np.uint64) + np.arange(self.dim, dtype=np.uint64)) / 2**63 - 1
        return (values / np.linalg.norm(values)).astype(np.float32)


def figures_of(direction: Direction, model: Knowing, made: Corpus, query: dict, ks=(1, 4)) -> dict[str, float]:
    pictures = {i: model.of(i[:3]) for i in made.ids}
    gallery = np.stack(list(pictures.values())) if direction.searches_all else candidates(direction, model, by_id)
    return evaluate_direction(direction, model, pictures, gallery, by_id, query, ks)


def by_id(ids):
    return {i: i for i in ids}


def test_queries_are_held_out_captions_and_their_pictures_only_and_no_more_than_asked_for():
    made = corpus()
    found, _ = asked(made)
    held_out = {i for i, said in zip(made.ids, made.said, strict=True) if split_of_caption(said, SETTINGS) == "test"}
    assert set(found["image_to_text"].images) == held_out and len(found["text_to_image"].texts) == len(held_out)
    assert set(found["image_to_image"].images) == held_out, "each scene has others"
    few, _ = asked(made, EvaluateSettings(held_out=0.5, max_queries=30))
    assert few["image_to_text"].images == found["image_to_text"].images[:30], "those of lowest hash"


def test_all_that_show_or_say_the_same_are_right_and_the_query_itself_is_not_found():
    made = corpus()
    found, left_out = asked(made)
    for at, image_id in enumerate(found["image_to_image"].images):
        right = {made.ids[row] for row in found["image_to_image"].right[at]}
        assert right == {i for i in made.ids if i[:3] == image_id[:3]} - {image_id}
        assert [made.ids[row] for row in found["image_to_image"].excluded[at]] == [image_id]
    for at, text in enumerate(found["text_to_image"].texts):
        assert [made.captions[row] for row in found["text_to_image"].right[at]] == [text, text], "pictures under the same caption"
    words = found["text_to_text"]
    for text, right, excluded in zip(words.texts, words.right, words.excluded, strict=True):
        assert [words.gallery_texts[row] for row in excluded] == [text]
        assert [words.gallery_texts[row].split()[-1] for row in right] == [text.split()[-1]]
    assert left_out == {"image_text_to_image_text": "nothing is held out"}


def test_a_model_that_knows_the_scene_finds_everything_first():
    made = corpus()
    triplets = tuple(Query(f"{n:03}-0", f"make it {n + 1}", frozenset([f"{n + 1:03}-1"])) for n in range(20))
    found, left_out = asked(made, triplets=triplets)
    model = Knowing()
    for name, direction in found.items():
        figures = figures_of(direction, model, made, {})
        if name != "image_text_to_image_text":  # which this one answers by the picture alone
            assert figures["R@4"] == 100.0, name
        gallery = len(made.ids) if direction.searches_all else len(direction.gallery_images or direction.gallery_texts)
        assert figures["gallery"] == gallery and not left_out


def test_candidates_are_never_given_the_query_s_instruction_and_a_picture_that_asks_without_one_is_not_embedded_again():
    made = corpus()
    found, _ = asked(made)
    for name, calls in (("image_to_text", 1), ("image_to_image", 0), ("text_to_image", 1)):
        model = Knowing()
        figures_of(found[name], model, made, {})
        assert len(model.asks) == calls and not any(model.asks), name
    model = Knowing()
    figures_of(found["image_to_text"], model, made, {"instruction": "x"})
    assert [ask for ask in model.asks if ask] == [{"instruction": "x"}] * (len(model.asks) - 1)


@pytest.mark.parametrize("texts", [1, 90, 10_000])
def test_a_gallery_of_captions_is_bounded_and_holds_all_that_is_right_and_each_text_once(texts):
    made = corpus(wordings=1 if texts == 1 else 2)
    found, _ = asked(made, EvaluateSettings(held_out=0.3, texts=texts))
    gallery = found["image_to_text"].gallery_texts
    right = {row for name in ("image_to_text", "text_to_text") if name in found for rows in found[name].right for row in rows}
    assert "text_to_text" not in found or found["text_to_text"].gallery_texts == gallery, "embedded once"
    assert len(gallery) == len(set(gallery)) == max(len(right), min(texts, len(set(made.said))))


def test_pictures_with_their_captions_are_a_bounded_gallery_with_every_reference_and_target():
    made = corpus()
    triplets = tuple(Query(f"{n:03}-0", "make it", frozenset([f"{n + 1:03}-1", f"{n + 1:03}-2"])) for n in range(50))
    found, _ = asked(
        made, EvaluateSettings(held_out=0.3, captioned_pictures=60), (Query("gone", "x", frozenset(["000-1"])), *triplets)
    )
    both = found["image_text_to_image_text"]
    assert len(both.images) == 20 and len(both.gallery_images) == len(both.gallery_texts) == 60
    for reference, right, excluded in zip(both.images, both.right, both.excluded, strict=True):
        assert [both.gallery_images[row] for row in excluded] == [reference]
        assert {both.gallery_images[row][:3] for row in right} == {f"{int(reference[:3]) + 1:03}"} and len(right) == 2


def test_pictures_without_a_caption_are_no_candidates_with_one_and_too_few_triplets_are_left_out_with_the_reason():
    made = corpus()
    bare = {row for row, image_id in enumerate(made.ids) if image_id.endswith(("-0", "-3"))}
    captions = ["" if row in bare else caption for row, caption in enumerate(made.captions)]
    made = dataclasses.replace(made, captions=captions, said=["" if row in bare else said for row, said in enumerate(made.said)])
    triplets = [Query(f"{n:03}-0", "make it", frozenset([f"{n + 1:03}-{n % 4}"])) for n in range(50)]
    found, _ = asked(made, triplets=triplets)
    both = found["image_text_to_image_text"]
    assert all(both.gallery_texts) and set(both.gallery_images) == {i for row, i in enumerate(made.ids) if row not in bare}
    assert both.images == [q.reference for q in triplets if not min(q.targets).endswith(("-0", "-3"))]
    assert [[both.gallery_images[row] for row in right] for right in both.right] == [
        list(q.targets) for q in triplets if q.reference in both.images
    ]
    assert not any(both.excluded), "a reference without a caption is no candidate"
    few, left_out = asked(made, triplets=triplets[:30])
    assert "image_text_to_image_text" not in few
    assert left_out["image_text_to_image_text"] == "15 of 30 held-out triplets have a target with a caption; 20 would be enough"


def test_without_attributes_the_caption_says_what_is_the_same_and_a_direction_without_an_answer_is_left_out_with_its_reason():
    found, left_out = asked(corpus(root="folder"))
    assert all(len(right) == 1 for right in found["image_to_image"].right), "the other picture under the caption"
    assert "text_to_text" not in found and "in other words" in left_out["text_to_text"]
    few, left_out = asked(corpus(scenes=ENOUGH // 8, root="folder"))
    assert "image_to_image" not in few and f"{ENOUGH} would be enough" in left_out["image_to_image"]
    none, left_out = asked(corpus(), EvaluateSettings(held_out=0))
    assert none == {} and len(left_out) == 5


def test_what_is_searched_and_asked_is_in_the_key_of_a_direction():
    keys = {asked(corpus(), EvaluateSettings(held_out=0.5, texts=n))[0]["image_to_text"].key() for n in (1, 119, 120, 20_000)}
    assert len(keys) == 3 and asked(corpus())[0]["image_to_text"].key() in keys


def figures(queries: int = 200, **values: tuple[float, float]) -> dict:
    rows = [
        {"benchmark": name, "recipe": recipe, "metric": metric, "value": value, "queries": queries, "gallery": 9}
        for name, pair in values.items()
        for recipe, value in zip(("untrained", "demo"), pair, strict=True)
        for metric in ("R@1", "R@10")
    ]
    return nest(rows)


def test_directions_are_shown_strongest_first_and_what_training_lost_is_named():
    found = by_direction(figures(text_to_image=(48, 7.9), image_to_image=(30, 60), image_to_text=(44, 43.5)), "demo")
    assert [of.task.name for of in found] == ["image_to_image", "image_to_text", "text_to_image"]
    assert [of.task.name for of in lost(found)] == ["text_to_image"], "half a point is no loss"
    assert lost(by_direction(figures(queries=8, text_to_image=(12.5, 0)), "demo")) == [], "nor is one query of eight"
    assert lost(by_direction(figures(queries=8, text_to_image=(25, 0)), "demo"))
    assert found[2].shown("R@10") == "48.0 → 7.9" and round(found[2].change(), 1) == -40.1
    assert "| text to image | 9 pictures | 200 | 48.0 → 7.9 | 48.0 → 7.9 |" in markdown(found, "demo")
    assert [of.shown("R@1") for of in by_direction(figures(text_to_image=(48, 7.9)), "untrained")] == ["48.0"]
    assert by_direction(figures(**{"held-out edits": (1, 2)}), "demo") == []
    assert by_direction(figures(**{"held-out triplets": (1, 2)}), "demo")[0].task.name == "composed"


def test_the_summary_has_a_table_a_recipe_that_was_measured_in_every_direction_and_says_what_was_not():
    from rich.console import Console

    from mmret.cli.run_summary_directions import composed_only, print_directions

    console = Console(width=200, record=True)
    found = figures(text_to_image=(48, 7.9), image_to_image=(30, 60), **{"held-out triplets": (10, 50)})
    found["held-out triplets"]["second look"] = {"R@1": 1.0, "R@10": 2.0}  # a reranker: of composed queries alone
    print_directions(found, {"text_to_text": "nothing is held out"}, console)
    said = console.export_text()
    assert said.count("every kind of query") == 1 and "second look" not in said
    order = [said.index(kind) for kind in ("image to image", "image + text to image", "text to image")]
    assert order == sorted(order) and "-40.1" in said and "+30.0" in said
    assert "demo: training for what it was given cost what the model found before: text to image." in said
    assert "not measured: text to text: nothing is held out" in said and list(composed_only(found)) == ["held-out triplets"]
