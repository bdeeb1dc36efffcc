"""Invariants: a step's rows, texts and negatives depend on (seed, epoch, pair) alone; an epoch shows every pair at
most once; only split `train` and the recipe's signals are used; subsets are nested; negatives are what the recipe
says."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mmret.errors import UserError
from mmret.hashing import draws
from mmret.retriever.train.data import TrainingSet
from mmret.settings import Recipe


def recipe(**changes) -> Recipe:
    return Recipe(**{"batch_size": 8, "mined_negatives": 2, **changes})


def rows_by_pair(data: TrainingSet, steps: range) -> dict:
    """What every pair was shown with, by epoch; pairs are told apart by (query, target)."""
    seen = {}
    for step in steps:
        batch = data.batch(step)
        for query, target, text in zip(batch.queries, batch.targets, batch.texts, strict=True):
            ids = data.images[int(query)].as_py(), data.images[int(target)].as_py()
            seen[step // (len(data) // data.batch_size), ids] = text
    return seen


def test_the_same_step_gives_the_same_batch_whatever_was_asked_before(triplets):
    fresh, used = TrainingSet(triplets, recipe()), TrainingSet(triplets, recipe())
    for step in (0, 11, 3, 7):
        used.batch(step)
    for step in (9, 2):
        a, b = fresh.batch(step), used.batch(step)
        assert a.texts == b.texts
        assert np.array_equal(a.queries, b.queries) and np.array_equal(a.candidates, b.candidates)


def test_the_order_of_the_table_does_not_matter(triplets):
    turned = triplets.take(pa.array(np.arange(len(triplets))[::-1]))
    a, b = TrainingSet(triplets, recipe()).batch(3), TrainingSet(turned, recipe()).batch(3)
    assert a.texts == b.texts and np.array_equal(a.candidates, b.candidates)


def test_a_text_drawn_for_a_pair_does_not_depend_on_the_other_pairs(triplets):
    whole = rows_by_pair(TrainingSet(triplets, recipe()), range(4))
    train = triplets.filter(pa.compute.equal(triplets["split"], "train"))
    half = rows_by_pair(TrainingSet(train.slice(0, 20), recipe()), range(2))
    shared = whole.keys() & half.keys()
    assert len(shared) > 5
    assert all(whole[k] == half[k] for k in shared)


def test_texts_change_over_epochs_and_all_are_drawn(triplets):
    data = TrainingSet(triplets, recipe(batch_size=36))
    shown: dict = {}
    for (_, ids), text in rows_by_pair(data, range(40)).items():
        shown.setdefault(ids, set()).add(text)
    offered = {(t["query_id"], t["target_id"]): set(t["texts"]) for t in triplets.to_pylist() if t["split"] == "train"}
    assert shown == offered


def test_an_epoch_shows_every_pair_at_most_once_and_only_split_train(triplets):
    data = TrainingSet(triplets, recipe())
    assert len(data) == 36
    epoch = rows_by_pair(data, range(4))
    assert len(epoch) == 32  # four whole batches of eight
    test = {(t["query_id"], t["target_id"]) for t in triplets.to_pylist() if t["split"] == "test"}
    assert not test & {ids for _, ids in epoch}
    order = data.of["composed"].order
    assert not np.array_equal(order(0), order(1))


def test_signals_choose_the_pairs(triplets):
    data = TrainingSet(triplets, recipe(signals=("dino_image",), batch_size=2))
    found = {
        (t["query_id"], t["target_id"]) for t in triplets.to_pylist() if t["split"] == "train" and "dino_image" in t["signals"]
    }
    assert {ids for _, ids in rows_by_pair(data, range(len(data) // 2))} <= found
    assert len(data) == len(found) < 36


def test_a_larger_subset_contains_the_smaller(triplets):
    small, large = (set(TrainingSet(triplets, recipe(pairs=n)).keys.tolist()) for n in (10, 25))
    assert len(small) == 10 and len(large) == 25 and small < large
    other = set(TrainingSet(triplets, recipe(pairs=10, seed=1)).keys.tolist())
    assert small != other


@pytest.mark.parametrize("negatives", ["none", "query", "mined", "query+mined"])
def test_candidates_are_targets_then_query_images_then_mined(triplets, negatives):
    data = TrainingSet(triplets, recipe(negatives=negatives))
    batch = data.batch(1)
    rest = batch.candidates[8:]
    listed = {(t["query_id"], t["target_id"]): t["hard_negatives"][1:] for t in triplets.to_pylist()}
    pairs = zip(batch.queries, batch.targets, strict=True)
    mined = [listed[data.images[int(q)].as_py(), data.images[int(t)].as_py()] for q, t in pairs]
    own = 8 if "query" in negatives else 0
    assert len(rest) == own + ("mined" in negatives) * sum(min(2, len(m)) for m in mined)
    assert np.array_equal(rest[:own], batch.queries[:own])
    if "mined" in negatives:
        assert {data.images[int(i)].as_py() for i in rest[own:]} <= {i for m in mined for i in m}
        assert len({len(m) for m in mined}) > 1  # ragged, else the test would say little


def test_mined_negatives_change_over_epochs(triplets):
    data = TrainingSet(triplets, recipe(batch_size=36))
    assert len({tuple(sorted(data.batch(step).candidates[72:].tolist())) for step in range(4)}) > 1


def test_the_target_is_never_its_own_negative(triplets):
    row = triplets.slice(0, 1).to_pylist()[0]
    row["hard_negatives"] = [row["query_id"], row["target_id"], "f" * 32, "f" * 32]
    rows = pa.Table.from_pylist([row, *triplets.slice(1, 1).to_pylist()], triplets.schema)
    data = TrainingSet(rows, recipe(mined_negatives=9))
    rows = data.of["composed"]
    here = next(i for i, q in enumerate(rows.query) if data.images[int(q)].as_py() == row["query_id"])
    mined = rows.mined[rows.mined_starts[here] : rows.mined_starts[here + 1]]
    assert {data.images[int(i)].as_py() for i in mined} == {"f" * 32}


def test_distinct_images_and_texts_gather_back(triplets):
    batch = TrainingSet(triplets, recipe()).batch(0)
    distinct, query, candidate = batch.images()
    assert np.array_equal(distinct[query], batch.queries) and np.array_equal(distinct[candidate], batch.candidates)
    assert len(distinct) < len(batch.queries) + len(batch.candidates)
    texts, text, _ = batch.distinct_texts()
    assert [texts[i] for i in text] == batch.texts


def test_too_few_triplets_make_a_smaller_batch(triplets):
    data = TrainingSet(triplets, recipe(batch_size=500))
    assert data.batch_size == 36 and len(data.batch(7).queries) == 36


def test_nothing_to_train_on_says_where_it_was_lost(triplets):
    with pytest.raises(UserError, match="0 of split 'train'.*mine"):
        TrainingSet(triplets.slice(0, 0), recipe())
    only = pa.array([["caption"]] * len(triplets), triplets.schema.field("signals").type)
    captions = triplets.set_column(triplets.schema.get_field_index("signals"), "signals", only)
    with pytest.raises(UserError, match=r"0 found by the recipe's signals \(dino_image\)"):
        TrainingSet(captions, recipe(signals=("dino_image",)))


def test_draws_are_uniform_and_independent_of_order():
    keys = np.arange(20_000, dtype=np.uint64)
    numbers = draws(keys, 0, "text", 1)
    assert np.array_equal(draws(keys[::-1], 0, "text", 1)[::-1], numbers)
    counts = np.bincount((numbers % np.uint64(7)).astype(int), minlength=7)
    assert counts.min() > 2600 and counts.max() < 3120
    assert len(np.unique(numbers)) == len(keys)
    assert not np.array_equal(draws(keys, 1, "text", 1), numbers)
    assert not np.array_equal(draws(keys, 0, "mined", 1), numbers)
