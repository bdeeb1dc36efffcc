"""Has a teacher score the training triplets, once: table ``teacher_scores``, which recipes with a ``teacher`` learn from.

Who teaches is :mod:`.teachers`; scores from outside (:mod:`.imported_scores`) are only read. Sixteen partitions a teacher, by the
first digit of ``pair_id``, each written once whole: a run that is stopped loses one of them at most, and rows that are there for
the same version of the teacher are not scored again. Cost: the teacher's, for every text of a triplet with its target and each of
its hard negatives, some twenty questions a triplet; memory, the columns of one partition's rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.hashing import fingerprint, hash64
from mmret.lake import Lake
from mmret.progress import advance
from mmret.retriever.train.distillation import TeacherScores, hashed
from mmret.retriever.train.imported_scores import imported_facts
from mmret.retriever.train.teachers import Question, Teacher, teacher_of
from mmret.retriever.train.tower import LoadImages
from mmret.schemas import TEACHER_SCORES
from mmret.settings import AnnotateSettings
from mmret.settings.recipe_links import scores_name, scores_partition
from mmret.tasks import COMPOSED

_READ = 1024  # triplets that are looked up together
_COLUMNS = ["pair_id", "query_id", "target_id", "texts", "hard_negatives"]
_KEY = ("pair_id", "query_id", "text", "candidate_id")
_DIGITS = "0123456789abcdef"

Report = Callable[[int, int], None]
"""Called with how many triplets are scored, and of how many."""


class Taught(NamedTuple):
    """``model``, the version of the teacher; how many scores are new; how many questions it had none for, by reason, which is asked
    again next time."""

    model: str
    made: int
    unscored: dict[str, int]


def teach(
    lake: Lake,
    teacher: str,
    triplets: pa.Table,
    load_images: LoadImages,
    report: Report | None = None,
    judge: AnnotateSettings | None = None,
) -> Taught:
    """Score the triplets of split ``train`` by ``teacher`` where that is not done yet.

    ``triplets``: columns ``pair_id, query_id, target_id, texts, hard_negatives, split``; of a mixture of tasks those of task
    ``composed``. ``judge``: settings of annotation where teacher `judge` is the model that they name, see :func:`teacher_of`. Of
    scores that were brought nothing is made. Raises UserError where there is no such teacher, and for a picture that the lake does
    not hold.

    >>> teach(Lake("lakes/demo"), "reranker", lake.read("triplets"), lambda ids: images_by_id(lake, ids)).made
    """
    if (brought := scores_name(teacher)) is not None:
        return Taught(imported_facts(lake, brought).inputs, 0, {})
    scorer, made = teacher_of(lake, teacher, judge), 0
    rows = scored_rows(triplets)
    digits = pc.utf8_slice_codeunits(rows["pair_id"], 0, 1)
    done = 0
    for digit in _DIGITS:
        own = rows.filter(pc.equal(digits, digit)).select(_COLUMNS).combine_chunks()
        partition = f"{teacher}-{digit}"
        tables = [_known(lake, partition, scorer.model)]
        have = np.sort(hashed(tables[0], _KEY, _number))
        missing = _missing(own, have)
        for start in range(0, len(missing), scorer.block):
            block = own.take(missing[start : start + scorer.block]).to_pylist()
            if new := _scored(scorer, block, have, load_images):
                made += len(new)
                tables.append(_table(teacher, scorer.model, new))
            (report or _report)(done + start + len(block), len(rows))
        if len(tables) > 1:
            lake.write("teacher_scores", partition, pa.concat_tables(tables), scorer.model)
        done += len(own)
    return Taught(scorer.model, made, dict(scorer.unscored))


def scored_rows(triplets: pa.Table) -> pa.Table:
    """Those of ``triplets`` that a teacher scores: of split ``train`` and task ``composed``."""
    rows = triplets.filter(pc.equal(triplets["split"], "train"))
    return rows.filter(pc.equal(rows["task"], COMPOSED)) if "task" in rows.column_names else rows


def teacher_scores(
    lake: Lake, teacher: str, triplets: pa.Table, load_images: LoadImages, judge: AnnotateSettings | None = None
) -> TeacherScores:
    """What :func:`teach` scored of ``triplets``, scoring what is missing first."""
    taught = teach(lake, teacher, triplets, load_images, judge=judge)
    return read_scores(lake, teacher, taught.model, judge is not None)


def read_scores(lake: Lake, teacher: str, model: str, judged: bool = False) -> TeacherScores:
    """The scores of ``teacher`` of version ``model`` that are there.

    Scores of a model that ``judged``, which may have none today where it has one tomorrow, are told apart by what they are, not by
    their version alone; so are those that were brought.
    """
    columns = ["query_id", "text", "candidate_id", "score"]
    if (brought := scores_name(teacher)) is not None:
        facts = imported_facts(lake, brought)
        return TeacherScores(facts.digest, [lake.read("teacher_scores", scores_partition(brought), columns)])
    same = (pc.field("teacher") == teacher) & (pc.field("model") == model)
    found = TeacherScores(model, (lake.read("teacher_scores", p, columns, same) for p in lake.partitions("teacher_scores")))
    if judged:
        found.model = fingerprint(model, found.digest())
    return found


def coverage(lake: Lake, brought: str, triplets: pa.Table) -> tuple[int, int]:
    """How many questions of the training triplets the scores ``brought`` answer, and how many there are; a question is a text with
    the target or a hard negative, the source picture among them."""
    scores = read_scores(lake, f"scores/{brought}", "")
    rows = scored_rows(triplets)
    known = wanted = 0
    for start in range(0, len(rows), _READ):
        block = rows.slice(start, _READ).to_pylist()
        if questions := [key[1:] for row in block for key in _keys({**row, "pair_id": ""})]:
            known += int(np.isfinite(scores.of(*zip(*questions, strict=True))).sum())
            wanted += len(questions)
    return known, wanted


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


def _scored(scorer: Teacher, block: list[dict[str, Any]], have: np.ndarray, load_images: LoadImages) -> dict[Key, float]:
    asked = [key for row in block for key in _keys(row)]
    keys = [key for key, new in zip(asked, _new(asked, have), strict=True) if new]
    scores = scorer.score([Question(*key[1:]) for key in keys], load_images)
    return {key: score for key, score in zip(keys, scores, strict=True) if score is not None}


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
