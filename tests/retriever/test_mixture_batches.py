"""Invariants: a mixture's shares come out, at every moment; a step's rows are a function of its number; queries and candidates have
the parts of their task; what shows the answer, or what asks, is no negative; a batch of composed queries alone is that of before
there were tasks, number by number."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from torch.nn.functional import normalize

from mmret.errors import UserError
from mmret.hashing import draws
from mmret.retriever.train.batch import NONE
from mmret.retriever.train.data import TrainingSet, chosen_rows
from mmret.retriever.train.loss import info_nce, masks
from mmret.retriever.train.mixture import Deal
from mmret.retriever.train.task_rows import ragged
from mmret.settings import Recipe
from mmret.tasks import MADE_TASKS, TASKS
from tests.retriever.mixtures import ALL, captions, mixture, of_task
from tests.retriever.runs import a_trainer, small

SHARES = ([0.5, 0.1, 0.1, 0.1, 0.1, 0.1], [1 / 3, 1 / 3, 1 / 3], [0.9, 0.07, 0.03], [0.61, 0.2, 0.19], [1 / 6] * 6, [0.98, 0.02])
MODES = ("one", "mixed")


@pytest.fixture(scope="module")
def table(triplets):
    return mixture(triplets)


def recipe(**changes) -> Recipe:
    return Recipe(**{"batch_size": 12, "mined_negatives": 2, "tasks": ALL, **changes})


# -- shares ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_the_steps_of_a_task_are_within_one_of_its_share_at_every_moment(shares):
    deal = Deal(shares, 1)
    for step in range(1, 1500):
        assert deal.at(step - 1).sum() == 1
        assert np.abs(deal.before(step) - np.array(shares) * step).max() < 1


@pytest.mark.parametrize("size", [3, 7, 64])
@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_every_batch_is_full_and_the_rows_of_a_task_are_within_two_of_its_share_at_every_moment(shares, size):
    deal = Deal(shares, size)
    for step in range(1, 400):
        assert deal.at(step - 1).sum() == size and deal.at(step - 1).min() >= 0
        assert np.abs(deal.before(step) - np.array(shares) * size * step).max() < (1 if min(shares) * size >= 1 else 2)


def test_a_deal_depends_on_its_step_and_on_the_seed_alone():
    asked, fresh = Deal([0.5, 0.25, 0.25], 1), Deal([0.5, 0.25, 0.25], 1)
    asked.before(90)
    assert [asked.at(n).tolist() for n in range(9)] == [fresh.at(n).tolist() for n in range(9)]
    orders = {tuple(int(np.argmax(Deal([1 / 3] * 3, 1, seed).at(n))) for n in range(3)) for seed in range(20)}
    assert len(orders) > 1 and all(sorted(order) == [0, 1, 2] for order in orders)


def test_rows_seen_are_those_of_the_batches_and_a_small_task_has_smaller_ones(table):
    few = pa.concat_tables([of_task(table, "composed"), of_task(table, "image_to_text").slice(0, 5)])
    for mode in MODES:
        data = TrainingSet(few, recipe(tasks={"composed": 3, "image_to_text": 1}, task_batches=mode))
        names = [name for step in range(8) for name in data.batch(step).task_names()]
        assert data.seen(8) == {name: names.count(name) for name in data.tasks}
        expected = [12, len(data.of["image_to_text"])] if mode == "one" else [12, 12]
        assert data.sizes == expected and data.batch_size == 12 and len(data.of["image_to_text"]) <= 5


# -- rows ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_the_same_step_gives_the_same_batch_of_a_mixture_whatever_was_asked_before(table, mode):
    fresh, used = TrainingSet(table, recipe(task_batches=mode)), TrainingSet(table, recipe(task_batches=mode))
    for step in (0, 11, 3, 7):
        used.batch(step)
    for step in (9, 2):
        a, b = fresh.batch(step), used.batch(step)
        assert a.texts == b.texts and a.candidate_texts == b.candidate_texts and a.task_names() == b.task_names()
        assert np.array_equal(a.queries, b.queries) and np.array_equal(a.candidates, b.candidates)


def test_each_task_walks_its_own_epochs(table):
    data, seen = TrainingSet(table, recipe(batch_size=6)), {}
    for step in range(6 * 4):
        batch = data.batch(step)
        (task,) = set(batch.task_names())
        assert task == data.task_of(step)
        place = data.seen(step)[task] // 6
        if place < len(data.of[task]) // 6:
            sources = batch.query_sources if batch.query_sources is not None else batch.queries[:, None]
            targets = batch.candidate_sources[:6] if batch.candidate_sources is not None else batch.targets[:, None]
            seen.setdefault(task, []).extend(zip(sources[:, 0].tolist(), targets[:, 0].tolist(), strict=True))
    assert seen.keys() == set(ALL) and all(len(set(rows)) == len(rows) for rows in seen.values())


@pytest.mark.parametrize("mode", MODES)
def test_queries_and_candidates_have_the_parts_of_their_task_and_negatives_know_their_row(table, mode):
    data = TrainingSet(table, recipe(task_batches=mode))
    ids, said = data.images.to_pylist(), captions(sorted({*table["query_id"].to_pylist(), *table["target_id"].to_pylist()}))
    listed: dict = {}
    for row in table.to_pylist():
        negatives = zip(row["hard_negatives"], row["negative_captions"] or row["hard_negatives"], strict=True)
        listed.setdefault((row["task"], row["query_id"]), set()).update(negatives)
    explicit = set()
    for step in range(12):
        batch = data.batch(step)
        names, count = batch.task_names(), len(batch.queries)
        rows = [*range(count), *batch.negative_rows.tolist()]
        texts = batch.candidate_texts or [None] * len(batch.candidates)
        for row, image, text in zip(range(count), batch.queries, batch.texts, strict=True):
            assert TASKS[names[row]].query == tuple(p for p, v in (("image", image != NONE), ("text", text is not None)) if v)
        for row, image, text in zip(rows, batch.candidates, texts, strict=True):
            assert TASKS[names[row]].candidate == tuple(p for p, v in (("image", image != NONE), ("text", text is not None)) if v)
            if image != NONE and text is not None:
                assert text == said[ids[image]]
        for row, place in zip(batch.negative_rows.tolist(), range(count, len(batch.candidates)), strict=True):
            task = names[row]
            if batch.query_sources is None or "text" not in TASKS[task].candidate:
                query = ids[batch.queries[row]] if batch.queries[row] != NONE else None
                image = ids[batch.candidates[place]]
                own = query == image and len(TASKS[task].query) == 2
                assert own or any(image == i for (t, q), ns in listed.items() if t == task and query in (q, None) for i, _ in ns)
            else:
                assert texts[place] in set(said.values())
            explicit.add(task)
    assert explicit == set(ALL)


@pytest.mark.parametrize("task, own", [("image_to_image", False), ("text_to_image", False), ("image_text_to_image_text", True)])
def test_the_query_image_is_a_negative_where_a_text_beside_it_says_that_it_is_not_wanted(table, task, own):
    batch = TrainingSet(table, recipe(tasks={task: 1}, negatives="query")).batch(0)
    assert len(batch.negative_rows) == (12 if own else 0)
    if own:
        assert np.array_equal(batch.candidates[12:], batch.queries) and None not in batch.candidate_texts


def test_pictures_that_are_used_only_as_texts_are_not_among_the_images(table, clip_folder, load, tmp_path):
    assert len(TrainingSet(table, recipe(tasks={"text_to_text": 1})).images) == 0
    asked: list[str] = []
    small_recipe = small("clip", tasks={"image_to_text": 1}, batch_size=8, trainable="text+projection")
    trainer = a_trainer(small_recipe, clip_folder, table, lambda ids: asked.extend(ids) or load(ids), tmp_path)
    queries = of_task(table, "image_to_text").filter(pc.equal(of_task(table, "image_to_text")["split"], "train"))["query_id"]
    assert sorted(set(asked)) == trainer.data.images.to_pylist() == sorted(set(queries.to_pylist()))


def test_a_subset_of_pairs_is_the_same_in_every_task_that_is_made_from_them(table):
    both = {"composed": 1, "image_text_to_image_text": 1}
    rows = {task: chosen_rows(table, recipe(tasks=both, pairs=9), task)[0] for task in both}
    assert set(rows["composed"]["pair_id"].to_pylist()) == set(rows["image_text_to_image_text"]["pair_id"].to_pylist())
    assert [len(TrainingSet(table, recipe(pairs=4)).of[task]) for task in ALL] == [4] * 6


def test_signals_choose_rows_of_every_task_but_a_picture_with_its_own_caption(table):
    data, every = TrainingSet(table, recipe(signals=("dino_image",))), TrainingSet(table, recipe())
    for task in ALL:
        own = task in ("text_to_image", "image_to_text")
        assert (len(data.of[task]) == len(every.of[task])) == own


def test_a_task_without_rows_is_left_out_with_a_reason_and_all_of_them_are_an_error(table, triplets):
    data = TrainingSet(of_task(table, "composed"), recipe(tasks={"composed": 1, "text_to_text": 3}))
    assert data.tasks == ["composed"] and "no rows of task text_to_text to train on" in data.left_out["text_to_text"]
    assert {data.task_of(step) for step in range(9)} == {"composed"} and data.seen(3) == {"composed": 36}
    with pytest.raises(UserError, match="no rows of task image_to_text to train on: 0 in all.*leave the task out"):
        TrainingSet(of_task(table, "composed"), recipe(tasks={"image_to_text": 1}))


# -- what is no negative -----------------------------------------------------------------------------------------------------


def shows(candidate, picture, query_has_image: bool, said: dict) -> bool:
    image, text, source = candidate
    return source == picture or (said[source] == said[picture] and (text is not None or not query_has_image))


@pytest.mark.parametrize("mode", MODES)
def test_what_shows_the_answer_or_a_lone_query_itself_is_no_negative_and_all_else_is(table, mode):
    data = TrainingSet(table, recipe(task_batches=mode, batch_size=30))
    pictures = sorted({i for r in table.to_pylist() for i in (r["query_id"], r["target_id"], *r["hard_negatives"])})
    said = captions(pictures)
    number = {name: n for n, name in enumerate(data.images.to_pylist())}
    assert len(number) == len(pictures)
    caption_of = {number[name]: text for name, text in said.items()}
    masked = 0
    for step in range(6):
        batch = data.batch(step)
        if batch.query_sources is None:
            continue
        texts = batch.candidate_texts or [None] * len(batch.candidates)
        candidates = list(zip(batch.candidates.tolist(), texts, batch.candidate_sources[:, 0].tolist(), strict=True))
        found, keys, names = batch.no_negatives(), batch.candidate_keys(), batch.task_names()
        for row, (image, text) in enumerate(zip(batch.queries.tolist(), batch.texts, strict=True)):
            picture, target = batch.query_sources[row, 0], batch.candidate_sources[row, 0]
            alone = image == NONE or text is None
            asking_the_same = [
                keys[other] for other, query in enumerate(zip(batch.queries.tolist(), batch.texts, strict=True))
                if query == (image, text) and names[other] != names[row]
            ]  # fmt: skip
            for place, candidate in enumerate(candidates):
                expected = shows(candidate, target, image != NONE, caption_of) or (
                    alone and shows(candidate, picture, image != NONE, caption_of)
                )
                if keys[place] != keys[row]:
                    assert found[row, place] == (expected or keys[place] in asking_the_same)
                    masked += expected
    assert masked > 50


def test_a_text_equal_to_the_targets_and_a_picture_with_its_caption_are_no_negatives_by_hand(table):
    for task in ("text_to_image", "image_to_text"):
        batch = TrainingSet(table, recipe(tasks={task: 1}, negatives="none")).batch(0)
        keys, said = batch.candidate_keys(), batch.query_sources[:, 1]
        assert len(set(said.tolist())) < 12
        positives, ignored = masks(keys, keys, queries=batch.distinct_queries()[1], no_negatives=batch.no_negatives())
        assert torch.equal(positives | ignored, torch.from_numpy(said[:, None] == said[None, :]))


def test_equal_queries_of_one_task_share_their_positives(table):
    batch = TrainingSet(table, recipe(tasks={"text_to_image": 1}, negatives="none")).batch(0)
    keys = batch.candidate_keys()
    positives, _ = masks(keys, keys, queries=batch.distinct_queries()[1], no_negatives=batch.no_negatives())
    text = np.array(batch.texts)
    expected = {(t, k) for t, k in zip(text, keys, strict=True)}
    assert positives.sum() > 12
    for row in range(12):
        assert {(text[row], keys[c]) for c in np.flatnonzero(positives[row])} == {e for e in expected if e[0] == text[row]}


# -- composed alone is what it was -------------------------------------------------------------------------------------------


class Before:
    """Batches of a recipe of composed queries as they were made before there were tasks."""

    def __init__(self, table: pa.Table, chosen: Recipe):
        rows, self.keys = chosen_rows(table, chosen)
        self.recipe = chosen
        self.texts, self.text_starts = ragged(rows["texts"])
        negatives, starts = ragged(rows["hard_negatives"])
        columns = [*(rows[c].cast(pa.large_string()).combine_chunks() for c in ("query_id", "target_id")), negatives]
        self.images = pc.unique(pa.chunked_array(columns)).sort()
        self.query, self.target, negative = (pc.index_in(c, self.images).to_numpy().astype(np.int64) for c in columns)
        row = np.repeat(np.arange(len(self.keys)), np.diff(starts))
        mined = (negative != self.query[row]) & (negative != self.target[row])
        self.mined = [negative[mined & (row == n)] for n in range(len(self.keys))]

    def batch(self, step: int) -> tuple[np.ndarray, list[str], np.ndarray]:
        epoch, number = divmod(step, len(self.keys) // self.recipe.batch_size)
        order = np.argsort(draws(self.keys, self.recipe.seed, "order", epoch), kind="stable")
        rows = order[number * self.recipe.batch_size : (number + 1) * self.recipe.batch_size]
        choices = np.diff(self.text_starts)[rows].astype(np.uint64)
        drawn = draws(self.keys[rows], self.recipe.seed, "text", epoch) % choices
        texts = self.texts.take(pa.array(self.text_starts[rows] + drawn.astype(np.int64))).to_pylist()
        mined = []
        for row, draw in zip(rows, draws(self.keys[rows], self.recipe.seed, "mined", epoch), strict=True):
            places = np.arange(len(self.mined[row]), dtype=np.uint64)
            mined += self.mined[row][np.argsort(draws(draw + places), kind="stable")][: self.recipe.mined_negatives].tolist()
        return self.query[rows], texts, np.concatenate([self.target[rows], self.query[rows], np.array(mined, np.int64)])


@pytest.mark.parametrize("trainable", ["text+blocks", "all"])
def test_composed_alone_has_the_batches_the_loss_and_the_gradient_of_before_bit_by_bit(
    triplets, clip_folder, load, tmp_path, trainable
):
    chosen = small("clip", batch_size=8, trainable=trainable)
    trainer, before = a_trainer(chosen, clip_folder, triplets, load, tmp_path, double=False), Before(triplets, chosen)
    model = trainer.embedder.model.train()
    assert trainer.data.images.equals(before.images)
    for step in (0, 3, 6):
        batch, (queries, texts, candidates) = trainer.data.batch(step), before.batch(step)
        assert batch.texts == texts and np.array_equal(batch.queries, queries) and np.array_equal(batch.candidates, candidates)
        assert batch.candidate_texts is None and batch.no_negatives() is None
    model.zero_grad()
    loss = trainer.backward(batch, trainer.embedder.read(batch))
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    distinct, where = np.unique(np.concatenate([queries, candidates]), return_inverse=True)
    every, text = np.unique(np.array(texts, dtype=object), return_inverse=True)
    model.zero_grad()
    images = trainer.embedder.image_features(trainer.embedder.rows(distinct))
    features = trainer.embedder.retriever.token_features(trainer.embedder.retriever.tokens(list(every)))
    query, candidate, text = (torch.from_numpy(i) for i in (where[:8], where[8:], text))
    composed = images.index_select(0, query) + features.index_select(0, text)
    same = {pair: n for n, pair in enumerate(dict.fromkeys(zip(queries.tolist(), texts, strict=True)))}
    positives, ignored = masks(
        candidates[:8], candidates, queries=np.array([same[pair] for pair in zip(queries.tolist(), texts, strict=True)])
    )
    expected = info_nce(normalize(composed, dim=-1), normalize(images.index_select(0, candidate), dim=-1), positives, ignored, 0.1)
    expected.backward()
    assert torch.equal(loss, expected.detach()) and got
    assert all(torch.equal(p.grad, got[n]) for n, p in model.named_parameters() if p.grad is not None)


def test_made_tasks_are_all_there(table):
    assert set(table["task"].to_pylist()) == {"composed", *MADE_TASKS}
