"""Invariants of the margin on hard negatives: left out is what the teacher scores above the target minus it, in the mean over
texts, and nothing else: not the query picture, not what was not scored, no other split or task; how many is said and counted."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mmret.hashing import digest_table
from mmret.retriever.train.distillation import TeacherScores
from mmret.retriever.train.negative_margin import within_margin
from mmret.retriever.train.rows import MIXTURE_COLUMNS
from mmret.schemas import TRIPLETS
from mmret.settings import Recipe


def row(negatives: list[str], texts=("a",), split: str = "train", query: str = "q") -> dict:
    made = {"pair_id": "p", "query_id": query, "target_id": "t", "texts": list(texts), "hard_negatives": negatives, "split": split}
    return {**dict.fromkeys(TRIPLETS.names), **made}


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), TRIPLETS)


def scores(said: dict[tuple[str, str, str], float]) -> TeacherScores:
    rows = [dict(zip(("query_id", "text", "candidate_id"), key, strict=True)) | {"score": score} for key, score in said.items()]
    return TeacherScores("m", [pa.Table.from_pylist(rows)])


SAID = {("q", "a", "t"): 0.5, ("q", "a", "q"): 0.9, ("q", "a", "x"): 0.45, ("q", "a", "y"): 0.3, ("q", "a", "z"): 0.6}


@pytest.mark.parametrize(("margin", "left"), [(0.0, "qxy"), (0.1, "qy"), (-0.2, "qxyz"), (0.3, "q")])
def test_what_is_above_the_target_minus_the_margin_is_left_out_and_the_query_picture_stays(margin, left):
    found = within_margin(table(row(["q", "x", "y", "z"])), scores(SAID), margin)
    assert found.rows["hard_negatives"].to_pylist() == [list(left)]
    assert (found.mined, found.left_out, found.unscored) == (3, 4 - len(left), 0)
    assert found.notes()[0].startswith(f"negative_margin left {4 - len(left)} of 3 mined hard negatives out")


def test_the_texts_of_a_row_are_meaned_over_those_that_the_teacher_scored_for_both():
    said = SAID | {("q", "b", "t"): 0.5, ("q", "b", "x"): 0.2, ("q", "b", "z"): 0.55, ("q", "c", "z"): 0.0}
    found = within_margin(table(row(["q", "x", "z"], ("a", "b", "c"))), scores(said), 0.1)
    assert found.rows["hard_negatives"].to_pylist() == [["q", "x"]], "x: -0.05 and -0.3; z: 0.1 and 0.05, and no target for c"


def test_what_is_not_scored_stays_and_is_counted():
    found = within_margin(table(row(["q", "x", "new"]), row(["other", "x"], query="other")), scores(SAID), 0.1)
    assert found.rows["hard_negatives"].to_pylist() == [["q", "new"], ["other", "x"]]
    assert (found.mined, found.left_out, found.unscored) == (3, 1, 2) and "has not scored 2 mined" in found.notes()[1]


def test_other_splits_and_tasks_and_rows_without_texts_or_negatives_stay_as_they_are():
    rows = table(row(["q", "x"], split="test"), row(["q", "z"], ()), row([]), {**row([]), "hard_negatives": None}, row(["q", "z"]))
    found = within_margin(rows, scores(SAID), 0.1)
    assert found.rows["hard_negatives"].to_pylist() == [["q", "x"], ["q", "z"], [], [], ["q"]]
    mixture = pa.Table.from_pylist(
        [
            {
                **dict.fromkeys(MIXTURE_COLUMNS.names),
                **{k: v for k, v in row(["q", "z"]).items() if k in MIXTURE_COLUMNS.names},
                "task": task,
            }
            for task in ("composed", "text_to_image")
        ],
        MIXTURE_COLUMNS,
    )
    assert within_margin(mixture, scores(SAID), 0.1).rows["hard_negatives"].to_pylist() == [["q"], ["q", "z"]]
    assert within_margin(rows.slice(0, 0), scores(SAID), 0.1).rows == rows.slice(0, 0)


def test_the_same_rows_stay_whatever_block_they_come_in_and_where_nothing_goes_the_table_is_the_same(triplets, monkeypatch):
    rng = np.random.default_rng(1)
    said = {
        (r["query_id"], text, c): float(rng.normal())
        for r in triplets.to_pylist()
        for text in r["texts"]
        for c in (r["target_id"], *r["hard_negatives"])
    }
    whole = within_margin(triplets, scores(said), 0.2)
    monkeypatch.setattr("mmret.retriever.train.negative_margin._ROWS", 7)
    parts = within_margin(triplets, scores(said), 0.2)
    assert digest_table(parts.rows) == digest_table(whole.rows) != digest_table(triplets) and parts[1:] == whole[1:]
    assert digest_table(within_margin(triplets, scores(said), -99).rows) == digest_table(triplets)
    assert within_margin(triplets, scores(said), 99).left_out == whole.mined


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"negative_margin": 0.1}, "negative_margin says how a teacher is learnt from"),
        ({"teacher": "judge", "distillation": 0}, "distillation 0 uses the teacher for nothing"),
        (
            {"teacher": "judge", "distillation": 0, "negative_margin": 0.1, "teacher_temperature": 2},
            "teacher_temperature is of dist",
        ),
        ({"teacher": "judge", "negative_margin": 0.1, "negatives": "query"}, "negatives 'query' has none"),
        ({"teacher": "judge", "negatives": "none"}, "a teacher says how much better a target is than its hard negatives"),
        ({"teacher": "judge", "negative_margin": float("nan")}, "finite number"),
        ({"teacher": "judge", "distillation": -1}, "greater than or equal to 0"),
    ],
)
def test_what_a_margin_or_a_teacher_has_no_use_for_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        Recipe.model_validate(changes)


def test_a_teacher_may_limit_negatives_alone():
    assert Recipe(teacher="judge", distillation=0, negative_margin=0.0).decisive()["distillation"] == 0
    assert Recipe(teacher="judge", negative_margin=0.1, negatives="mined").negatives == "mined"
