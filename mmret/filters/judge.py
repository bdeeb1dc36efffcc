"""Asks a vision-language model whether texts lead to their target, and whether hard negatives would be right: filter ``judge``.

The questions are those of :mod:`mmret.annotate.candidate_judge`, so an answer that a teacher or an earlier check has paid for is
not paid for again. Cost: a request a text, and one a hard negative with the first text of its triplet: 8 for a triplet of 3 texts
and 5 negatives.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mmret.annotate.candidate_judge import CandidateJudge, judge_version
from mmret.annotate.protocol import Annotator
from mmret.filters import verdicts
from mmret.filters.verdicts import Verdicts
from mmret.lake import Lake
from mmret.settings import AnnotateSettings

WRONG, RIGHT = 0.25, 0.75
"""Scores of 0 to 1 at or below which a target is wrong for its text, and at or above which another picture is right."""
_ASKED = pa.schema([(name, pa.string()) for name in ("pair_id", "query_id", "target_id", "text", "candidate_id")])


def version(settings: AnnotateSettings) -> str:
    """What decides the answers. Raises UserError where the settings name no model that sees."""
    return judge_version(settings)


def judged(lake: Lake, rows: pa.Table, model: str, settings: AnnotateSettings, annotator: Annotator | None = None) -> Verdicts:
    """What the model says of every text, and of every hard negative but the query pictures, of ``rows``. ``annotator``: a back-end
    instead of the one that ``settings`` name. What it gave no answer for is kept, with the reason."""
    asked = _questions(rows)
    answers = CandidateJudge(lake, settings, annotator).judge(asked.select(["query_id", "text", "candidate_id"]), task="verdicts")
    scores = np.array([np.nan if s is None else s for s in answers["score"].to_pylist()], np.float64)
    columns = {name: asked[name].to_pylist() for name in asked.column_names}
    is_text = np.array([c == t for c, t in zip(columns["candidate_id"], columns["target_id"], strict=True)], bool)
    of_target = {
        (pair, text): score
        for pair, text, own, score in zip(columns["pair_id"], columns["text"], is_text, scores.tolist(), strict=True)
        if own
    }
    least = np.array([of_target[key] for key in zip(columns["pair_id"], columns["text"], strict=True)])
    with np.errstate(invalid="ignore"):
        drop = np.where(is_text, scores <= WRONG, (scores >= RIGHT) & (scores >= np.nan_to_num(least, nan=RIGHT)))
    said = ("the model sees something else in the target", "the model sees what the text asks for")
    unanswered = answers["reason"].to_pylist()
    filled = {
        **{name: asked[name] for name in ("pair_id", "query_id", "target_id")},
        "text": pa.array([text if own else None for text, own in zip(columns["text"], is_text, strict=True)], pa.string()),
        "candidate_id": pa.array(
            [c if not own else None for c, own in zip(columns["candidate_id"], is_text, strict=True)], pa.string()
        ),
        "verdict": pa.array(np.where(drop, "drop", "keep").tolist(), pa.string()),
        "reason": pa.array(
            [said[not own] if d else why for own, d, why in zip(is_text, drop, unanswered, strict=True)], pa.string()
        ),
        "score": pa.array(scores.astype(np.float32), from_pandas=True),
        "threshold": pa.array(np.where(is_text, WRONG, RIGHT).astype(np.float32)),
        "signals": pa.array([["judge"] if d else [] for d in drop], pa.list_(pa.string())),
    }
    silent = int(np.isnan(scores).sum())
    note = f"the model gave no score for {silent:,} of {len(scores):,} questions, which are kept" if silent else None
    return Verdicts("judge", model, verdicts.table("judge", model, filled, len(asked)), note)


def _questions(rows: pa.Table) -> pa.Table:
    asked = []
    for row in rows.to_pylist():
        key = (row["pair_id"], row["query_id"], row["target_id"])
        texts = row["texts"] or []
        asked += [(*key, text, row["target_id"]) for text in dict.fromkeys(texts)]
        others = dict.fromkeys(n for n in row["hard_negatives"] or [] if n not in (row["query_id"], row["target_id"]))
        asked += [(*key, texts[0], candidate) for candidate in others if texts]
    if not asked:
        return _ASKED.empty_table()
    return pa.table([list(column) for column in zip(*asked, strict=True)], schema=_ASKED)
