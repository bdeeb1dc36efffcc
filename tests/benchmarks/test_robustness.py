"""Robustness by hand: a spread is what some wording finds and not every; each figure is its definition, of known ranks."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from typer.testing import CliRunner

from mmret.benchmarks import stage
from mmret.benchmarks.composed import ComposedVectors, composed_ranks, evaluate_composed
from mmret.benchmarks.directions import ENOUGH, Corpus
from mmret.benchmarks.edits import ATTRIBUTES, edits
from mmret.benchmarks.figures import nest
from mmret.benchmarks.probes import COMBINED, SECOND, is_robustness, probes
from mmret.benchmarks.robustness import (
    negatives_of_ranks,
    paraphrase_spread,
    parts_of_ranks,
    spread_of_ranks,
    two_picture_vectors,
)
from mmret.benchmarks.robustness_figures import MODELS, table_of
from mmret.benchmarks.triplets import Query
from mmret.cli import app
from mmret.cli.run_summary_directions import composed_only
from mmret.cli.run_summary_robustness import print_robustness
from mmret.errors import UserError
from mmret.export.model_card import write_model_card
from mmret.ingest.shapes import scene
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.ranking import wrong_ranks


class Points:
    """A model of pictures and texts that are points on a circle, in degrees; a composed query is the picture turned by the text."""

    dim = 2

    def __init__(self):
        self.asked: list[tuple[str, str]] = []

    def encode(self, images=None, texts=None, batch_size=64):
        turns = [float(text.split()[-1]) for text in texts] if texts is not None else [0.0] * len(images)
        starts = [float(image) for image in images] if images is not None else [0.0] * len(texts)
        self.asked += list(zip(images or [], texts or [], strict=False))
        angles = np.radians(np.add(starts, turns))
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


IDS = [str(degrees) for degrees in range(0, 360, 10)]
"""A gallery of 36 pictures, one each ten degrees."""


def load(ids):
    return {i: i for i in ids}


def vectors(model: Points) -> np.ndarray:
    return model.encode(images=IDS)


def test_the_spread_of_known_ranks_is_what_some_wording_finds_less_what_every_wording_finds():
    found = spread_of_ranks([(1, 10, 3), (3, 11, 3), (50, 60), (11, 12)])
    assert found == {"best": 50.0, "worst": 25.0, "mean": pytest.approx(100 * (1 + 2 / 3) / 4), "spread": 25.0}
    assert spread_of_ranks([(1, 2), (3, 4)], k=2) == {"best": 50.0, "worst": 50.0, "mean": 50.0, "spread": 0.0}


@pytest.mark.parametrize("ranks", [[], [(1,)], [(1, 2), (3,)]])
def test_a_spread_without_queries_or_of_a_single_wording_is_refused_and_not_zero(ranks):
    with pytest.raises(UserError, match="two wordings or more"):
        spread_of_ranks(ranks)


def test_paraphrase_spread_asks_each_wording_once_without_the_reference_and_counts_every_target():
    model = Points()
    queries = [
        ("0", ["turn by 50", "turn it 90"], {"50"}),  # ranks 1 and 9: 80 to 130 but 90 itself are as near or nearer than 50
        ("100", ["by 0", "go 10", "go by 20"], {"120", "110"}),
        ("200", ["go 10", "go 170"], {"210"}),
    ]
    found = paraphrase_spread(model, IDS, vectors(model), queries, load)
    assert found == {
        "best": 100.0,
        "worst": pytest.approx(200 / 3),
        "mean": pytest.approx(100 * 2.5 / 3),
        "spread": pytest.approx(100 / 3),
    }
    assert sorted(model.asked) == sorted((reference, text) for reference, texts, _ in queries for text in texts)
    assert paraphrase_spread(model, IDS, vectors(model), queries, load, k=1)["best"] == 100.0


def test_negatives_of_known_ranks_are_counted_before_the_target_and_among_the_first_ten():
    targets = np.array([1, 5, 40, 3])
    negatives = [np.array([2, 30]), np.array([3, 4, 60]), np.array([39]), np.array([11, 12])]
    assert negatives_of_ranks(targets, negatives) == {"before target": 50.0, "in first": 50.0, "of first": 100 * 3 / 40}
    assert negatives_of_ranks(targets, negatives, k=3)["of first"] == pytest.approx(100 * 2 / 12)
    for ranks, wrong in ((np.array([], int), []), (np.array([1]), [np.array([], int)])):
        with pytest.raises(UserError, match="each with one or more"):
            negatives_of_ranks(ranks, wrong)


def test_a_negative_that_ties_with_the_target_stands_before_it_and_the_excluded_are_not_counted():
    gallery = np.array([[1, 0], [0.8, 0.6], [0.8, 0.6], [0, 1]], np.float32)
    found = wrong_ranks(gallery[:1], gallery, [[2, 3]], [{0}])
    assert [list(of) for of in found] == [[1, 3]]
    assert [list(of) for of in wrong_ranks(gallery[:1], gallery, [[2]])] == [[2]]


def test_parts_of_known_ranks_tell_what_one_part_answers_and_what_needs_both():
    both, image, text = np.array([1, 2, 3, 50, 11]), np.array([4, 50, 50, 9, 50]), np.array([60, 60, 1, 10, 50])
    found = parts_of_ranks(both, image, text)
    assert found == {"image": 40.0, "text": 40.0, "either": 60.0, "needs both": 20.0}
    with pytest.raises(UserError, match="there are none"):
        parts_of_ranks(*[np.array([], int)] * 3)


def test_a_question_of_two_pictures_has_the_normalised_mean_of_their_composed_vectors():
    model = Points()
    first, second = (model.encode(images=[degrees], texts=["turn 20"]) for degrees in ("0", "60"))
    together = two_picture_vectors(first, second)
    assert np.allclose(together, model.encode(images=["30"], texts=["turn 20"]), atol=1e-6)
    mean = (first + second) / 2
    assert np.allclose(together, mean / np.linalg.norm(mean), atol=1e-6) and together.dtype == np.float32
    assert np.isfinite(two_picture_vectors(first, -first)).all(), "opposite ones find nothing, and break nothing"


def test_a_question_is_embedded_once_however_often_it_is_asked_and_gives_the_figures_that_it_gave():
    model = Points()
    composed = ComposedVectors(model, load, {})
    queries = [("0", "turn 10", {"10"}), ("50", "turn 30", {"80", "90"}), ("0", "turn 10", {"20"})]
    ranks = composed_ranks(composed, IDS, vectors(model), queries)
    again = composed.of([("50", "turn 30"), ("0", "turn 10")])
    assert model.asked == [("0", "turn 10"), ("50", "turn 30")]
    assert np.array_equal(again, Points().encode(images=["50", "0"], texts=["turn 30", "turn 10"]))
    assert evaluate_composed(Points(), IDS, vectors(model), queries, load, (1,))["R@1"] == 100 * np.mean(ranks[""] <= 1)


class Model:
    """A model of scenes: a picture's attributes, of which a text that names a value of one changes that one."""

    def __init__(self, corpus: Corpus):
        self.corpus, self.place = corpus, {image_id: row for row, image_id in enumerate(corpus.ids)}
        values = sorted({part for scene in corpus.scenes for part in enumerate(scene.split("\x1f"))})
        self.values = {part: column for column, part in enumerate(values)}
        self.dim = len(self.values)
        self.gallery = corpus.ids, self.encode(images=corpus.ids)
        self.composed = ComposedVectors(self, load, {})

    def encode(self, images=None, texts=None, batch_size=64):
        rows = np.zeros((len(images or texts), self.dim), np.float32)
        for row, asked in enumerate(images or texts):
            parts = list(enumerate(self.corpus.scenes[self.place[asked]].split("\x1f"))) if images else []
            if texts:
                said = [part for part in self.values if f" {part[1]} " in f" {texts[row]} "]
                parts = [part for part in parts if part[0] not in {k for k, _ in said}] + said
            for part in parts:
                rows[row, self.values[part]] = 1
            rows[row, -1] += 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def ranks(self, queries):
        return composed_ranks(self.composed, *self.gallery, [(q.reference, q.text, q.targets) for q in queries])


def shapes(n: int = 1000) -> Corpus:
    rows = [
        {"image_id": f"{i:05}", "caption": f"scene {i}", "root": "shapes:1", "extra": json.dumps(scene(0, i).attributes)}
        for i in range(n)
    ]
    return Corpus.of(pa.Table.from_pylist(rows))


def asked_of(corpus: Corpus, n: int = 200) -> list[Query]:
    extras = [(i, dict(zip(ATTRIBUTES, s.split("\x1f"), strict=True))) for i, s in zip(corpus.ids, corpus.scenes, strict=True)]
    return [
        Query(e["reference"], e["text"], frozenset(e["targets"]), tuple(e["wordings"]), frozenset(e["unchanged"]))
        for e in edits(extras, n)
    ]


def test_the_probes_of_a_corpus_ask_what_is_known_and_are_the_same_again():
    corpus = shapes()
    scenes = dict(zip(corpus.ids, corpus.scenes, strict=True))
    made = asked_of(corpus)
    triplets = [Query(q.reference, q.text, q.targets, q.wordings, q.negatives | q.targets | {"gone"}) for q in made]
    sets = {"held-out triplets": triplets, "held-out edits": made}
    found, left_out = probes(corpus, sets, 50)
    assert not left_out and all(is_robustness(probe.name) for probe in found) and len({p.name for p in found}) == len(found) == 8
    assert [p.key() for p in found] == [p.key() for p in probes(corpus, sets, 50)[0]]
    by_name = {probe.name: probe for probe in found}
    assert {len(by_name[f"robustness: wordings of {name}"].asked) for name in sets} == {50}
    for query in by_name["robustness: hard negatives of held-out triplets"].asked:
        right = {scenes[t] for t in query.targets}
        assert query.negatives and not {scenes[i] for i in query.negatives} & right, "what shows the target is not wrong"
    for two in by_name[SECOND].asked:
        assert (
            scenes[two.second] == scenes[two.query.reference] and two.second != two.query.reference and two.text == two.query.text
        )
    for two in by_name[COMBINED].asked:
        before, after, second = (scenes[i].split("\x1f") for i in (two.query.reference, min(two.query.targets), two.second))
        (changed,) = [k for k in range(len(before)) if before[k] != after[k]]
        assert second[changed] == after[changed] and two.second not in two.query.targets
        assert ATTRIBUTES[changed] in two.text or ATTRIBUTES[changed] == "position"
    model = Model(corpus)
    figures = {probe.name: probe.measure(model) for probe in found}
    assert figures == {probe.name: probe.measure(model) for probe in found}, "the same again"
    assert {of["gallery"] for of in figures.values()} == {len(corpus.ids)}
    same = figures[SECOND]
    assert same["R@10"] >= same["one picture R@10"] - 100 / len(by_name[SECOND].asked), "the same picture twice is asked the same"


def test_what_a_corpus_cannot_tell_is_left_out_with_the_reason_and_none_is_asked_for_with_zero():
    corpus = shapes(200)
    one = [Query("00000", "x", frozenset(["00001"]), ("x",)) for _ in range(ENOUGH)]
    found, left_out = probes(corpus, {"held-out triplets": one, "held-out edits": []}, 50)
    assert [probe.name for probe in found] == ["robustness: parts of held-out triplets"]
    assert left_out["robustness: wordings of held-out triplets"] == (
        "of 20 held-out triplets 0 have a second wording; 20 would be enough"
    )
    assert set(left_out) == {
        "robustness: wordings of held-out triplets",
        "robustness: hard negatives of held-out triplets",
        SECOND,
    }
    assert probes(corpus, {"held-out triplets": one}, 0) == ([], {})
    assert probes(corpus, {"held-out triplets": [], "held-out edits": []}, 50) == ([], {})


def test_robustness_is_one_table_untrained_first_and_says_how_many_models_it_leaves_out():
    def rows(*recipes):
        same = {"benchmark": "robustness: wordings of held-out edits", "queries": 200, "gallery": 9}
        figures = {"spread R@10": 31.04, "mean R@10": 48.2}
        return [{**same, "recipe": r, "metric": m, "value": v} for r in recipes for m, v in figures.items()]

    columns, cells = table_of(nest(rows("demo", "untrained")))
    assert columns == ["robustness, percent", "asked", "queries", "untrained", "demo"]
    assert cells == [["spread over wordings (mean R@10)", "held-out edits", "200", "31.0 (48.2)", "31.0 (48.2)"]]
    columns, cells = table_of(nest(rows("untrained", *(f"r{n}" for n in range(9)))))
    assert len(columns) == 3 + MODELS and cells[-1][0] == "4 models more: table evaluations"
    assert table_of({"held-out edits": {"queries": 1, "gallery": 1}})[1] == []


def test_an_evaluation_has_both_models_figures_of_the_same_questions_and_measured_again_they_are_equal(
    small_lake, tmp_path, monkeypatch
):
    lake = Lake(shutil.copytree(small_lake[0], tmp_path / "lake"))
    profile = resolve(lake)[0]

    def rows():
        read = lake.read("evaluations", "demo").to_pylist()
        return {(r["benchmark"], r["metric"], r["recipe"]): r for r in read if is_robustness(r["benchmark"])}

    made, left_out = rows(), lake.facts("evaluations", "demo").notes["robustness_left_out"]
    assert {recipe for *_, recipe in made} == {"untrained", "demo"}
    assert all(made[b, m, "untrained"]["queries"] == made[b, m, "demo"]["queries"] >= ENOUGH for b, m, _ in made)
    measured = {benchmark for benchmark, *_ in made}
    assert "robustness: parts of held-out edits" in measured and not measured & left_out.keys()
    assert all(why.endswith(f"{ENOUGH} would be enough") for why in left_out.values())
    for benchmark, metric, recipe in made:
        if metric == "spread R@10":
            best, worst = (made[benchmark, f"{which} R@10", recipe]["value"] for which in ("best", "worst"))
            assert made[benchmark, metric, recipe]["value"] == best - worst
    monkeypatch.setattr(stage, "_recorded", lambda *_: [])
    stage.evaluate_recipe(lake, profile, "demo", "x")
    assert rows() == made
    assert left_out == lake.facts("evaluations", "demo").notes["robustness_left_out"]
    monkeypatch.undo()  # the other figures are copied
    unasked = profile.model_copy(update={"evaluate": profile.evaluate.model_copy(update={"robustness": 0})})
    stage.evaluate_recipe(lake, unasked, "demo", "x")
    assert not rows() and not lake.facts("evaluations", "demo").notes["robustness_left_out"]


def test_the_summary_and_the_model_card_have_the_table_once_and_no_recall_table_has_its_figures(small_lake, tmp_path):
    lake = Lake(shutil.copytree(small_lake[0], tmp_path / "lake"))
    summary = json.loads(json.dumps(small_lake[1]))
    assert not any(is_robustness(name) for name in composed_only(summary["evaluations"]))
    console = Console(width=200, record=True)
    print_robustness(summary["evaluations"], summary["robustness_left_out"], console)
    said = console.export_text()
    assert said.count("robustness, percent") == 1 and "would be enough" in said and "picture or text alone would do" in said
    card = write_model_card(lake, resolve(lake)[0], "demo").read_text()
    assert card.count("robustness, percent") == 1 and "robustness: " not in card and "mmret-robustness" not in card


def test_a_triplet_without_a_list_of_negatives_is_a_query_without_any():
    row = {"pair_id": "p", "query_id": "q", "target_id": "t", "texts": ["make it red"], "hard_negatives": None}
    assert stage._triplet(row) == Query("q", "make it red", frozenset("t"), ("make it red",), frozenset())


def test_a_checkpoint_that_is_not_there_is_one_sentence(tmp_path):
    (tmp_path / "queries.json").write_text("[]")
    words = ["evaluate", "--lake", str(Lake(tmp_path / "new").root), "--triplets", str(tmp_path / "queries.json")]
    refused = CliRunner().invoke(app, [*words, "--checkpoint", str(tmp_path / "gone")])
    assert isinstance(refused.exception, UserError) and "gone: there is no such folder" in str(refused.exception)
