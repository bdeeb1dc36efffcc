"""Invariants of batches of neighbours: an epoch shows each query once whatever the graph; groups are of neighbours, whole batches
of one neighbourhood where the group is the batch; near-duplicates are no neighbours; a row alone stays; what a step sees is a
function of (seed, step) and the rows, and the edges are part of a run's identity; without edges such a recipe is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from mmret.errors import UserError
from mmret.hashing import draws, pair_id
from mmret.lake import Lake, history
from mmret.lake.configuration import resolve
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.data_state import record_data_state
from mmret.retriever.train.loop import train
from mmret.retriever.train.neighbours import Neighbours, grouped
from mmret.retriever.train.order import NeighbourOrder
from mmret.retriever.train.rows import also_reads, neighbours_of
from mmret.retriever.train.stage import TrainingJob, train_recipe
from mmret.schemas import TRIPLETS
from mmret.settings import Recipe
from tests.retriever.mixtures import ALL, mixture
from tests.retriever.runs import ring, small
from tests.retriever.test_train import Killed, assert_bit_equal, dying

NOTHING = np.empty(0, np.int32)


def recipe(**changes) -> Recipe:
    return Recipe(**{"batch_size": 8, "mined_negatives": 2, "batch_neighbours": 4, **changes})


def pairs(*found: tuple[str, str]) -> pa.Table:
    text = pa.string()
    return pa.table({"query_id": pa.array([q for q, _ in found], text), "target_id": pa.array([t for _, t in found], text)})


def cliques(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """``count`` of ``size`` pictures each, every two of them neighbours."""
    one, other = np.triu_indices(size, 1)
    starts = np.arange(count)[:, None] * size
    return (starts + one).ravel(), (starts + other).ravel()


def an_order(rows: np.ndarray, edges, texts: np.ndarray | None = None, together: bool = False) -> NeighbourOrder:
    starts = np.concatenate([[0], np.cumsum(texts if texts is not None else np.ones(len(rows), np.int64))])
    return NeighbourOrder(draws(np.arange(len(rows), dtype=np.uint64), 5), rows, starts, edges, together)


# -- groups ---------------------------------------------------------------------------------------------------------------


def test_pairs_count_once_in_either_direction_near_duplicates_and_strangers_not_at_all():
    parts = [
        (pairs(("b", "a"), ("a", "b"), ("a", "c"), ("c", "x"), ("d", "d")), pairs(("c", "d"))),
        (pairs(("d", "c"), ("b", "d")), pairs(("d", "b"), ("x", "a"))),
    ]
    found = Neighbours.of(pa.array(["c", "a", "b", "a", "d"]), parts)
    assert found.ids.to_pylist() == ["a", "b", "c", "d"]
    assert list(zip(found.one.tolist(), found.other.tolist(), strict=True)) == [(0, 1), (0, 2)]
    again = Neighbours.of(pa.array(["a", "b", "c", "d"]), reversed(parts))
    assert again.digest() == found.digest() != Neighbours.of(pa.array(["a", "b", "c", "d"]), parts[1:]).digest()
    one, other = found.among(pa.array(["x", "c", "a"]), np.array([1, 2]))
    assert (one.tolist(), other.tolist()) == ([1], [0])
    nothing = Neighbours.of(pa.array(["a"]), [])
    assert [part.tolist() for part in nothing.among(pa.array(["a"]), np.array([0]))] == [[], []]


@pytest.mark.parametrize("size", [2, 4, 8])
def test_cliques_of_the_groups_size_are_the_groups(size):
    order = an_order(np.arange(40 * size), cliques(40, size))
    for epoch in range(2):
        found = order.order(size, 0, epoch) // size
        assert (found.reshape(-1, size) == found[::size, None]).all()
    assert not np.array_equal(order.order(size, 0, 0), order.order(size, 0, 1))
    assert not np.array_equal(order.order(size, 0, 0), order.order(size, 1, 0))
    assert np.array_equal(order.order(size, 0, 1), an_order(np.arange(40 * size), cliques(40, size)).order(size, 0, 1))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("graph", ["none", "star", "path", "random", "parts"])
def test_every_query_comes_once_whatever_the_graph(graph, together):
    rng, count = np.random.default_rng(3), 97
    ends = {
        "none": (NOTHING, NOTHING),
        "star": (np.zeros(count - 1, np.int32), np.arange(1, count)),
        "path": (np.arange(count - 1), np.arange(1, count)),
        "random": tuple(np.sort(rng.integers(0, count, (300, 2)), axis=1)[:, ::1].T),
        "parts": cliques(20, 3),
    }[graph]
    inside = ends[0] != ends[1]
    edges = (ends[0][inside], ends[1][inside])
    rows = np.concatenate([np.arange(count), rng.integers(0, count, 150)])
    texts = rng.integers(1, 4, len(rows))
    for size in (2, 5, 8, 64, 10_000):
        for epoch in range(2):
            order = an_order(rows, edges, texts, together).order(size, 0, epoch)
            assert np.array_equal(np.sort(order), np.arange(texts.sum()))


def test_merging_keeps_groups_within_their_size_and_places_are_a_permutation():
    rng = np.random.default_rng(4)
    one, other = rng.integers(0, 500, (2, 3000))
    for most in (1, 3, 16):
        found = grouped(500, *(end[one != other] for end in (one, other)), most, 0)
        assert np.bincount(found.group).max() <= most and np.array_equal(np.sort(found.place), np.arange(500))
        by_place = np.argsort(found.place)
        for labels in (found.group, found.component):
            runs = 1 + np.count_nonzero(np.diff(labels[by_place]))
            assert runs == len(set(labels.tolist())), "nodes of one stand together"


def test_a_group_has_more_neighbours_than_chance_and_no_picture_twice():
    """Points on a ring, each a neighbour of the 20 next ones: of random pairs 4 % are neighbours."""
    count = 1000
    one = np.repeat(np.arange(count), 20)
    edges = (one, (one + np.tile(np.arange(1, 21), count)) % count)
    near = {(min(a, b), max(a, b)) for a, b in zip(*(end.tolist() for end in edges), strict=True)}
    rows = np.tile(np.arange(count), 3)
    groups = rows[an_order(rows, edges).order(8, 0, 0)].reshape(-1, 8)
    inside = [(min(a, b), max(a, b)) in near for group in groups.tolist() for n, a in enumerate(group) for b in group[:n]]
    assert np.mean(inside) > 0.6 and np.mean([len(set(group)) == 8 for group in groups.tolist()]) > 0.98


def test_pairs_are_of_neighbours_where_a_graph_has_no_neighbourhoods():
    """Of a random graph nearly every node can be paired; an order of clusters cut anywhere has half of the pairs."""
    ends = np.sort(np.random.default_rng(6).integers(0, 1000, (4000, 2)), axis=1)
    ends = ends[ends[:, 0] != ends[:, 1]]
    found = an_order(np.arange(1000), (ends[:, 0], ends[:, 1])).order(2, 0, 0).reshape(-1, 2)
    assert np.mean([tuple(pair) in set(map(tuple, ends.tolist())) for pair in np.sort(found, axis=1).tolist()]) > 0.85


def test_rows_without_neighbours_fill_blocks_of_their_own_and_blocks_stay_aligned():
    edges = cliques(10, 4)
    order = an_order(np.arange(63), edges).order(4, 0, 0)
    blocks = order[:60].reshape(-1, 4)
    whole = (
        [set(block // 4) for block in blocks.tolist() if max(block) < 40] if False else [b for b in blocks.tolist() if max(b) < 40]
    )
    assert len(whole) == 10 and all(len({n // 4 for n in block}) == 1 for block in whole)
    assert all(min(block) >= 40 for block in blocks.tolist() if block not in whole) and min(order[60:]) >= 40


# -- batches --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", ["one", "triplet", "picture"])
@pytest.mark.parametrize("groups", [3, 8])
def test_an_epoch_shows_everything_once_and_a_step_is_a_function_of_its_number(texts, groups, triplets):
    chosen = recipe(texts_at_once=texts, batch_neighbours=groups)
    fresh, used = (TrainingSet(triplets, chosen, ring(triplets)) for _ in range(2))
    for step in (0, 11, 3, 7):
        used.batch(step)
    for step in (9, 2):
        a, b = fresh.batch(step), used.batch(step)
        assert a.texts == b.texts and np.array_equal(a.candidates, b.candidates)
    data, queries = fresh, fresh.of["composed"].queries
    assert queries == (36 if texts == "one" else 71)
    rows = [(q, t, text if texts != "one" else "") for b in map(data.batch, range(queries // 8)) for q, t, text in
            zip(b.queries.tolist(), b.targets.tolist(), b.texts, strict=True)]  # fmt: skip
    assert len(rows) == len(set(rows)) == queries // 8 * 8


def test_a_batch_that_is_one_group_is_of_neighbouring_pictures():
    """Six neighbourhoods of four pictures, of which each asks twice."""
    ids = [f"{n:032x}" for n in range(48)]
    rows = [
        {"pair_id": pair_id(ids[n], target), "query_id": ids[n], "target_id": target, "texts": ["no hat"], "hard_negatives": []}
        for n in range(24)
        for target in (ids[24 + n], ids[24 + (n + 7) % 24])
    ]
    empty = {**dict.fromkeys(TRIPLETS.names), "split": "train", "signals": ["caption"]}
    table = pa.Table.from_pylist([{**empty, **row} for row in rows], TRIPLETS)
    near = Neighbours.of(pa.array(ids[:24]), [(pairs(*((ids[a], ids[b]) for a, b in zip(*cliques(6, 4), strict=True))), pairs())])
    data = TrainingSet(table, recipe(batch_size=4), near)
    for step in range(24):
        asked = {ids.index(data.images[int(q)].as_py()) for q in data.batch(step).queries}
        assert len(asked) == 4 and len({n // 4 for n in asked}) == 1


@pytest.mark.parametrize("batches", ["one", "mixed"])
def test_mixtures_have_groups_in_every_task(batches, triplets):
    data = TrainingSet(mixture(triplets), recipe(batch_size=12, tasks=ALL, task_batches=batches), ring(triplets))
    for rows in data.of.values():
        assert np.array_equal(np.sort(rows.order(1)), np.arange(rows.queries)) and rows.alone == 0
    assert sum(len(data.batch(step).queries) for step in range(12)) == 144


def test_a_recipe_of_groups_needs_neighbours(triplets):
    with pytest.raises(UserError, match="batch_neighbours needs to know which pictures are neighbours: train on a lake"):
        TrainingSet(triplets, recipe())
    strangers = Neighbours.of(triplets["query_id"].combine_chunks(), [])
    with pytest.raises(UserError, match=r"finds no two query pictures that are neighbours: widen mine\.bands"):
        TrainingSet(triplets, recipe(), strangers)
    plain = TrainingSet(triplets, recipe(batch_neighbours=1), strangers).batch(0)
    assert plain.texts == TrainingSet(triplets, recipe(batch_neighbours=1)).batch(0).texts
    with pytest.raises(ValidationError, match="batch_neighbours is 9 and batch_size 8: lower it"):
        recipe(batch_neighbours=9)


def test_a_killed_run_goes_on_to_the_same_bits_and_other_edges_are_another_run(triplets, clip_folder, load, tmp_path):
    chosen = small("clip", batch_neighbours=3, trainable="text+projection", steps=4)
    few = triplets["query_id"].combine_chunks()
    ids = sorted(set(few.to_pylist()))
    near = Neighbours.of(few, [(pairs(*zip(ids[:-2], ids[1:], strict=False)), pairs())])
    facts = train(chosen, triplets, load, clip_folder, tmp_path / "whole", neighbours=near)
    alone = sum(i == ids[-1] for i, split in zip(few.to_pylist(), triplets["split"].to_pylist(), strict=True) if split == "train")
    assert facts["notes"] == [f"{alone} of 36 triplets have no neighbour to share a batch with"]
    with pytest.raises(Killed, match="killed here"), dying(3):
        train(chosen, triplets, load, clip_folder, tmp_path / "broken", neighbours=near)
    train(chosen, triplets, load, clip_folder, tmp_path / "broken", neighbours=near)
    assert_bit_equal(tmp_path / "whole", tmp_path / "broken")
    train(chosen, triplets, load, clip_folder, tmp_path / "other", neighbours=ring(triplets))
    identity = {
        name: json.loads((tmp_path / name / "recipe.json").read_text())["identity"] for name in ("whole", "broken", "other")
    }
    assert identity["whole"] == identity["broken"] != identity["other"]


# -- on a lake ------------------------------------------------------------------------------------------------------------


def test_what_is_read_is_declared():
    everything = Recipe()
    assert also_reads(everything) == () and also_reads(everything.model_copy(update={"batch_neighbours": 2})) == ("neighbours",)


def test_a_lake_trains_by_its_own_neighbours_and_keeps_the_state_that_has_them(small_lake, tmp_path):
    shutil.copytree(small_lake[0], tmp_path / "lake", ignore=shutil.ignore_patterns(".dagster", "checkpoints", "evaluations"))
    lake = Lake(tmp_path / "lake")
    job = TrainingJob.of(lake, resolve(lake)[0], "demo")
    assert job.neighbours(job.rows()) is None
    job = replace(job, recipe=job.recipe.model_copy(update={"batch_neighbours": 4, "steps": 3, "signals": ("clip_image",)}))
    rows = job.rows()
    near = neighbours_of(lake, job.recipe, rows)
    table, queries = lake.read("neighbours").to_pylist(), set(rows["query_id"].to_pylist())
    above = {frozenset((r["query_id"], r["target_id"])) for r in table if r["above_band"]}
    expected = {
        pair for r in table if r["signal"] == "clip_image" and not r["above_band"]
        if len(pair := frozenset((r["query_id"], r["target_id"]))) == 2 and pair <= queries
    } - above  # fmt: skip
    ids = near.ids.to_pylist()
    assert {frozenset((ids[a], ids[b])) for a, b in zip(near.one.tolist(), near.other.tolist(), strict=True)} == expected != set()
    assert near.digest() == job.neighbours(rows).digest()
    facts = train_recipe(job, "x")
    assert facts.rows == 1 and facts.notes["triplets"] > 0
    assert history.read_state(lake, record_data_state(lake, job.recipe))["neighbours"]
