"""Retrieval as it runs on a lake: which checkpoint, which gallery (the whole corpus), which held-out queries.

Two rulers need no download. ``held-out triplets``: instructions of query images that no recipe trains on, with their one target.
``held-out edits``: on a ``shapes`` corpus, edits whose every right answer is known (:mod:`mmret.benchmarks.edits`).
Cost: the image tower once over the corpus per checkpoint, kept in the lake; then well under a second per 1,000 queries.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.benchmarks.edits import edits
from mmret.benchmarks.triplets import Names, Query
from mmret.errors import UserError
from mmret.hashing import fingerprint, uniform
from mmret.ingest.images import images_by_id
from mmret.lake import Facts, Lake
from mmret.lake.configuration import resolve
from mmret.retriever.train.stage import UNTRAINED, base_folder
from mmret.schemas import EVALUATIONS
from mmret.search.rank import evaluate_composed, forget_galleries, gallery, rank
from mmret.settings import EvaluateSettings, Recipe

KS = (1, 5, 10, 50)


def trained_recipes(lake: Lake) -> list[str]:
    """Recipes of the lake that have a checkpoint, those that `mmret run` trains first."""
    have = [name for name in lake.partitions("checkpoints") if lake.facts("checkpoints", name).rows]
    first = resolve(lake)[0].train
    return sorted(have, key=lambda name: (first.index(name) if name in first else len(first), name))


def pick_recipe(lake: Lake, recipe: str | None) -> str:
    """``recipe`` if it can be used, the lake's first where none is named. Raises UserError listing those there are."""
    have = trained_recipes(lake)
    if recipe is None:
        return have[0] if have else UNTRAINED
    if recipe != UNTRAINED and recipe not in have:
        raise UserError(f"no checkpoint of recipe '{recipe}' in {lake.root}; there are {', '.join([*have, UNTRAINED])}")
    return recipe


def checkpoint_folder(lake: Lake, recipe: str) -> Path | str:
    """Folder of a recipe's checkpoint; ``untrained`` is the model that the lake's first recipe starts from."""
    if recipe != UNTRAINED:
        return lake.root / lake.read("checkpoints", recipe)["folder"][0].as_py()
    settings = resolve(lake)[0]
    first = next(iter(settings.train or settings.recipes))
    folder = base_folder(lake, settings.recipes[first].base)
    if isinstance(folder, Path) and not folder.is_dir():
        raise UserError(f"{lake.root} has no towers yet: run `mmret run --lake {lake.root}` first")
    return folder


def evaluate_queries(lake: Lake, recipe: str, queries: Sequence[Query]) -> dict[str, float]:
    """Recall in percent of a checkpoint over the whole corpus (``R@k`` and its
    parts, see :func:`evaluate_composed`), and ``gallery``, its size."""
    from mmret.retriever.models.load import Retriever, query_options

    folder = checkpoint_folder(lake, recipe)
    ids, vectors = gallery(lake, folder)
    found = evaluate_composed(
        Retriever.load(folder),
        ids,
        vectors,
        [(q.reference, q.text, q.targets) for q in queries],
        lambda wanted: images_by_id(lake, wanted),
        KS,
        **query_options(folder),
    )
    return found | {"gallery": len(ids)}


def held_out_triplets(lake: Lake, settings: EvaluateSettings) -> list[Query]:
    """Queries of split ``test``: a text of each triplet, drawn by hash; at most ``max_queries``, those of lowest hash."""
    table = lake.read("triplets", columns=["pair_id", "query_id", "target_id", "texts"], filters=pc.field("split") == "test")
    rows = sorted(table.to_pylist(), key=lambda r: uniform("evaluate", r["pair_id"]))[: settings.max_queries]
    return [
        Query(r["query_id"], r["texts"][int(uniform("evaluate text", r["pair_id"]) * len(r["texts"]))], frozenset([r["target_id"]]))
        for r in rows
    ]


def held_out_edits(lake: Lake, settings: EvaluateSettings) -> list[Query]:
    """Edits with exact ground truth where the corpus is made of ``shapes`` scenes; none elsewhere."""
    rows = lake.read("images", columns=["image_id", "root", "extra"], filters=pc.starts_with(pc.field("root"), "shapes:"))
    extras = [(i, json.loads(e)) for i, e in zip(rows["image_id"].to_pylist(), rows["extra"].to_pylist(), strict=True)]
    return [Query(e["reference"], e["text"], frozenset(e["targets"])) for e in edits(extras, settings.edits)]


BENCHMARKS = {"held-out triplets": held_out_triplets, "held-out edits": held_out_edits}


def evaluate_recipe(lake: Lake, name: str, recipe: Recipe, settings: EvaluateSettings, inputs: str) -> Facts:
    """Write ``evaluations`` of a recipe: every benchmark, its checkpoint and the untrained model over the same gallery.

    What some recipe's partition holds already, of the same checkpoint, queries and pictures, is taken from there: the
    untrained model is measured once and not with every recipe.
    """
    rows: list[dict[str, Any]] = []
    trained = [name] if lake.facts("checkpoints", name).rows else []
    for benchmark, queries_of in BENCHMARKS.items():
        queries = queries_of(lake, settings)
        if not queries:
            continue
        for model in (UNTRAINED, *trained):
            measured = _measured_of(lake, model, queries)
            rows += _known(lake, model, benchmark, measured) or _measure(lake, model, benchmark, queries, measured)
    forget_galleries(lake, [checkpoint_folder(lake, r) for r in (UNTRAINED, *trained_recipes(lake))])
    return lake.write("evaluations", name, pa.Table.from_pylist(rows, EVALUATIONS), inputs)


def _measured_of(lake: Lake, recipe: str, queries: Sequence[Query]) -> str:
    """Digest of all that the figures of a checkpoint depend on."""
    from mmret.retriever.models.load import embedding_digest

    asked = [(q.reference, q.text, sorted(q.targets)) for q in queries]
    images = [lake.facts("images", shard).digest for shard in lake.partitions("images")]
    return fingerprint("evaluation", embedding_digest(checkpoint_folder(lake, recipe)), asked, images)


def _known(lake: Lake, recipe: str, benchmark: str, measured: str) -> list[dict[str, Any]]:
    wanted = (pc.field("inputs") == measured) & (pc.field("benchmark") == benchmark) & (pc.field("recipe") == recipe)
    rows = {row["metric"]: row for row in lake.read("evaluations", filters=wanted).to_pylist()}
    return list(rows.values())


def _measure(lake: Lake, recipe: str, benchmark: str, queries: Sequence[Query], measured: str) -> list[dict[str, Any]]:
    found = evaluate_queries(lake, recipe, queries)
    size = int(found.pop("gallery"))
    return [
        {
            "recipe": recipe,
            "benchmark": benchmark,
            "metric": metric,
            "value": value,
            "queries": len(queries),
            "gallery": size,
            "inputs": measured,
        }
        for metric, value in found.items()
    ]


def search_corpus(lake: Lake, recipe: str, image: Path | None, text: str | None, k: int) -> list[dict[str, Any]]:
    """The ``k`` images nearest to an image, a text, or an image changed as the text says, best first.

    ``image``: a file, or a path of the corpus manifest. A query image that is in the corpus is not among its own results.
    """
    from mmret.hashing import content_id
    from mmret.retriever.models.load import Retriever, query_options

    folder = checkpoint_folder(lake, recipe)
    data = None
    if image is not None:
        data = image.read_bytes() if image.is_file() else _of_corpus(lake, image)
    ids, vectors = gallery(lake, folder)
    # an image alone is compared as a candidate is
    options = query_options(folder, composed=data is not None) if text else {}
    query = Retriever.load(folder).encode(None if data is None else [data], None if not text else [text], **options)
    own = {ids.index(i) for i in ([content_id(data)] if data else []) if i in ids}
    best = [p for p in rank(query, vectors, k, [own])[0] if p >= 0]
    scores = vectors[best] @ query[0].astype(np.float32)
    shown = lake.read(
        "images",
        columns=["image_id", "path", "root", "caption", "licence"],
        filters=pc.field("image_id").isin([ids[p] for p in best]),
    ).to_pylist()
    by_id = {row["image_id"]: row for row in shown}
    return [{"score": round(float(s), 4), **by_id[ids[p]]} for p, s in zip(best, scores, strict=True)]


def _of_corpus(lake: Lake, image: Path) -> bytes:
    image_id = Names(lake).resolve(str(image), "--image")
    if image_id is None:
        raise UserError(f'--image {image}: rejected at ingest, see `mmret sql "SELECT * FROM rejects"`; give the file itself')
    return images_by_id(lake, [image_id])[image_id]
