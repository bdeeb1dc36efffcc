"""Invariants of visits that show several texts: a batch has its size in queries; an epoch shows each (row, text) once, those of a
row or of a picture in a row; explicit negatives come once a row and are its own for each of its texts; within a visit a candidate
counts once, and never a query's own target; the loss is that of this definition; seeds, steps and tasks are as before."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import normalize

from mmret.retriever.train.batch import Batch
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.loop import train
from mmret.retriever.train.loss import masks
from mmret.settings import Recipe
from tests.retriever.mixtures import ALL, mixture
from tests.retriever.runs import a_trainer, small
from tests.retriever.test_distillation import scores_of
from tests.retriever.test_train import Killed, assert_bit_equal, dying

MODES = ("triplet", "picture")


def recipe(**changes) -> Recipe:
    return Recipe(**{"batch_size": 8, "mined_negatives": 2, "texts_at_once": "triplet", **changes})


def offered(triplets: pa.Table) -> list[tuple[str, str, str]]:
    """Every (query, target, text) of split train."""
    rows = triplets.filter(pc.equal(triplets["split"], "train")).to_pylist()
    return [(r["query_id"], r["target_id"], text) for r in rows for text in r["texts"]]


def shown(data: TrainingSet, steps: range) -> list[tuple[str, str, str]]:
    found = []
    for batch in map(data.batch, steps):
        for query, target, text in zip(batch.queries, batch.targets, batch.texts, strict=True):
            found.append((data.images[int(query)].as_py(), data.images[int(target)].as_py(), text))
    return found


@pytest.mark.parametrize("mode", MODES)
def test_an_epoch_shows_every_text_of_every_row_at_most_once_and_all_where_batches_fit(mode, triplets):
    every = offered(triplets)
    assert len(every) == 71, "so that a batch of 71 is an epoch"
    data = TrainingSet(triplets, recipe(texts_at_once=mode))
    found = shown(data, range(71 // 8))
    assert len(set(found)) == len(found) == 64 and set(found) <= set(every)
    whole = TrainingSet(triplets, recipe(texts_at_once=mode, batch_size=500))
    assert whole.batch_size == 71 and sorted(shown(whole, range(1))) == sorted(every)
    assert {data.seen(n)["composed"] for n in (9, 18)} == {72, 144} and len(data) == 36


@pytest.mark.parametrize("mode", MODES)
def test_texts_of_a_row_stand_together_and_so_do_rows_of_a_picture(mode, triplets):
    data = TrainingSet(triplets, recipe(texts_at_once=mode))
    found = shown(data, range(8))
    of = [(q, t) if mode == "triplet" else q for q, t, _ in found]
    runs = [of[0], *(b for a, b in zip(of, of[1:], strict=False) if a != b)]
    assert len(runs) == len(set(runs)), "one run each, though the end of a batch may cut it"
    rows = [(q, t) for q, t, _ in found]
    assert len({b for a, b in zip(rows, rows[1:], strict=False) if a != b}) == len(set(rows)) - 1
    assert not np.array_equal(data.of["composed"].order(0), data.of["composed"].order(1))


def test_a_row_of_more_texts_than_a_batch_holds_goes_on_in_the_next(triplets):
    data = TrainingSet(triplets, recipe(batch_size=2))
    found = shown(data, range(35))
    assert len(set(found)) == 70
    cut = [n for n in range(34) if found[2 * n + 1][:2] == found[2 * n + 2][:2]]
    assert cut, "else the test says little"


@pytest.mark.parametrize("mode", MODES)
def test_the_same_step_gives_the_same_batch_whatever_was_asked_before_and_whatever_the_tables_order(mode, triplets):
    turned = triplets.take(pa.array(np.arange(len(triplets))[::-1]))
    fresh, used = (TrainingSet(t, recipe(texts_at_once=mode)) for t in (triplets, turned))
    for step in (0, 11, 3, 7):
        used.batch(step)
    for step in (9, 2):
        a, b = fresh.batch(step), used.batch(step)
        assert a.texts == b.texts and np.array_equal(a.candidates, b.candidates) and np.array_equal(a.groups, b.groups)


@pytest.mark.parametrize("mode", MODES)
def test_negatives_come_once_a_row_and_are_its_own_for_each_of_its_texts(mode, triplets):
    data = TrainingSet(triplets, recipe(texts_at_once=mode, batch_size=30))
    listed = {(t["query_id"], t["target_id"]): t["hard_negatives"] for t in triplets.to_pylist()}
    for batch in map(data.batch, range(6)):
        ids = [data.images[int(n)].as_py() for n in batch.candidates]
        pairs = list(zip(batch.queries.tolist(), batch.targets.tolist(), strict=True))
        assert [len({pairs[n] for n in np.flatnonzero(batch.groups == g)}) for g in set(batch.groups)] == [1] * len(set(pairs))
        rows, places = batch.own_candidates()
        assert rows[:30].tolist() == places[:30].tolist() == list(range(30))
        for row in range(30):
            own = sorted(ids[p] for p in places[rows == row][1:])
            query, target = data.images[int(batch.queries[row])].as_py(), ids[row]
            assert set(own) <= set(listed[query, target]) and query in own and target not in own
            assert own == sorted(ids[p] for p in places[rows == np.flatnonzero(batch.groups == batch.groups[row])[0]][1:])
        assert len(batch.negative_rows) == len(set(zip(batch.groups[batch.negative_rows], batch.candidates[30:], strict=True)))


def negatives_of(batch: Batch, row: int) -> list[int]:
    """By the definition: what each visit has brought counts once, but for the query's own target, and what shows an answer."""
    brought = [*range(len(batch.queries)), *batch.negative_rows.tolist()]
    keys, asked = batch.candidate_keys().tolist(), list(zip(batch.queries.tolist(), batch.texts, strict=True))
    right = {keys[other] for other in range(len(asked)) if asked[other] == asked[row]}
    return sorted(key for _, key in {(batch.visits[b], k) for b, k in zip(brought, keys, strict=True)} if key not in right)


@pytest.mark.parametrize("mode", MODES)
def test_a_candidate_counts_once_a_visit_and_other_triplets_targets_of_the_same_picture_are_negatives(mode, triplets):
    data, same_picture = TrainingSet(triplets, recipe(texts_at_once=mode, batch_size=30)), 0
    for batch in map(data.batch, range(4)):
        keys = batch.candidate_keys()
        positives, ignored = masks(keys[:30], keys, queries=batch.distinct_queries()[1], copies=batch.copies())
        for row in range(30):
            negative = (~positives & ~ignored)[row].numpy()
            assert sorted(keys[negative].tolist()) == negatives_of(batch, row)
            others = (batch.queries == batch.queries[row]) & (batch.groups != batch.groups[row])
            same_picture += len(set(keys[:30][others]) & set(keys[negative]))
    assert same_picture > 10


@pytest.mark.parametrize("mode", MODES)
def test_a_querys_own_target_is_no_negative_of_it_even_where_false_negatives_are_not_masked(mode, triplets):
    batch = TrainingSet(triplets, recipe(texts_at_once=mode, batch_size=30)).batch(0)
    keys = batch.candidate_keys()
    positives, ignored = masks(keys[:30], keys, mask_false_negatives=False, copies=batch.copies())
    left = (~positives & ~ignored).numpy()
    for row in range(30):
        own = left[row, :30] & (batch.groups == batch.groups[row])
        assert not own.any() and positives[row].sum() == 1 and positives[row, row]


@pytest.mark.parametrize("mode", MODES)
def test_the_loss_is_that_of_the_definition(mode, triplets, clip_folder, load, tmp_path):
    made = a_trainer(small("clip", texts_at_once=mode, batch_size=14), clip_folder, triplets, load, tmp_path)
    batch = made.data.batch(0)
    loss = made.backward(batch, made.embedder.read(batch))
    distinct, query, candidate = batch.images()
    texts, text, _ = batch.distinct_texts()
    with torch.no_grad():
        images = made.embedder.image_features(made.embedder.rows(distinct))
        features = made.embedder.retriever.token_features(made.embedder.retriever.tokens(texts))
        queries, candidates = normalize(images[query] + features[text], dim=-1), normalize(images[candidate], dim=-1)
    place = {int(key): n for n, key in enumerate(batch.candidate_keys())}
    asked, losses = list(zip(batch.queries.tolist(), batch.texts, strict=True)), []
    for row in range(14):
        right = sorted({int(batch.targets[other]) for other in range(14) if asked[other] == asked[row]})
        wrong = torch.stack([candidates[place[key]] for key in negatives_of(batch, row)]) @ queries[row] / 0.1
        scores = [candidates[place[key]] @ queries[row] / 0.1 for key in right]
        losses.append(sum(torch.logsumexp(torch.cat([score[None], wrong]), 0) - score for score in scores) / len(right))
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_a_teachers_lesson_finds_the_negatives_of_a_triplet_for_each_of_its_texts(mode, triplets):
    data, teacher = TrainingSet(triplets, recipe(texts_at_once=mode, batch_size=12)), scores_of(triplets)
    batch = data.batch(1)
    lesson = teacher.lesson(batch, data.images)
    rows, places = batch.own_candidates()
    found = [p[p >= 0].tolist() for p in lesson.places]
    assert found == [places[rows == row].tolist() for row in range(12)] and max(map(len, found)) == 4
    group = next(np.flatnonzero(batch.groups == g) for g in batch.groups if (batch.groups == g).sum() > 1)
    one, other = (lesson.scores[row][1 : len(found[row])] for row in group[:2])
    assert found[group[0]][1:] == found[group[1]][1:] and not torch.equal(one, other), "each text has its own scores"


@pytest.mark.parametrize("batches", ["one", "mixed"])
@pytest.mark.parametrize("mode", MODES)
def test_mixtures_show_every_text_of_every_task_once_and_count_queries(mode, batches, triplets):
    table = mixture(triplets)
    data = TrainingSet(table, recipe(texts_at_once=mode, batch_size=12, tasks=ALL, task_batches=batches))
    seen: dict = {}
    for step in range(40):
        batch = data.batch(step)
        assert len(batch.queries) == 12 == len(batch.groups)
        for row, (task, text) in enumerate(zip(batch.task_names(), batch.texts, strict=True)):
            seen.setdefault(task, []).append(text)
            same = batch.groups == batch.groups[row]
            assert len({batch.task_names()[n] for n in np.flatnonzero(same)}) == 1
    assert {task: len(texts) for task, texts in seen.items()} == data.seen(40) and seen.keys() == set(ALL)
    assert data.of["composed"].queries == 71 == data.of["image_text_to_image_text"].queries
    assert data.of["image_to_image"].queries == 36 and set(seen["image_to_image"]) == {None}


def test_where_a_visit_shows_one_text_nothing_is_grouped(triplets):
    batch = TrainingSet(triplets, recipe(texts_at_once="one")).batch(0)
    assert batch.groups is None and batch.visits is None and batch.copies() is None


def test_a_killed_run_goes_on_to_the_same_bits_and_counts_queries(triplets, clip_folder, load, tmp_path):
    chosen = small("clip", texts_at_once="picture", batch_size=500, trainable="text+projection", steps=4)
    facts = train(chosen, triplets, load, clip_folder, tmp_path / "whole")
    assert facts["batch_size"] == 71 and facts["pairs"] == facts["tasks"]["composed"]["seen"] == 4 * 71
    assert facts["triplets"] == 36 and facts["notes"] == ["only 36 triplets with 71 texts: the batch is 71, not 500"]
    with pytest.raises(Killed, match="killed here"), dying(3):
        train(chosen, triplets, load, clip_folder, tmp_path / "broken")
    train(chosen, triplets, load, clip_folder, tmp_path / "broken")
    assert_bit_equal(tmp_path / "whole", tmp_path / "broken")


def test_where_no_row_has_several_texts_it_is_said_that_they_cannot_agree(triplets, clip_folder, load, tmp_path):
    at = triplets.column_names.index("texts")
    single = triplets.set_column(
        at, triplets.schema.field(at), pc.list_slice(triplets["texts"], 0, 1).cast(triplets.schema.field(at).type)
    )
    chosen = small("clip", texts_at_once="triplet", agreement=1.0, trainable="text+projection", steps=1)
    said = "agreement compared nothing: no row has several texts"
    assert said in train(chosen, single, load, clip_folder, tmp_path / "one")["notes"]
    assert TrainingSet(triplets, chosen).of["composed"].several > 0


def test_queries_without_texts_are_refused():
    with pytest.raises(ValidationError, match="texts_at_once shows texts, and queries of image_to_image have none: leave it out"):
        recipe(tasks={"image_to_image": 1})
