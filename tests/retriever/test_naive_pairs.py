"""Invariants: a naive pair shares a word that is not in most captions, its query is no held-out one, it is drawn by seed
and corpus alone, and it has a text of its own; a corpus without enough of them says so."""

import re

import pyarrow as pa
import pytest

from mmret.curation.split import split_of
from mmret.errors import UserError
from mmret.hashing import content_id
from mmret.ingest.shapes import caption, scene
from mmret.retriever.train.naive_pairs import COMMON, naive_triplets
from mmret.settings import EvaluateSettings

EVALUATE = EvaluateSettings(held_out=0.2)


def corpus(n: int) -> pa.Table:
    captions = [caption(scene(9, i)) for i in range(n)]
    ids = [content_id(str(i).encode()) for i in range(n)]
    return pa.table(
        {
            "image_id": ids,
            "caption": captions,
            "path": [f"{i}.png" for i in range(n)],
            "licence": pa.array(["CC0-1.0"] * n, pa.string()),
        }
    )


IMAGES = corpus(300)
CAPTIONS = dict(zip(IMAGES["image_id"].to_pylist(), IMAGES["caption"].to_pylist(), strict=True))


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def test_pairs_share_a_word_and_leave_the_held_out_queries_alone():
    rows = naive_triplets(IMAGES, 500, 0, EVALUATE).to_pylist()
    said = [words(c) for c in CAPTIONS.values()]
    assert len({(r["query_id"], r["target_id"]) for r in rows}) == 500
    for row in rows:
        shared = words(CAPTIONS[row["query_id"]]) & words(CAPTIONS[row["target_id"]])
        assert any(sum(w in s for s in said) <= COMMON * len(said) for w in shared)
        assert split_of(row["query_id"], EVALUATE) == row["split"] == "train"
        assert row["texts"] and row["hard_negatives"] == [row["query_id"]] and row["signals"] == []
        assert CAPTIONS[row["query_id"]] != CAPTIONS[row["target_id"]]


def test_draws_depend_on_seed_and_corpus_not_on_the_order_of_rows():
    turned = IMAGES.take(pa.array(range(len(IMAGES) - 1, -1, -1)))
    first = naive_triplets(IMAGES, 200, 1, EVALUATE)
    assert naive_triplets(turned, 200, 1, EVALUATE).equals(first)
    assert not naive_triplets(IMAGES, 200, 2, EVALUATE).equals(first)


def test_a_corpus_that_has_too_few_says_so():
    with pytest.raises(UserError, match="naive pairs and 10,000 are wanted"):
        naive_triplets(corpus(12), 10_000, 0, EVALUATE)
    unlike = pa.table({"image_id": ["a", "b"], "caption": ["red ball", "blue sky"], "path": ["a", "b"], "licence": ["x", "x"]})
    with pytest.raises(UserError, match="make 0 naive pairs"):
        naive_triplets(unlike, 1, 0, EVALUATE)


def test_images_without_a_caption_make_no_pair_and_stop_nothing():
    some = corpus(60)
    silent = set(some["image_id"].to_pylist()[::5])
    captions = [None if i in silent else c for i, c in zip(some["image_id"].to_pylist(), some["caption"].to_pylist(), strict=True)]
    images = some.set_column(1, "caption", pa.array(captions, pa.string()))
    rows = naive_triplets(images, 30, 0, EVALUATE)
    assert rows.num_rows == 30 and not silent & {*rows["query_id"].to_pylist(), *rows["target_id"].to_pylist()}
    assert rows["query_id"].to_pylist() == sorted(rows["query_id"].to_pylist())


def test_a_pair_that_is_not_accepted_is_replaced_by_another():
    some = corpus(120)
    closed = set(some["image_id"].to_pylist()[::3])

    def accept(triplets: pa.Table) -> pa.Table:
        return triplets.filter(pa.array([t not in closed for t in triplets["target_id"].to_pylist()]))

    rows = naive_triplets(some, 40, 0, EVALUATE, accept)
    assert rows.num_rows == 40 == len(set(rows["pair_id"].to_pylist())) and not closed & set(rows["target_id"].to_pylist())
