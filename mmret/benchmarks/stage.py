"""The stage ``evaluations``: how well a recipe's checkpoint retrieves from the whole corpus, compared with the untrained model.

There are two sets of composed queries, and neither needs a download. ``held-out triplets``: instructions of query images that no
recipe trains on, each with its one target. ``held-out edits``: on a ``shapes`` corpus, edits whose every right answer is known
(:mod:`mmret.benchmarks.edits`). Beside them every other direction that the corpus has an answer to, under its own name, from text
to image on (:mod:`mmret.benchmarks.directions`), and how robust the answers are (:mod:`mmret.benchmarks.probes`). Cost: the image
tower once over the corpus per checkpoint, whose vectors are stored in the lake; then well under a second per 1,000 queries, and the
text tower over the captions that are searched in. A reranker reads its depth of pairs a query.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.benchmarks.composed import ComposedVectors, composed_ranks
from mmret.benchmarks.directions import Corpus, Direction, candidates, directions, evaluate_direction
from mmret.benchmarks.edits import edits
from mmret.benchmarks.probes import Probe, probes
from mmret.benchmarks.triplets import Query
from mmret.hashing import fingerprint, uniform
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Facts, Lake
from mmret.ranking import recall_at
from mmret.retriever.models.kinds import query_options, task_options
from mmret.schemas import EVALUATIONS
from mmret.search.corpus_vectors import drop_other_galleries, gallery
from mmret.search.encoder import Encoder
from mmret.search.models import RERANKER, UNTRAINED, model_folder, pick_recipe, trained_recipes
from mmret.settings import EvaluateSettings, Profile

KS = (1, 5, 10, 50)


class Model:
    """A checkpoint that is measured: loaded, and the corpus embedded by it, when that is first asked for."""

    def __init__(self, lake: Lake, folder: Path | str):
        self.lake, self.folder = lake, folder
        self._texts: dict[tuple[str, ...], np.ndarray] = {}
        self._ranks: dict[tuple[Query, ...], dict[str, np.ndarray]] = {}

    @cached_property
    def retriever(self) -> Encoder:
        """The loaded checkpoint."""
        from mmret.retriever.models.load import Retriever  # imports torch and transformers, which takes seconds

        return Retriever.load(self.folder)

    @cached_property
    def gallery(self) -> tuple[list[str], np.ndarray]:
        """Ids and unit vectors (n, d) of every picture of the lake."""
        return gallery(self.lake, self.folder)

    @cached_property
    def place(self) -> dict[str, int]:
        """The row of each picture in :attr:`gallery`."""
        return {image_id: row for row, image_id in enumerate(self.gallery[0])}

    @cached_property
    def composed(self) -> ComposedVectors:
        """Vectors of composed queries, each embedded once for all that asks it."""
        return ComposedVectors(self.retriever, self._pictures, query_options(self.folder))

    def ranks(self, queries: Sequence[Query]) -> dict[str, np.ndarray]:
        """Ranks of composed queries and of their parts: :func:`composed_ranks`."""
        key = tuple(queries)
        if key not in self._ranks:
            asked = [(q.reference, q.text, q.targets) for q in queries]
            self._ranks[key] = composed_ranks(self.composed, *self.gallery, asked)
        return self._ranks[key]

    def evaluate(self, queries: Sequence[Query]) -> dict[str, float]:
        """Figures of composed queries: :func:`evaluate_queries`."""
        figures = {f"{part}{name}": v for part, rows in self.ranks(queries).items() for name, v in recall_at(rows, KS).items()}
        return figures | {"gallery": len(self.gallery[0])}

    def evaluate_direction(self, direction: Direction) -> dict[str, float]:
        """Figures of the queries of one direction."""
        ids, vectors = self.gallery
        query = task_options(self.folder, direction.task)
        if direction.searches_all:
            gallery = vectors
        elif direction.gallery_images:
            gallery = candidates(direction, self.retriever, self._pictures)
        else:
            key = tuple(direction.gallery_texts)  # two directions search the same captions
            gallery = self._texts[key] if key in self._texts else candidates(direction, self.retriever, self._pictures)
            self._texts[key] = gallery
        pictures = dict(zip(ids, vectors, strict=True)) if direction.images else {}
        return evaluate_direction(direction, self.retriever, pictures, gallery, self._pictures, query, KS)

    def _pictures(self, ids: Sequence[str]) -> dict[str, bytes]:
        return images_by_id(self.lake, ids)


def evaluate_queries(lake: Lake, profile: Profile, recipe: str, queries: Sequence[Query]) -> dict[str, float]:
    """Recall in percent of the checkpoint of ``recipe`` over the whole corpus, by metric, and ``gallery``, the corpus's size.

    The metrics are those of :func:`mmret.benchmarks.composed.evaluate_composed`.
    """
    return Model(lake, model_folder(lake, profile, recipe)).evaluate(queries)


def held_out_triplets(lake: Lake, settings: EvaluateSettings) -> list[Query]:
    """Queries from triplets of split ``test``, one text of each, chosen by hash; at most ``max_queries``, those of lowest hash."""
    columns = ["pair_id", "query_id", "target_id", "texts", "hard_negatives"]
    table = lake.read("triplets", columns=columns, filters=pc.field("split") == "test")
    rows = sorted(table.to_pylist(), key=lambda r: uniform("evaluate", r["pair_id"]))[: settings.max_queries]
    return [_triplet(row) for row in rows]


def _triplet(row: dict[str, Any]) -> Query:
    """The query of a row of ``triplets``: one of its texts drawn by hash, then the others in their order."""
    first = int(uniform("evaluate text", row["pair_id"]) * len(row["texts"]))
    texts = [*row["texts"][first:], *row["texts"][:first]]
    negatives = frozenset(row["hard_negatives"] or ()) - {row["query_id"], row["target_id"]}
    return Query(row["query_id"], texts[0], frozenset([row["target_id"]]), tuple(dict.fromkeys(texts)), negatives)


def held_out_edits(lake: Lake, settings: EvaluateSettings) -> list[Query]:
    """Edits with exact ground truth where the corpus is made of ``shapes`` scenes; none elsewhere."""
    rows = lake.read("images", columns=["image_id", "root", "extra"], filters=pc.starts_with(pc.field("root"), "shapes:"))
    extras = [(i, json.loads(e)) for i, e in zip(rows["image_id"].to_pylist(), rows["extra"].to_pylist(), strict=True)]
    return [
        Query(e["reference"], e["text"], frozenset(e["targets"]), tuple(e["wordings"]), frozenset(e["unchanged"]))
        for e in edits(extras, settings.edits)
    ]


QUERY_SETS = {"held-out triplets": held_out_triplets, "held-out edits": held_out_edits}


def evaluate_recipe(lake: Lake, profile: Profile, name: str, inputs: str) -> Facts:
    """Write partition ``name`` of ``evaluations``: every set of queries, by the recipe's checkpoint and by the untrained model.

    Figures of the same checkpoint, queries and pictures are copied where another recipe's partition has them, so the untrained
    model is measured once and not with every recipe. The note ``left_out`` says of each direction that is not measured why.

    >>> evaluate_recipe(lake, profile, "demo", fingerprint_now(lake, profile, "evaluations", "demo"))
    """
    if profile.recipes[name].kind == RERANKER:
        return evaluate_reranker(lake, profile, name, inputs)
    trained = [name] if lake.facts("checkpoints", name).rows else []
    models = {model: Model(lake, model_folder(lake, profile, model)) for model in (UNTRAINED, *trained)}
    rows: list[dict[str, Any]] = []
    sets = {benchmark: queries_of(lake, profile.evaluate) for benchmark, queries_of in QUERY_SETS.items()}
    for benchmark, queries in sets.items():
        for model, loaded in models.items() if queries else ():
            key = _evaluation_key(lake, loaded.folder, queries)
            rows += _recorded(lake, model, benchmark, key) or _rows(model, benchmark, len(queries), key, loaded.evaluate(queries))
    corpus = Corpus.of(lake.read("images", columns=["image_id", "caption", "root", "extra"]))
    asked, left_out = directions(corpus, sets["held-out triplets"], profile.evaluate)
    for direction in asked:
        benchmark, queries = direction.task.name, len(direction.right)
        for model, loaded in models.items():
            key = _evaluation_key(lake, loaded.folder, direction)
            rows += _recorded(lake, model, benchmark, key) or _rows(
                model, benchmark, queries, key, loaded.evaluate_direction(direction)
            )
    probed, not_probed = probes(corpus, sets, profile.evaluate.robustness)
    for probe in probed:
        for model, loaded in models.items():
            key = _evaluation_key(lake, loaded.folder, probe)
            rows += _recorded(lake, model, probe.name, key) or _rows(
                model, probe.name, len(probe.asked), key, probe.measure(loaded)
            )
    drop_other_galleries(lake, [model_folder(lake, profile, r) for r in (UNTRAINED, *trained_recipes(lake, profile))])
    return lake.write(
        "evaluations", name, pa.Table.from_pylist(rows, EVALUATIONS), inputs, left_out=left_out, robustness_left_out=not_probed
    )


def evaluate_reranker(lake: Lake, profile: Profile, name: str, inputs: str) -> Facts:
    """Write partition ``name`` of ``evaluations``: every set of queries by the first hits of the retriever that the recipe names,
    before (``first R@k``) and after the reranker has ordered them (``R@k``)."""
    from mmret.benchmarks.reranked import evaluate_reranked
    from mmret.retriever.models.kinds import reranker_digest

    rows: list[dict[str, Any]] = []
    if lake.facts("checkpoints", name).rows:
        retriever, depth = retriever_of(lake, profile, name), profile.evaluate.rerank_depth
        folder = model_folder(lake, profile, name)
        for benchmark, queries_of in QUERY_SETS.items():
            queries = queries_of(lake, profile.evaluate)
            if not queries:
                continue
            first = _evaluation_key(lake, model_folder(lake, profile, retriever), queries)
            key = fingerprint("reranked", first, reranker_digest(folder), depth)
            found = _recorded(lake, name, benchmark, key)
            if not found:
                figures = evaluate_reranked(lake, model_folder(lake, profile, retriever), folder, queries, depth, KS)
                found = _rows(name, benchmark, len(queries), key, figures)
            rows += found
    return lake.write("evaluations", name, pa.Table.from_pylist(rows, EVALUATIONS), inputs)


def retriever_of(lake: Lake, profile: Profile, name: str) -> str:
    """The retriever whose first hits reranker ``name`` is measured on: the one its recipe names, the lake's first, or the model
    before training. Raises UserError for one that has no checkpoint."""
    return pick_recipe(lake, profile, profile.recipes[name].retriever)


def _evaluation_key(lake: Lake, folder: Path | str, asked: Sequence[Query] | Direction | Probe) -> str:
    """A fingerprint of all that the figures of the checkpoint in ``folder`` depend on."""
    from mmret.retriever.models.kinds import embedding_digest

    queries = asked.key() if isinstance(asked, Direction | Probe) else [(q.reference, q.text, sorted(q.targets)) for q in asked]
    # a CLIP's figures keep the key that they had before tasks were put to models in words
    told = [task_options(folder, asked.task)] if isinstance(asked, Direction) and query_options(folder) else []
    images = [lake.facts("images", shard).of_columns(["image_id"]).digest for shard in lake.partitions("images")]
    return fingerprint("evaluation", embedding_digest(folder), queries, images, *told)


def _recorded(lake: Lake, recipe: str, benchmark: str, key: str) -> list[dict[str, Any]]:
    """Rows of the same evaluation from any partition, one a metric; empty where it was not done yet."""
    same = (pc.field("inputs") == key) & (pc.field("benchmark") == benchmark) & (pc.field("recipe") == recipe)
    rows = {row["metric"]: row for row in lake.read("evaluations", filters=same).to_pylist()}
    return list(rows.values())


def _rows(recipe: str, benchmark: str, queries: int, key: str, figures: dict[str, float]) -> list[dict[str, Any]]:
    """Rows of EVALUATIONS from what :func:`evaluate_queries` returns."""
    same = {"recipe": recipe, "benchmark": benchmark, "queries": queries, "gallery": int(figures["gallery"]), "inputs": key}
    return [{**same, "metric": metric, "value": value} for metric, value in figures.items() if metric != "gallery"]
