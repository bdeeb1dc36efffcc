"""Learning from a teacher: a retriever's cosines of a row's own candidates are drawn towards the teacher's scores of them.

The candidates are the row's target and its own hard negatives, which the teacher has scored beforehand (:mod:`.teach`). Scores are
looked up by a 64-bit hash of question and candidate, 12 bytes a score in memory. Cost in a step: a hash a pair, and a product that
the loss takes anyway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch.nn.functional import log_softmax, softmax

from mmret.hashing import hash64
from mmret.retriever.train.data import Batch
from mmret.retriever.train.loss import MASKED_LOGIT

_ROWS = 16_384  # as Python objects at once


def score_key(query_id: str, text: str, candidate_id: str) -> int:
    """What a teacher's score is looked up by."""
    return hash64(f"{query_id}\x1f{candidate_id}\x1f{text}")


def hashed(table: pa.Table, columns: Sequence[str], key: Callable[..., int]) -> np.ndarray:
    """``key`` of each row's values of ``columns``: (n,) uint64."""
    found = np.empty(len(table), np.uint64)
    for start in range(0, len(table), _ROWS):
        rows = table.slice(start, _ROWS)
        found[start : start + len(rows)] = [key(*row) for row in zip(*(rows[c].to_pylist() for c in columns), strict=True)]
    return found


@dataclass(frozen=True)
class Lesson:
    """What a teacher says of a batch: ``places`` (b, c) int64, positions among the batch's candidates, the target first, -1 where a
    row has fewer; ``scores`` (b, c) float32."""

    places: torch.Tensor
    scores: torch.Tensor


class TeacherScores:
    """Scores of a teacher of version ``model``. ``tables``: columns ``query_id, text, candidate_id,
    score``, one table in memory at a time."""

    def __init__(self, model: str, tables: Iterable[pa.Table]):
        self.model = model
        keys, scores = [np.empty(0, np.uint64)], [np.empty(0, np.float32)]
        for table in tables:
            keys.append(hashed(table, ("query_id", "text", "candidate_id"), score_key))
            scores.append(table["score"].to_numpy().astype(np.float32))
        every = np.concatenate(keys)
        order = np.argsort(every, kind="stable")
        self.keys, self.scores = every[order], np.concatenate(scores)[order]

    def digest(self) -> str:
        """16 hex digits of all scores, whatever order they came in."""
        return hashlib.sha256(self.keys.tobytes() + self.scores.tobytes()).hexdigest()[:16]

    def of(self, query_ids: Sequence[str], texts: Sequence[str], candidate_ids: Sequence[str]) -> np.ndarray:
        """The score of each question (n,) float32, not-a-number where the teacher has none."""
        asked = zip(query_ids, texts, candidate_ids, strict=True)
        wanted = np.array([score_key(*question) for question in asked], np.uint64)
        if not len(self.keys):
            return np.full(len(wanted), np.nan, np.float32)
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[at] == wanted, self.scores[at], np.float32("nan"))

    def lesson(self, batch: Batch, images: pa.Array) -> Lesson:
        """The scores of each row's target and own hard negatives, those of its triplet; ``images``: the ids that the batch's
        numbers stand for. A candidate that the teacher has not seen is left out."""
        count = len(batch.queries)
        rows, own = batch.own_candidates()
        keys = self._keys(batch, rows, own, images)
        wanted = np.array([key or 0 for key in keys], np.uint64)
        at = np.minimum(np.searchsorted(self.keys, wanted), max(0, len(self.keys) - 1))
        asked = np.array([key is not None for key in keys], bool)
        known = asked & (self.keys[at] == wanted) if len(self.keys) else np.zeros(len(wanted), bool)
        pairs = np.flatnonzero(known)
        pairs = pairs[np.argsort(rows[pairs], kind="stable")]  # of each row the target comes first
        sizes = np.bincount(rows[pairs], minlength=count)
        column = np.arange(len(pairs)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        places = np.full((count, max(1, int(sizes.max(initial=0)))), -1, np.int64)
        scores = np.zeros(places.shape, np.float32)
        places[rows[pairs], column] = own[pairs]
        scores[rows[pairs], column] = self.scores[at[pairs]]
        return Lesson(torch.from_numpy(places), torch.from_numpy(scores))

    @staticmethod
    def _keys(batch: Batch, rows: np.ndarray, places: np.ndarray, images: pa.Array) -> list[int | None]:
        """A key for each of the candidates at ``places``, which belong to ``rows``; None where a pair is of another task than
        composed."""
        candidates = batch.candidates[places]
        ids = {int(n): images[int(n)].as_py() for n in np.unique([*batch.queries, *candidates]) if n >= 0}
        texts = [batch.candidate_texts[at] if batch.candidate_texts else None for at in places]
        keys: list[int | None] = []
        for row, candidate, said in zip(rows.tolist(), candidates.tolist(), texts, strict=True):
            query, text = int(batch.queries[row]), batch.texts[row]
            composed = query >= 0 and candidate >= 0 and text is not None and said is None
            keys.append(score_key(ids[query], text, ids[candidate]) if composed else None)
        return keys


def distillation_loss(
    queries: torch.Tensor, candidates: torch.Tensor, lesson: Lesson, temperature: float, teacher_temperature: float
) -> torch.Tensor:
    """Mean over rows of KL(teacher || student), a scalar.

    ``queries`` (b, d) and ``candidates`` (m, d) are unit vectors. The teacher's distribution over a row's own candidates is the
    softmax of its scores over ``teacher_temperature``, the student's that of cosines over ``temperature``. A row of fewer than two
    known candidates contributes zero.
    """
    places, scores = lesson.places.to(queries.device), lesson.scores.to(queries.device)
    missing = places < 0
    own = candidates.index_select(0, places.clamp(min=0).flatten()).view(*places.shape, -1)
    cosines = (queries[:, None] * own).sum(dim=-1)
    cosines = cosines.float() if cosines.dtype.itemsize < 4 else cosines
    student = log_softmax((cosines / temperature).masked_fill(missing, MASKED_LOGIT), dim=1)
    taught = (scores.to(student.dtype) / teacher_temperature).masked_fill(missing, MASKED_LOGIT)
    teacher, logs = softmax(taught, dim=1), log_softmax(taught, dim=1)
    divergence = (teacher * (logs - student)).masked_fill(missing, 0).sum(dim=1)
    return divergence.masked_fill((~missing).sum(dim=1) < 2, 0).mean()
