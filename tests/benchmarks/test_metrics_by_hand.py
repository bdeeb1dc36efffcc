"""Each metric at the place where it changes, worked out by hand on lists of a few names: what counts at k and no longer at k + 1,
queries without a ranking, means over what is there; and what a scorer remarks on a file that is not whole."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mmret.benchmarks.circo import scorer as circo
from mmret.benchmarks.cirr import scorer as cirr
from mmret.benchmarks.common.gallery import Gallery, Question, Ranker
from mmret.benchmarks.common.pictures import Shot, crop_rectangle
from mmret.benchmarks.common.protocol import Template
from mmret.benchmarks.common.runs import average_vectors
from mmret.benchmarks.common.scores import ScoreOptions, Scores, mean
from mmret.benchmarks.fashioniq import scorer as fashioniq
from mmret.benchmarks.genecis import scorer as genecis
from mmret.benchmarks.mmeb import ranking_metrics
from mmret.benchmarks.mmeb import scorer as mmeb
from mmret.errors import UserError

from .conftest import dump
from .layouts import ASINS, mmeb_predictions
from .layouts import fashioniq as fashioniq_layout
from .layouts import mmeb as mmeb_layout


def at(place: int, name: object, length: int = 60) -> list:
    """A ranking of other names with ``name`` at ``place``, from 1."""
    others = [f"other {n}" for n in range(length - 1)]
    return [*others[: place - 1], name, *others[place - 1 :]]


# -- CIRCO, CIRR -------------------------------------------------------------------------------------------------------


def circo_query(number: int, target: int, truths: tuple[int, ...], aspects: tuple[str, ...] = ()) -> circo.Query:
    return circo.Query(number, 0, "x", "y", target, truths, aspects)


@pytest.mark.parametrize("place", [1, 5, 6, 10, 11, 25, 26, 50, 51])
def test_circo_counts_a_target_among_the_first_k_and_no_deeper(place):
    found = circo.metrics([circo_query(0, 7, (7,))], {0: at(place, 7)})
    for k in circo.RANKS:
        assert found["Recall"][str(k)] == (100 if place <= k else 0)
        assert found["mAP"][str(k)] == pytest.approx(100 / place if place <= k else 0)


def test_circo_precision_at_a_hit_counts_the_hits_up_to_it_and_is_shared_by_min_of_truths_and_k():
    assert circo.average_precision([1, 9, 2, 3], [1, 2, 3, 4], 5) == pytest.approx(100 * (1 + 2 / 3 + 3 / 4) / 4)
    assert circo.average_precision([1, 2, 3], list(range(1, 21)), 10) == pytest.approx(100 * 3 / 10)
    assert circo.average_precision([9, 8], [1], 5) == 0


def test_circo_means_are_over_queries_with_a_ranking_and_aspects_over_those_that_have_them_at_10():
    queries = [circo_query(0, 7, (7,), ("negation",)), circo_query(1, 8, (8,), ("negation", "addition")), circo_query(2, 9, (9,))]
    found = circo.metrics(queries, {0: at(1, 7), 1: at(20, 8)})
    assert found["Recall"] == {"5": 50, "10": 50, "25": 100, "50": 100} and found["mAP"]["25"] == pytest.approx((100 + 5) / 2)
    aspects = found["semantic_mAP@10"]
    assert (aspects["negation"], aspects["addition"], aspects["cardinality"]) == (50, 0, None)


def cirr_query(number: int, target: str, soft: dict[str, float] | None = None) -> cirr.Query:
    return cirr.Query(number, "reference", "x", ("reference", target), target, soft or {})


@pytest.mark.parametrize("place", [1, 2, 3, 4, 5, 6, 10, 11, 50, 51])
def test_cirr_counts_a_target_among_the_first_k_of_the_gallery_and_of_its_set_and_no_deeper(place):
    query, ranking = cirr_query(0, "t", {"t": 1.0}), {0: at(place, "t")}
    found = cirr.metrics([query, cirr_query(1, "other 0")], ranking, ranking)
    assert found == {
        "R": {str(k): 100 * (place <= k) for k in (1, 5, 10, 50)},
        "Rs": {str(k): 100 * (place <= k) for k in (1, 2, 3)},
    }
    assert list(cirr.metrics([query], ranking, None)) == ["R"]
    soft = cirr.soft_metrics([query, cirr_query(1, "other 0")], ranking, ranking)
    assert soft["R"] == {str(k): 100 * (place <= k) for k in (1, 2, 5, 10, 50)} and soft["Rs"]["3"] == 100 * (place <= 3)


def test_cirr_soft_targets_count_by_the_best_of_the_first_k_never_below_nothing_and_at_100_only_where_lists_are_so_long():
    queries = [cirr_query(0, "t", {"a": -1.0, "b": 0.5, "t": 1.0}), cirr_query(1, "u", {})]
    lists = {0: ["a", "b", "t"], 1: ["x", "y", "u"]}
    assert cirr.soft_metrics(queries, lists, None) == {"R": {"1": 0, "2": 25, "5": 50, "10": 50, "50": 50}}
    long = {0: at(80, "t", 100), 1: at(1, "u", 100)}
    assert cirr.soft_metrics(queries, long, None)["R"]["100"] == 50
    assert "100" not in cirr.soft_metrics(queries, {**long, 1: at(1, "u", 99)}, None)["R"]


# -- FashionIQ, GeneCIS, MMEB --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [1, 10, 11, 50, 51])
def test_fashioniq_counts_a_target_among_the_first_k_and_no_deeper(place):
    queries = [fashioniq.Query("r", "t", ("a", "b"))] * 2
    assert fashioniq.metrics(queries, [at(place, "t")]) == {"R@10": 100 * (place <= 10), "R@50": 100 * (place <= 50)}
    assert fashioniq.average({"dress": {"R@10": 10, "R@50": None}, "shirt": {"R@10": 30, "R@50": 8}}) == {"R@10": 20, "R@50": 8}


def a_category(queries: int, gallery: int = 60) -> fashioniq.Category:
    asked = tuple(fashioniq.Query(ASINS[0], ASINS[1], ("a", "b")) for _ in range(queries))
    return fashioniq.Category("dress", Path("cap.dress.val.json"), asked, tuple(ASINS[:gallery]))


@pytest.mark.parametrize("queries, gallery, ranking, remarked", [
    (20, 60, ASINS[:2], True), (19, 60, ASINS[:2], False), (20, 60, ASINS[:3], False), (20, 2, ASINS[:2], False),
])  # fmt: skip
def test_fashioniq_a_gallery_of_references_and_targets_alone_is_suspected_where_twenty_lists_say_so(
    queries, gallery, ranking, remarked
):
    category = a_category(queries, gallery)
    _, notes = fashioniq.read_predictions(category, [list(ranking)] * queries, Path("p"), ScoreOptions(partial=True))
    assert any("not comparable: the gallery has" in note for note in notes) == remarked


def test_fashioniq_choices_take_out_other_images_or_the_reference_and_say_so(tmp_path):
    annotations = fashioniq_layout(tmp_path, ("dress",), 1)
    lists = dump(tmp_path / "p.json", {"dress": [[ASINS[0], *ASINS[20:40], ASINS[10], *ASINS[40:]]]})
    plain = fashioniq.score(annotations, lists, ScoreOptions(partial=True))
    union = fashioniq.score(annotations, lists, ScoreOptions(partial=True, gallery="union"))
    assert (plain.values["dress"]["R@10"], union.values["dress"]["R@10"]) == (0, 100)
    assert any("gallery of 2 references and targets" in note for note in union.notes)
    removed = fashioniq.score(annotations, lists, ScoreOptions(partial=True, remove_reference=True))
    assert any("the reference image was removed" in note for note in removed.notes)
    assert plain.queries == 1 and any("(shirt, toptee not predicted)" in note for note in plain.notes)


@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_genecis_counts_position_0_among_the_first_k_and_no_deeper(place):
    ranking = [*range(1, place), 0, *range(place, 5)]
    assert genecis.metrics([ranking]) == {f"R@{k}": 100 * (place <= k) for k in (1, 2, 3)}
    assert genecis.metrics([]) == {"R@1": None, "R@2": None, "R@3": None}
    assert genecis.average({"a": {"R@1": 1, "R@2": 2, "R@3": None}, "b": {"R@1": 3, "R@2": 4, "R@3": 9}}) == {
        "R@1": 2,
        "R@2": 3,
        "R@3": 9,
    }


@pytest.mark.parametrize("count, remarked", [(3, True), (4, False), (5, True)])
def test_mmeb_another_number_of_rankings_than_the_task_list_speaks_of_is_remarked_however_it_differs(tmp_path, count, remarked):
    lists = mmeb_predictions()
    lists["GQA"] = [[0]] * count
    scores = mmeb.score(mmeb_layout(tmp_path), dump(tmp_path / "p.json", lists), ScoreOptions())
    said = [note for note in scores.notes if f"GQA has {count} rankings where the task list speaks of 4" in note]
    assert bool(said) == remarked and scores.queries == 12 + count


def test_mmeb_names_the_first_five_sets_that_are_not_predicted_and_only_says_that_there_are_more(tmp_path):
    entry = {"meta_task": "vqa", "split": "IND"}
    tasks = dump(tmp_path / "tasks.json", [{"dataset": name, **entry} for name in "abcdefg"])
    for predicted, named in (("a", "(no predictions for b, c, d, e, f ...)"), ("ab", "(no predictions for c, d, e, f, g)")):
        scores = mmeb.score(tasks, dump(tmp_path / "p.json", {name: [[0]] for name in predicted}), ScoreOptions())
        assert [named in note for note in scores.notes] == [True] and f"partial: {len(predicted)} of 7" in scores.notes[0]
    whole = mmeb.score(tasks, dump(tmp_path / "p.json", {name: [[0]] for name in "abcdefg"}), ScoreOptions())
    assert whole.notes == () and whole.queries == 7


def test_mmeb_a_hit_is_position_0_in_the_first_place_and_nothing_else():
    assert mmeb.hit_at_1([[0, 1], [1, 0], [2], [0]]) == 50
    table = {n: mmeb.DataSet(n, "vqa" if n == "a" else "retrieval", "IND" if n in "ab" else "OOD") for n in "abcd"}
    found = mmeb.aggregate({"a": 10.0, "b": 20.0, "c": 60.0}, table)
    assert found == {"meta": {"vqa": 10, "retrieval": 40}, "IND": 15, "OOD": 60, "overall": 30}
    assert mmeb.aggregate({"a": 10.0}, table) == {"meta": {"vqa": 10}, "IND": 10, "OOD": None, "overall": 10}


def test_ranking_metrics_by_hand():
    found = ranking_metrics.metrics(["x", "a", "b", "y"], ["a", "b", "c"], ks=(1, 3))
    log = math.log2
    assert found == pytest.approx(
        {
            "hit@1": 0, "precision@1": 0, "recall@1": 0, "f1@1": 0, "map@1": 0, "mrr@1": 0,
            "ndcg_linear@1": 0, "ndcg_exponential@1": 0,
            "hit@3": 1, "precision@3": 2 / 3, "recall@3": 2 / 3, "f1@3": 2 / 3, "map@3": (1 / 2 + 2 / 3) / 3, "mrr@3": 1 / 2,
            "ndcg_linear@3": (1 / log(3) + 1 / log(4)) / (1 + 1 / log(3) + 1 / log(4)),
            "ndcg_exponential@3": (1 / log(3) + 1 / log(4)) / (1 + 1 / log(3) + 1 / log(4)),
        }
    )  # fmt: skip
    graded = ranking_metrics.metrics(["b", "a"], ["a", "b"], [3.0, 1.0], ks=(2,))
    assert graded["ndcg_linear@2"] == pytest.approx((1 + 3 / log(3)) / (3 + 1 / log(3)))
    assert graded["ndcg_exponential@2"] == pytest.approx((1 + 7 / log(3)) / (7 + 1 / log(3)))
    assert ranking_metrics.metrics(["a"], list("abcd"), ks=(2,))["map@2"] == 1 / 2
    both = ranking_metrics.evaluate([{"prediction": ["a"], "label": ["a"]}, {"prediction": ["b"], "label": ["a"]}], ks=(1,))
    assert both["hit@1"] == both["ndcg_linear@1"] == 0.5 and ranking_metrics.evaluate([]) == {}
    assert ranking_metrics.KS == (1, 5, 10)


# -- what all share ------------------------------------------------------------------------------------------------------


def ranker(vectors: np.ndarray, targets: tuple, remove_reference: bool = True, reference: str = "a") -> Ranker:
    names = "abcdefgh"[: len(vectors)]
    gallery = Gallery.of({n: Shot(Path(n)) for n in names}, vectors.astype(np.float32))
    return Ranker(None, gallery, [Question(0, reference, {}, targets)], None, remove_reference)


QUERY = np.array([[1, 0]], np.float32)


@pytest.mark.parametrize("target", ["b", "c", "d"])
def test_a_target_that_ties_comes_last_in_the_gallery_and_in_its_own_set_alike(target):
    """Equal vectors, and different vectors that score the same."""
    for vectors in (np.tile([1, 0], (4, 1)), np.array([[1, n] for n in range(4)])):
        made = ranker(vectors, (target,))
        assert made.rankings(QUERY)[0][-1] == target and len(made.rankings(QUERY)[0]) == 3
        within = made.rankings_within(QUERY, ["abcd"], 3)[0]
        assert within[-1] == target and sorted(within) == ["b", "c", "d"]
        assert target not in made.rankings_within(QUERY, ["abcd"], 2)[0]


def test_a_set_is_ranked_by_score_and_holds_no_other_name_and_no_reference():
    vectors = np.array([[1.0, 0], [0.1, 0], [0.9, 0], [0.5, 0], [0.7, 0]])
    made = ranker(vectors, ("b",))
    assert made.rankings(QUERY, 3) == {0: ["c", "e", "d"]} and made.rankings(QUERY) == {0: ["c", "e", "d", "b"]}
    assert made.rankings_within(QUERY, [{"a", "b", "d", "e"}], 9) == {0: ["e", "d", "b"]}
    assert ranker(vectors, ("b",), remove_reference=False).rankings(QUERY, 2) == {0: ["a", "c"]}
    twin = ranker(np.array([[1.0, 0], [1.0, 0], [0.9, 0]]), ("c",))
    assert twin.rankings(QUERY) == {0: ["b", "c"]}, "what looks like the reference stays"


def test_equal_vectors_are_one_row_of_the_gallery_in_the_order_of_their_first_name():
    made = Gallery.of({n: Shot(Path(n)) for n in "abcd"}, np.array([[1, 0], [0, 1], [1, 0], [2, 2]], np.float32))
    assert made.distinct.tolist() == [[1, 0], [0, 1], [2, 2]]
    assert made.members == [["a", "c"], ["b"], ["d"]] and made.group == {"a": 0, "b": 1, "c": 0, "d": 2}


def test_a_template_fills_the_fields_of_its_task_and_strips_what_it_is_told():
    template = Template("t", {"": ("{x} is {y}",), "focus": ("only {x}", "{y}")}, strip=". ")
    assert template.texts({"x": " a.", "y": "b "}) == ("a is b",) == template.texts({"x": "a", "y": "b"}, "change")
    assert template.texts({"x": "a", "y": "b"}, "focus") == ("only a", "b")
    assert Template("t", {"": ("{x}",)}).texts({"x": " a. "}) == (" a. ",)


def test_vectors_of_several_texts_are_averaged_to_unit_length_and_a_single_one_is_left_alone():
    one, other = np.array([[1.0, 0], [3, 0]]), np.array([[0, 1.0], [3, 0]])
    np.testing.assert_allclose(average_vectors([one, other]), [[0.5**0.5, 0.5**0.5], [1, 0]])
    assert average_vectors([one]) is one and np.isfinite(average_vectors([one, -one])).all()


def test_a_crop_grows_up_and_to_the_left_and_is_cut_by_the_border():
    assert crop_rectangle((100, 50, 20, 10), 640, 480) == pytest.approx((86, 43, 120, 60))
    assert crop_rectangle((4, 3, 20, 10), 640, 480) == pytest.approx((0, 0, 34, 17))
    assert crop_rectangle((100, 50, 20, 10), 110, 55) == pytest.approx((86, 43, 110, 55))


def test_means_of_nothing_are_none_and_names_are_joined_as_tables_print_them():
    assert mean([]) is None and mean([1.0, 2.0]) == 1.5
    scores = Scores("x", {"mAP": {"5": 1.0}, "dress": {"R@10": 2.0}, "overall": None}, 3, ("note",), ("mAP@5",))
    assert list(scores.rows()) == [("mAP@5", 1.0), ("dress R@10", 2.0), ("overall", None)]
    assert scores.document() == {**scores.values, "lower_bounds": ["mAP@5"], "remarks": ["note"]}
    assert Scores("x", {"a": 1.0}, 3, ("note",)).document() == {"a": 1.0}


def test_vectors_that_are_not_finite_are_refused_within_a_set_too():
    with pytest.raises(UserError, match="not finite"):
        ranker(np.array([[1, 0], [np.nan, 0]]), ("b",)).rankings_within(QUERY, ["ab"], 2)
