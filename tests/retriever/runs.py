"""Recipes of both kinds small enough for a test, and the base folder each starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.kinds import EMBEDDERS, TRAINERS
from mmret.retriever.train.neighbours import Neighbours
from mmret.retriever.train.state import States
from mmret.retriever.train.trainer import Trainer
from mmret.settings import Recipe

KINDS = ("clip", "mllm")
SMALL = {
    "steps": 6,
    "batch_size": 6,
    "mined_negatives": 2,
    "learning_rate": 1e-3,
    "temperature": 0.1,
    "checkpoint_every": 2,
    "log_every": 2,
    "keep_activations": "never",  # else GradCache's second pass would not be tested; test_kept_graphs has the others
}
OF_KIND = {
    "clip": {},
    "reranker": {"kind": "reranker", "temperature": 0.02, "reranker": {"grid": 2, "heads": 2, "in_batch": 2}},
    "mllm": {"kind": "mllm", "instruction": "find a picture", "lora": {"rank": 4, "alpha": 8}},
}


def small(kind: str, **changes: Any) -> Recipe:
    return Recipe.model_validate({**SMALL, **OF_KIND[kind], **changes})


def a_trainer(recipe: Recipe, base: Path, triplets: pa.Table, load: Any, work: Path, double: bool = True) -> Trainer:
    """A trainer at step 0; in float64 gradients can be compared."""
    embedder = EMBEDDERS[recipe.kind].load(recipe, base, group=_alone())
    if double:
        embedder.model.double()
    data = TrainingSet(triplets, recipe, ring(triplets))
    trainer = TRAINERS.get(recipe.kind, Trainer)(recipe, data, embedder, States(work, "x"))
    embedder.open(data, load, work)
    return trainer


def ring(triplets: pa.Table) -> Neighbours:
    """Each query picture is a neighbour of the next two."""
    ids = sorted(set(triplets["query_id"].to_pylist()))
    pairs = [(i, ids[(n + step) % len(ids)]) for n, i in enumerate(ids) for step in (1, 2)]
    found = pa.table({"query_id": [q for q, _ in pairs], "target_id": [t for _, t in pairs]})
    return Neighbours.of(triplets["query_id"].combine_chunks(), [(found, found.slice(0, 0))])


def _alone() -> Any:
    from mmret.retriever.train.parallel import SINGLE_PROCESS

    return SINGLE_PROCESS
