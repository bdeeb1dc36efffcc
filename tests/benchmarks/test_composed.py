"""A composed query is ranked over the whole gallery without its reference, beside its parts; what does not fit is refused."""

# ruff: noqa: F811

from __future__ import annotations

import numpy as np
import pytest

from mmret.benchmarks.composed import evaluate_composed
from mmret.errors import UserError
from mmret.ranking import recall_at
from mmret.retriever.models.clip import ClipRetriever
from tests.retriever.conftest import clip_folder, load, pictures  # noqa: F401


def brute_force(query, vectors, exclude, targets):
    allowed = [i for i in range(len(vectors)) if i not in exclude]
    return sorted(allowed, key=lambda i: (-float(vectors[i] @ query), i in targets, i))


def test_composed_evaluation_leaves_the_reference_out_and_reports_the_parts(clip_folder, pictures, load):
    retriever = ClipRetriever.load(clip_folder, device="cpu")
    ids = sorted(pictures)
    vectors = retriever.encode([pictures[i] for i in ids])
    queries = [(ids[i], "make it green", {ids[i + 1], ids[i + 2]}) for i in range(8)]
    found = evaluate_composed(retriever, ids, vectors, queries, load, ks=(1, 10, 23))
    assert set(found) == {f"{part}R@{k}" for part in ("", "image ", "text ", "kept ") for k in (1, 10, 23)}
    assert found["R@23"] == found["image R@23"] == 100.0  # 24 pictures less the reference, one of two targets anywhere
    composed = retriever.encode([pictures[q[0]] for q in queries], [q[1] for q in queries])
    orders = [(i, brute_force(v, vectors, {i}, {i + 1, i + 2})) for i, v in enumerate(composed)]
    ranks = np.array([1 + min(order.index(i + 1), order.index(i + 2)) for i, order in orders])
    assert recall_at(ranks, (1, 10)).items() <= found.items()
    kept = [(i, brute_force(v, vectors, set(), {i + 1, i + 2})) for i, v in enumerate(composed)]
    ranks = np.array([1 + min(order.index(i + 1), order.index(i + 2)) for i, order in kept])
    assert {f"kept {k}": v for k, v in recall_at(ranks, (1, 10)).items()}.items() <= found.items()
    own_target = [(ids[0], "no hat", {ids[0], ids[1]})]  # the reference among the targets counts for nothing
    assert evaluate_composed(retriever, ids, vectors, own_target, load, (23,))["R@23"] == 100.0


@pytest.mark.parametrize(
    "query, said",
    [
        (("nowhere", "x", {"0"}), "not in the gallery: nowhere"),
        (("0", "x", {"nowhere"}), "not in the gallery: nowhere"),
        (("0", "x", {"0"}), "no target besides its reference"),
    ],
)
def test_queries_that_do_not_fit_the_gallery_are_refused(clip_folder, query, said):
    with pytest.raises(UserError, match=said):
        evaluate_composed(ClipRetriever.load(clip_folder, "cpu"), ["0", "1"], np.eye(2, 16, dtype=np.float32), [query], dict)
