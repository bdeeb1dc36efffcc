"""Invariants: a reranker's negatives are the query picture and the retriever's first hits for one of the row's texts, no target of
the same picture among them; other rows stay as they are; the triplets are never all Python objects at once."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mmret.hashing import hash64, pair_id, uniform
from mmret.retriever.train import first_hits
from mmret.retriever.train.first_hits import with_first_hits
from mmret.schemas import TRIPLETS


class Hashed:
    """A retriever whose vectors are drawn by picture and text."""

    dim = 8

    def encode(self, images: list[bytes], texts: list[str] | None = None) -> np.ndarray:
        said = texts or [""] * len(images)
        rows = [np.random.default_rng(hash64(i.decode() + t)).normal(size=8) for i, t in zip(images, said, strict=True)]
        vectors = np.array(rows, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def retriever(monkeypatch) -> Hashed:
    made = Hashed()
    monkeypatch.setattr(first_hits.Retriever, "load", staticmethod(lambda folder: made))
    monkeypatch.setattr(first_hits, "query_options", lambda folder: {})
    return made


def load(ids: list[str]) -> dict[str, bytes]:
    return {i: i.encode() for i in ids}


def a_table(count: int, pictures: int, negatives: int) -> pa.Table:
    """Rows of which some are of split test, and some have no text, or neither text nor negatives."""
    rng, rows = np.random.default_rng(4), {}
    while len(rows) < count:
        query, target, *rest = (f"{n:032x}" for n in rng.choice(pictures, 2 + negatives, replace=False))
        row: dict[str, Any] = {"query_id": query, "target_id": target, "texts": ["a", "b"], "hard_negatives": [query, *rest]}
        row["split"] = "test" if len(rows) % 10 == 9 else "train"
        if len(rows) % 10 in (3, 7):
            row |= {"texts": [] if len(rows) % 10 == 3 else None, "hard_negatives": None}
        rows[pair_id(query, target)] = row
    empty = dict.fromkeys(TRIPLETS.names)
    return pa.Table.from_pylist([{**empty, **row, "pair_id": i} for i, row in rows.items()], TRIPLETS)


@pytest.mark.parametrize("chunks", [1, 3])
def test_negatives_are_the_first_hits_that_are_no_target_of_the_query(retriever, monkeypatch, chunks):
    monkeypatch.setattr(first_hits, "_REPLACED", 17)
    table, count = a_table(50, 12, 3), 9
    table = pa.concat_tables(table.slice(n, 1 + 49 // chunks) for n in range(0, 50, 1 + 49 // chunks))
    made, rows = with_first_hits(table, "folder", count, load), table.to_pylist()
    assert made.schema == table.schema and made.drop(["hard_negatives"]) == table.drop(["hard_negatives"])
    asked = [row for row in rows if row["split"] == "train" and row["texts"]]
    gallery = sorted({i for row in asked for i in (row["query_id"], row["target_id"], *row["hard_negatives"])})
    vectors, short = retriever.encode([i.encode() for i in gallery]), 0
    for row, negatives in zip(rows, made["hard_negatives"].to_pylist(), strict=True):
        if row["split"] != "train" or not row["texts"]:
            assert negatives == row["hard_negatives"]
            continue
        text = row["texts"][int(uniform("first hits", row["pair_id"]) * 2)]
        scores = vectors @ retriever.encode([row["query_id"].encode()], [text])[0]
        right = {row["query_id"]} | {other["target_id"] for other in asked if other["query_id"] == row["query_id"]}
        best = [gallery[n] for n in np.argsort(-scores, kind="stable") if gallery[n] not in right][:count]
        assert negatives == [row["query_id"], *best]
        short += len(best) < count
    assert short  # a gallery that is too small gives fewer


def test_a_table_without_a_row_to_ask_stays_as_it_is(retriever):
    table = a_table(10, 12, 3).slice(9)
    assert with_first_hits(table, "folder", 5, load) == table


def test_negatives_of_many_triplets_are_never_all_python_objects(retriever):
    table = a_table(4_000, 100, 40)
    tracemalloc.start()
    try:
        made = with_first_hits(table, "folder", 5, load)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(made) == 4_000 and peak < 1_000 * 4_000
