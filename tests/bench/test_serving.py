"""The bench of the server: a wrong answer is noticed, a late one is counted from when it was due, a lake is there to be served."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.search.search import Query, Searcher
from tests.conftest import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "bench"))
from serving import lake as lakes
from serving.load import Answered, Stream, drawn, first_answer
from serving.routes import Question
from serving.server import histograms
from serving.truth import State, judge


@pytest.fixture(scope="module")
def state() -> State:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 8)).astype(np.float32)
    vectors[7] = vectors[3]  # two pictures that tie
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return State("digest", [f"{i:032x}" for i in range(50)], vectors, Path("nowhere"))


def answer(state: State, row: int, k: int = 5) -> dict:
    scores = state.vectors @ state.vectors[row]
    scores[row] = -np.inf
    hits = [{"image_id": state.ids[i], "score": float(scores[i])} for i in np.argsort(-scores)[:k]]
    return {"hits": hits, "checkpoint": "digest", "gallery": 50}


def test_an_answer_that_is_not_brute_force_s_is_wrong(state):
    question, right = Question(image_id=state.ids[3], k=5), answer(state, 3)
    assert right["hits"][0]["image_id"] == state.ids[7]
    others = [
        right | {"hits": right["hits"][1:]},
        right | {"hits": [*right["hits"][1:], answer(state, 3, 9)["hits"][8]]},
        right | {"hits": [right["hits"][0], *right["hits"][:4]]},
        right | {"hits": [{**hit, "score": hit["score"] + 1e-4} for hit in right["hits"]]},
        right | {"hits": [{**right["hits"][0], "image_id": "f" * 32}, *right["hits"][1:]]},
        right | {"hits": [{"image_id": state.ids[3], "score": 1.0}, *right["hits"][:4]]},
        right | {"checkpoint": "another"},
        right | {"gallery": 49},
    ]
    verdict = judge([(question, body) for body in (right, *others)], [state])
    assert (verdict.checked, verdict.wrong) == (9, 8)


def test_equal_scores_may_come_in_any_order(state):
    near = int(np.argsort(-(state.vectors @ state.vectors[3]))[2])
    right = answer(state, near, 10)
    tied = [hit["image_id"] for hit in right["hits"]]
    assert {state.ids[3], state.ids[7]} <= set(tied)
    a, b = sorted((tied.index(state.ids[3]), tied.index(state.ids[7])))
    swapped = right["hits"].copy()
    swapped[a], swapped[b] = swapped[b], swapped[a]
    assert judge([(Question(image_id=state.ids[near]), right | {"hits": swapped})], [state]).wrong == 0


def test_a_latency_counts_from_when_the_request_was_due():
    due, sent, done = np.array([0.0, 1.0, 2.0]), np.array([0.0, 3.0, 3.0]), np.array([3.0, 3.1, 3.2])
    answered = Answered(np.array(["by id"] * 3), due, sent, done, np.array([200, 200, 503]), np.array([1, 2, 1]), [], [], 0.0)
    figures = answered.figures("by id")
    assert (figures["requests"], figures["errors"], figures["max"]) == (3, 1, 3000)
    assert figures["p50"] == pytest.approx(2550)
    assert first_answer(answered, 2.5) == pytest.approx(0.6)


def test_a_plan_has_the_rate_of_each_kind_and_requests_in_order_of_time():
    streams = [
        Stream("by id", 40, lambda rng: Question(image_id="0" * 32)),
        Stream("by text", 20, lambda rng: Question(text="a b")),
    ]
    plan, questions = drawn(streams, 5.0, seed=0, keep=0.5)
    assert [plan["label"].to_pylist().count(name) for name in ("by id", "by text")] == [200, 100]
    assert plan["due"].to_pylist() == sorted(plan["due"].to_pylist())
    assert [q.request()[0] for q in questions] == plan["path"].to_pylist()


def test_what_a_histogram_counted_between_two_readings():
    before = {'x_seconds_count{step="a"}': 10.0, 'x_seconds_sum{step="a"}': 5.0, 'x_seconds_bucket{le="0.1",step="a"}': 10.0}
    after = {
        'x_seconds_count{step="a"}': 110.0, 'x_seconds_sum{step="a"}': 9.0, 'x_seconds_bucket{le="0.1",step="a"}': 109.0,
        'x_seconds_bucket{le="+Inf",step="a"}': 110.0, 'x_seconds_count{step="b"}': 0.0,
    }  # fmt: skip
    assert histograms(before, after) == [{"name": 'x_seconds{step="a"}', "count": 100.0, "seconds": 4.0, "p99_under": 0.1}]


def test_the_lake_is_searched_by_its_drawn_vectors_and_another_checkpoint_takes_its_place(tmp_path):
    lake = Lake(tmp_path / "lake")
    lakes.make(lake, 60, 16)
    searcher = Searcher(lake, resolve(lake)[0])
    ids = lake.read("images", columns=["image_id"])["image_id"].to_pylist()
    first = searcher.search(lakes.RECIPE, Query(image_id=ids[0]), k=3)
    copy = lakes.linked_copy(lake, tmp_path / "copy")
    added = lakes.add_shard(copy, "shard-99999", 5, seed=99)
    lakes.swap_checkpoint(copy)
    second = Searcher(copy, resolve(copy)[0]).search(lakes.RECIPE, Query(image_id=added[0]), k=3)
    assert (first.gallery, second.gallery) == (60, 65) and first.checkpoint != second.checkpoint
    assert searcher.search(lakes.RECIPE, Query(image_id=ids[0]), k=3).gallery == 60
