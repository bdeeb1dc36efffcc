"""Leaves hard negatives out that a teacher finds as good as the target: they are rather what the text asks for (arXiv 2601.04720).

Applied to the rows before training, so a run's identity has it. Cost: a hash a text and candidate, some 3 us.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.retriever.train.distillation import TeacherScores
from mmret.retriever.train.task_rows import ragged
from mmret.tasks import COMPOSED

_ROWS = 8192  # as Python objects at once


class Limited(NamedTuple):
    """``rows``, of whose ``mined`` negatives ``left_out`` are gone; ``unscored`` ones stayed, since the teacher says nothing of
    them or of their target."""

    rows: pa.Table
    mined: int
    left_out: int
    unscored: int

    def notes(self) -> list[str]:
        """What a reader of the run should know."""
        share = 100 * self.left_out / max(1, self.mined)
        found = [f"negative_margin left {self.left_out:,} of {self.mined:,} mined hard negatives out ({share:.1f} %)"]
        if self.unscored:
            found.append(f"the teacher has not scored {self.unscored:,} mined hard negatives or their targets: they stayed")
        return found


def within_margin(rows: pa.Table, scores: TeacherScores, margin: float) -> Limited:
    """``rows`` without the hard negatives whose score exceeds that of their target minus ``margin``, in the mean over the row's
    texts that the teacher scored for both.

    The query picture stays whatever its score, and so does a negative that was not scored. Rows of split ``test`` and of other
    tasks than ``composed`` stay as they are. ``rows``: columns ``query_id, target_id, texts, hard_negatives, split`` and perhaps
    ``task``.
    """
    ours = pc.equal(rows["split"], "train")
    if "task" in rows.column_names:
        ours = pc.and_(ours, pc.equal(rows["task"], COMPOSED))
    ours = pc.fill_null(ours, False).to_numpy()
    parts, mined, unscored = [], 0, 0
    for start in range(0, len(rows), _ROWS):
        block = rows.slice(start, _ROWS)
        kept, of_block, without = _kept(block, ours[start : start + len(block)], scores, margin)
        parts.append(kept)
        mined, unscored = mined + of_block, unscored + without
    kept = np.concatenate(parts) if parts else np.empty(0, bool)
    values, starts = ragged(rows["hard_negatives"])
    offsets = np.concatenate([[0], np.cumsum(kept)])[starts]
    kind = rows.schema.field("hard_negatives")
    column = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values.filter(pa.array(kept)))
    limited = rows.set_column(rows.column_names.index("hard_negatives"), kind, column.cast(kind.type))
    return Limited(limited, mined, int((~kept).sum()), unscored)


def _kept(block: pa.Table, ours: np.ndarray, scores: TeacherScores, margin: float) -> tuple[np.ndarray, int, int]:
    """Which hard negatives of ``block`` stay, all in one row; how many of them are mined, and how many of those not scored."""
    questions: list[tuple[str, str, str]] = []
    asked: list[tuple[int, int, int]] = []  # for each text and negative: its place, its question and that of the target
    place = mined = 0
    for row, is_ours in zip(block.select(["query_id", "target_id", "texts", "hard_negatives"]).to_pylist(), ours, strict=True):
        negatives = row["hard_negatives"] or []
        for text in (row["texts"] or []) if is_ours else []:
            target = len(questions)
            questions.append((row["query_id"], text, row["target_id"]))
            for n, negative in enumerate(negatives):
                if negative not in (row["query_id"], row["target_id"]):
                    asked.append((place + n, len(questions), target))
                    questions.append((row["query_id"], text, negative))
        if is_ours:
            mined += sum(negative not in (row["query_id"], row["target_id"]) for negative in negatives)
        place += len(negatives)
    kept = np.ones(place, bool)
    if not asked:
        return kept, mined, mined
    said = scores.of(*zip(*questions, strict=True)).astype(np.float64)
    negative, own, target = np.array(asked).T
    above = said[own] - said[target]
    known = ~np.isnan(above)
    count = np.bincount(negative[known], minlength=place)
    mean = np.bincount(negative[known], above[known], minlength=place) / np.maximum(count, 1)
    kept[(count > 0) & (mean > -margin)] = False
    return kept, mined, mined - int((count > 0).sum())
