"""Has a reranker score the training triplets, once: table ``teacher_scores``, which recipes with a ``teacher`` learn from.

Sixteen partitions a teacher, by the first digit of ``pair_id``, each written once whole: a run that is stopped loses one of them at
most, and rows that are there for the same weights are not scored again. Cost: the teacher's forward pass for every text of a
triplet with its target and each of its hard negatives, some twenty pairs a triplet; memory, the columns of one partition's rows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.errors import UserError
from mmret.hashing import hash64
from mmret.lake import Lake
from mmret.progress import advance
from mmret.retriever.models.kinds import is_reranker, reranker_digest
from mmret.retriever.models.pairs import Side
from mmret.retriever.train.distillation import TeacherScores, hashed
from mmret.retriever.train.state import Place
from mmret.retriever.train.tower import LoadImages
from mmret.schemas import TEACHER_SCORES

_TRIPLETS, _READ = 32, 1024  # whose pairs are scored, and looked up, together
_COLUMNS = ["pair_id", "query_id", "target_id", "texts", "hard_negatives"]
_KEY = ("pair_id", "query_id", "text", "candidate_id")
_DIGITS = "0123456789abcdef"

Taught = Callable[[int, int], None]
"""Called with how many triplets are scored, and of how many."""


def teach(lake: Lake, teacher: str, triplets: pa.Table, load_images: LoadImages, report: Taught | None = None) -> tuple[str, int]:
    """Score the triplets of split ``train`` with the checkpoint of recipe ``teacher`` where that is not done yet; returns the
    digest of its weights and how many scores are new.

    ``triplets``: columns ``pair_id, query_id, target_id, texts, hard_negatives, split``. Raises UserError where the teacher has no
    checkpoint or is no reranker, and for a picture that the lake does not hold.

    >>> teach(Lake("lakes/demo"), "reranker", lake.read("triplets"), lambda ids: images_by_id(lake, ids))
    """
    folder = teacher_folder(lake, teacher)
    model, scorer, made = reranker_digest(folder), None, 0
    rows = triplets.filter(pc.equal(triplets["split"], "train"))
    digits = pc.utf8_slice_codeunits(rows["pair_id"], 0, 1)
    done = 0
    for digit in _DIGITS:
        own = rows.filter(pc.equal(digits, digit)).select(_COLUMNS).combine_chunks()
        partition = f"{teacher}-{digit}"
        tables = [_known(lake, partition, model)]
        have = np.sort(hashed(tables[0], _KEY, _number))
        missing = _missing(own, have)
        if len(missing):
            if scorer is None:
                from mmret.retriever.models.reranker import Reranker

                scorer = Reranker.load(folder)
            for start in range(0, len(missing), _TRIPLETS):
                block = own.take(missing[start : start + _TRIPLETS]).to_pylist()
                new = _scored(scorer, block, have, load_images)
                made += len(new)
                tables.append(_table(teacher, model, new))
                (report or _report)(done + start + len(block), len(rows))
            lake.write("teacher_scores", partition, pa.concat_tables(tables), model)
        done += len(own)
    return model, made


def teacher_scores(lake: Lake, teacher: str, triplets: pa.Table, load_images: LoadImages) -> TeacherScores:
    """What :func:`teach` scored of ``triplets``, scoring what is missing first."""
    model, _ = teach(lake, teacher, triplets, load_images)
    columns = ["query_id", "text", "candidate_id", "score"]
    same = (pc.field("teacher") == teacher) & (pc.field("model") == model)
    return TeacherScores(model, (lake.read("teacher_scores", p, columns, same) for p in lake.partitions("teacher_scores")))


def teacher_folder(lake: Lake, teacher: str) -> Path:
    """Where the checkpoint of recipe ``teacher`` lies. Raises UserError where there is none, or it is no reranker."""
    folder = Place(lake.storage, f"checkpoints/{teacher}").folder
    if not folder.is_dir():
        raise UserError(
            f"the teacher '{teacher}' has no checkpoint in {lake.address}: train it first, "
            f"`mmret train --lake {lake.address} --recipe {teacher}`"
        )
    if not is_reranker(folder):
        raise UserError(f"the teacher '{teacher}' is no reranker: a recipe of kind 'reranker' makes one")
    return folder


Key = tuple[str, str, str, str]
"""pair_id, query_id, text, candidate_id."""


def _keys(row: dict[str, Any]) -> list[Key]:
    candidates = dict.fromkeys((row["target_id"], row["query_id"], *(row["hard_negatives"] or [])))
    return [(row["pair_id"], row["query_id"], text, candidate) for text in row["texts"] or [] for candidate in candidates]


def _number(*key: str) -> int:
    """64 bits that a score is known by: a set of tuples would take half a kilobyte a score."""
    return hash64("\x1f".join(key))


def _new(keys: list[Key], have: np.ndarray) -> np.ndarray:
    """Which of ``keys`` are not among ``have`` (n,) uint64, ascending: (len(keys),) bool."""
    wanted = np.array([_number(*key) for key in keys], np.uint64)
    if not len(have):
        return np.ones(len(wanted), bool)
    return have[np.minimum(np.searchsorted(have, wanted), len(have) - 1)] != wanted


def _missing(triplets: pa.Table, have: np.ndarray) -> np.ndarray:
    """Positions of the rows that lack a score."""
    found: list[int] = []
    for start in range(0, len(triplets), _READ):
        rows = [_keys(row) for row in triplets.slice(start, _READ).to_pylist()]
        new = _new([key for keys in rows for key in keys], have)
        ends = np.cumsum([len(keys) for keys in rows])
        found += [start + n for n, part in enumerate(np.split(new, ends[:-1])) if part.any()]
    return np.array(found, np.int64)


def _scored(scorer: Any, block: list[dict[str, Any]], have: np.ndarray, load_images: LoadImages) -> dict[Key, float]:
    asked = [key for row in block for key in _keys(row)]
    keys = [key for key, new in zip(asked, _new(asked, have), strict=True) if new]
    files = load_images(sorted({i for _, query, _, candidate in keys for i in (query, candidate)}))
    if gone := [i for _, query, _, candidate in keys for i in (query, candidate) if i not in files]:
        raise UserError(f"the picture {gone[0]} of a triplet is not in the lake; run `mmret run` so that both agree again")
    queries = {(query, text): Side(files[query], text) for _, query, text, _ in keys}
    scores = scorer.score([queries[q, text] for _, q, text, _ in keys], [Side(files[candidate]) for *_, candidate in keys])
    return dict(zip(keys, scores.tolist(), strict=True))


def _known(lake: Lake, partition: str, model: str) -> pa.Table:
    partitions = [partition] if lake.facts("teacher_scores", partition) else []
    return lake.read("teacher_scores", partitions, filters=pc.field("model") == model)


def _table(teacher: str, model: str, scores: dict[Key, float]) -> pa.Table:
    pairs, queries, texts, candidates = (list(column) for column in zip(*scores, strict=True))
    count = len(scores)
    columns = [[teacher] * count, pairs, queries, texts, candidates, list(scores.values()), [model] * count]
    return pa.table(dict(zip(TEACHER_SCORES.names, columns, strict=True)), TEACHER_SCORES)


def _report(done: int, total: int) -> None:
    advance("checkpoints", 0, None, f"the teacher has scored {done:,} of {total:,} triplets")
