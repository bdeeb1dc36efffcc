"""What a recipe with a teacher trains on: its rows, without the negatives that the teacher finds right, and the teacher's scores.

The first process has the teacher score what is missing, the others wait, and all read the same. Cost: the teacher's, once; then a
hash a score.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.retriever.train.data import chosen_rows
from mmret.retriever.train.distillation import TeacherScores
from mmret.retriever.train.negative_margin import within_margin
from mmret.retriever.train.parallel import Group
from mmret.retriever.train.teach import Taught, read_scores, teach
from mmret.retriever.train.tower import LoadImages
from mmret.settings import AnnotateSettings, Recipe
from mmret.settings.recipe_links import scores_name


class TaughtRows(NamedTuple):
    """``rows`` to train on; ``scores`` to learn from, None where the teacher only limits the negatives or there is none; ``notes``:
    what a reader of the run should know."""

    rows: pa.Table
    scores: TeacherScores | None
    notes: list[str]


def taught_rows(
    lake: Lake, recipe: Recipe, rows: pa.Table, load_images: LoadImages, group: Group, judge: AnnotateSettings | None
) -> TaughtRows:
    """``rows`` as ``recipe`` trains on them. All processes of ``group`` call this.

    ``judge``: settings of annotation where the recipe's teacher is the model that they name. Raises UserError where there is no
    such teacher, or it has scored none of the rows.
    """
    if recipe.teacher is None:
        return TaughtRows(rows, None, [])
    try:
        chosen = chosen_rows(rows, recipe)[0]  # no other is paid for
    except UserError as nothing:
        if len(recipe.tasks) == 1:
            raise
        return TaughtRows(rows, None, [f"teacher '{recipe.teacher}' taught nothing: {nothing}"])  # a mixture leaves that task out
    taught = group.all_values(teach(lake, recipe.teacher, chosen, load_images, judge=judge) if group.first else None)[0]
    scores = read_scores(lake, recipe.teacher, taught.model, judge is not None)
    has_gaps = judge is not None or scores_name(recipe.teacher) is not None
    notes = _gaps(recipe.teacher, chosen, scores, taught) if has_gaps else []
    if recipe.negative_margin is not None:
        limited = within_margin(rows, scores, recipe.negative_margin)
        rows, notes = limited.rows, [*notes, *limited.notes()]
    return TaughtRows(rows, scores if recipe.distillation else None, notes)


def _gaps(teacher: str, chosen: pa.Table, scores: TeacherScores, taught: Taught) -> list[str]:
    """How much the teacher did not score. Raises UserError where that is all."""
    columns = chosen.select(["query_id", "target_id", "texts"]).to_pylist()
    targets = [(row["query_id"], text, row["target_id"]) for row in columns for text in row["texts"]]
    known = int(np.isfinite(scores.of(*zip(*targets, strict=True))).sum())
    why = f" ({', '.join(f'{n:,} × {reason}' for reason, n in taught.unscored.items())})" if taught.unscored else ""
    if not known:
        raise UserError(
            f"teacher '{teacher}' has scored none of the {len(targets):,} texts of the training triplets{why}: query_id, text and "
            "candidate_id of a score are those of table triplets, query_id, one of texts, and target_id or one of hard_negatives"
        )
    if known == len(targets) and not why:
        return []
    return [f"teacher '{teacher}' has scored {known:,} of {len(targets):,} texts of the training triplets with their target{why}"]
