"""Composed retrieval over a whole corpus: rank a gallery for queries of image and text, and count what comes first.

The gallery's vectors are computed once per checkpoint and shard and kept in the lake, for search and evaluation,
trained and untrained models alike. Ranking is exact, in blocks of queries; a target that ties with other images ranks
behind them, and vectors that are not numbers are refused, so that a collapsed or broken model never looks good. Cost:
the image tower once per picture and checkpoint; then one (block, gallery) product per block of queries.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmret.atomic import replacing
from mmret.errors import UserError
from mmret.ingest.images import read_images
from mmret.lake import Lake
from mmret.progress import advance

if TYPE_CHECKING:
    from mmret.benchmarks.common.pictures import Encoder

BLOCK_BYTES = 256 * 2**20
"""Scores held at once."""


def rank(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    exclude: Sequence[Collection[int]] | None = None,
    behind: Sequence[Collection[int]] | None = None,
) -> np.ndarray:
    """Positions in ``gallery`` (n, d) of the ``k`` highest scores for each of ``queries`` (q, d): (q, k) int64, best
    first.

    ``exclude[i]`` are positions that query i must not find; where fewer than ``k`` are left the row ends in -1. Equal
    scores are in the gallery's order, except that those of ``behind[i]``, the targets of an evaluation, come after
    all others. Raises UserError for vectors that are not finite.
    """
    found = np.full((len(queries), k), -1, dtype=np.int64)
    for first, scores in _score_blocks(queries, gallery, exclude):
        for row, score in enumerate(scores):
            allowed = np.flatnonzero(score > -np.inf)
            if len(allowed) > k:
                worst = np.partition(score[allowed], -k)[-k]
                allowed = allowed[score[allowed] >= worst]  # with all that tie with the last
            last = np.isin(allowed, list(behind[first + row])) if behind is not None else np.zeros(len(allowed), bool)
            best = allowed[np.lexsort((allowed, last, -score[allowed]))][:k]
            found[first + row, : len(best)] = best
    return found


def target_ranks(
    queries: np.ndarray, gallery: np.ndarray, targets: Sequence[Collection[int]], exclude: Sequence[Collection[int]] | None = None
) -> np.ndarray:
    """Rank (q,) int64, from 1, of the best target of each query: 1 and how many that are no target score as high or
    higher."""
    ranks = np.empty(len(queries), dtype=np.int64)
    for first, scores in _score_blocks(queries, gallery, exclude):
        for row, score in enumerate(scores):
            own = list(targets[first + row])
            best = score[own].max()
            ranks[first + row] = 1 + np.count_nonzero(score >= best) - np.count_nonzero(score[own] >= best)
    return ranks


def recall_at(ranks: np.ndarray, ks: Iterable[int]) -> dict[str, float]:
    """``{"R@k": percent of queries whose best target is among the first k}`` of ranks from 1; 0 where there are no
    queries."""
    return {f"R@{k}": 100.0 * float(np.mean(ranks <= k)) if len(ranks) else 0.0 for k in ks}


def evaluate_composed(
    retriever: Encoder,
    gallery_ids: Sequence[str],
    gallery_vectors: np.ndarray,
    queries: Sequence[tuple[str, str, Collection[str]]],
    load_images: Callable[[Sequence[str]], Mapping[str, bytes]],
    ks: Sequence[int] = (1, 5, 10, 50),
    **query: str,
) -> dict[str, float]:
    """Recall in percent over the whole gallery without the reference, for queries ``(reference_id, text, target_ids)``.

    ``R@k`` is of the composed query; ``image R@k`` and ``text R@k`` of its parts alone, what a retriever has to beat;
    ``kept R@k`` of the composed query with the reference left in the gallery, where answering it with itself is wrong.
    ``query``: keywords of ``encode`` that make a query (:func:`mmret.retriever.models.load.query_options`).
    Raises UserError where a reference or target is not in the gallery.
    """
    position = {image_id: i for i, image_id in enumerate(gallery_ids)}
    for reference, text, targets in queries:
        if unknown := [i for i in (reference, *targets) if i not in position]:
            raise UserError(f"the query '{text[:80]}' names an image that is not in the gallery: {unknown[0]}")
        if not set(targets) - {reference}:
            raise UserError(f"the query '{text[:80]}' has no target besides its reference {reference}")
    references = [position[reference] for reference, _, _ in queries]
    texts = [text for _, text, _ in queries]
    targets = [[position[t] for t in targets if t != reference] for reference, _, targets in queries]
    vectors = {
        "": _composed(retriever, queries, load_images, query),
        "image ": gallery_vectors[references],
        "text ": retriever.encode(texts=texts, **query),
    }
    exclude = [{r} for r in references]
    ranks = {part: target_ranks(rows, gallery_vectors, targets, exclude) for part, rows in vectors.items()}
    ranks["kept "] = target_ranks(vectors[""], gallery_vectors, targets)
    return {f"{part}{name}": value for part, rows in ranks.items() for name, value in recall_at(rows, ks).items()}


def _composed(
    retriever: Encoder,
    queries: Sequence[tuple[str, str, Collection[str]]],
    load_images: Callable[[Sequence[str]], Mapping[str, bytes]],
    options: Mapping[str, str],
    block: int = 256,
) -> np.ndarray:
    parts = [np.empty((0, retriever.dim), np.float32)]
    for start in range(0, len(queries), block):
        part = queries[start : start + block]
        files = load_images([reference for reference, _, _ in part])
        parts.append(retriever.encode([files[reference] for reference, _, _ in part], [text for _, text, _ in part], **options))
    return np.concatenate(parts)


def _score_blocks(
    queries: np.ndarray, gallery: np.ndarray, exclude: Sequence[Collection[int]] | None
) -> Iterator[tuple[int, np.ndarray]]:
    """First query and scores (b, n) float32 of each block, the excluded at -inf."""
    for name, vectors in (("queries", queries), ("gallery", gallery)):
        if not np.isfinite(vectors).all():
            broken = int((~np.isfinite(vectors)).any(axis=1).sum())
            raise UserError(
                f"{broken} vectors of the {name} are not finite: the model is broken (a training run that "
                "diverged?); train it again with a lower learning rate"
            )
    block = max(1, BLOCK_BYTES // (4 * max(1, len(gallery))))
    for first in range(0, len(queries), block):
        scores = queries[first : first + block] @ gallery.T
        if exclude is not None:
            for row, positions in enumerate(exclude[first : first + block]):
                scores[row, list(positions)] = -np.inf
        yield first, scores


def gallery(lake: Lake, folder: str | Path, batch_size: int = 256) -> tuple[list[str], np.ndarray]:
    """Ids and unit vectors (n, dim) float32 of every image of the lake, embedded by the checkpoint in ``folder``.

    Kept at ``<lake>/gallery/<digest of the checkpoint>/<shard>.parquet``; only what is missing is computed, a shard
    at a time.
    """
    from mmret.retriever.models.load import Retriever, embedding_digest

    kept = lake.root / "gallery" / embedding_digest(folder)
    shards = lake.partitions("images")
    wanted = {shard: lake.read("images", shard, ["image_id"])["image_id"].to_pylist() for shard in shards}
    total = sum(map(len, wanted.values()))
    retriever: Encoder | None = None
    ids: list[str] = []
    parts: list[np.ndarray] = []
    for shard, shard_ids in wanted.items():
        if not shard_ids:  # a shard of rejects, or imported triplets of pictures that others brought
            continue
        path = kept / f"{shard}.parquet"
        rows = pq.read_table(path) if path.is_file() else None
        if rows is None or rows["image_id"].to_pylist() != shard_ids:
            retriever = retriever or Retriever.load(folder)
            rows = _embed_shard(lake, shard, shard_ids, retriever, batch_size, (len(ids), total))
            with replacing(path) as aside:
                pq.write_table(rows, aside)
        ids += shard_ids
        parts.append(rows["vector"].combine_chunks().flatten().to_numpy().reshape(len(shard_ids), -1))
    if not ids:
        raise UserError(f"{lake.root} holds no images yet: run `mmret run --lake {lake.root}` first")
    return ids, np.concatenate(parts)


def _embed_shard(
    lake: Lake, shard: str, ids: list[str], retriever: Encoder, batch_size: int, progress: tuple[int, int]
) -> pa.Table:
    """Rows ``image_id, vector`` in the order of ``ids``; ``progress``: images done before this shard, images in all."""
    done, total = progress
    vectors = np.full((len(ids), retriever.dim), np.nan, dtype=np.float32)
    place = {image_id: i for i, image_id in enumerate(ids)}
    for batch in read_images(lake, shard, batch_size, ids=place):
        found = batch.column("image_id").to_pylist()
        vectors[[place[i] for i in found]] = retriever.encode(batch.column("data").to_pylist(), batch_size=batch_size)
        done += len(found)
        advance("gallery", done, total)
    if np.isnan(vectors).any():
        missing = int(np.isnan(vectors).any(axis=1).sum())
        raise UserError(
            f"{missing} images of {shard} have no vector: they are missing from the lake, or the "
            "checkpoint is broken; run `mmret run` again"
        )
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), retriever.dim)
    return pa.table({"image_id": pa.array(ids, pa.string()), "vector": flat})


def forget_galleries(lake: Lake, folders: Iterable[str | Path]) -> int:
    """Delete the vectors of every checkpoint but those in ``folders``; returns of how many."""
    from mmret.retriever.models.load import embedding_digest

    keep = {embedding_digest(folder) for folder in folders}
    stale = [p for p in (lake.root / "gallery").glob("*") if p.is_dir() and p.name not in keep]
    for path in stale:
        shutil.rmtree(path)
    return len(stale)
