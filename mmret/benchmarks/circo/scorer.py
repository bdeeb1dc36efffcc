"""CIRCO (Baldrati et al., ICCV 2023): mAP@k over all ground truths of a query, Recall@k of its one written target.

The rules are those of ``compute_metrics`` in miccunifi/CIRCO ``src/evaluation.py``. The reference image stays in the
ranking, as in every published number; it can never be a ground truth, so removing it can only raise mAP. Test ground
truths are hidden: a test file can be validated and submitted (https://circo.micc.unifi.it), never scored here.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmret.benchmarks.common.reading import (
    Entry,
    Findings,
    ListRule,
    companion_file,
    predictions_object,
    read_as,
    read_json,
    require_annotations,
)
from mmret.benchmarks.common.scores import ScoreOptions, Scores, mean
from mmret.errors import UserError

RANKS = (5, 10, 25, 50)
DEPTH = 50
ASPECTS = (
    "cardinality",
    "addition",
    "negation",
    "direct_addressing",
    "compare_change",
    "comparative_statement",
    "statement_with_conjunction",
    "spatial_relations_background",
    "viewpoint",
)
LAST_COCO_ID = 581_931
"""The highest image id of COCO 2017 unlabeled, the gallery of both splits (123,403 images, ids from 8)."""
INFO = "image_info_unlabeled2017.json"


@dataclass(frozen=True)
class Query:
    """One query; the last three fields are empty in the test split."""

    id: int
    reference: int
    relative_caption: str
    shared_concept: str
    target: int | None
    ground_truths: tuple[int, ...]
    aspects: tuple[str, ...]


@dataclass(frozen=True)
class Annotations:
    path: Path
    queries: tuple[Query, ...]
    gallery: tuple[int, ...] | None
    """Image ids in the order of the official list; None where no list lies beside the annotations."""

    @property
    def targets_hidden(self) -> bool:
        return any(q.target is None for q in self.queries)


class _Entry(Entry):
    id: int
    reference_img_id: int
    relative_caption: str
    shared_concept: str
    target_img_id: int | None = None
    gt_img_ids: list[int] | None = None
    semantic_aspects: list[str] | None = None


class _Image(Entry):
    id: int


class _Info(Entry):
    images: list[_Image]


def load(path: Path) -> Annotations:
    """Read ``val.json`` or ``test.json`` (``path``: the file, or a folder that holds it; ``val.json`` is preferred)."""
    file = require_annotations(path, "CIRCO", "val.json", "test.json")
    queries = tuple(
        Query(
            e.id,
            e.reference_img_id,
            e.relative_caption,
            e.shared_concept,
            e.target_img_id,
            tuple(e.gt_img_ids or ()),
            tuple(e.semantic_aspects or ()),
        )
        for e in read_as(file, list[_Entry], "a list of CIRCO queries")
    )
    for q in queries:
        if q.target is not None and not q.ground_truths:
            raise UserError(f"{file}: query {q.id} has a target but no gt_img_ids")
    if len({q.id for q in queries}) < len(queries):
        raise UserError(f"{file}: a query id occurs twice")
    return Annotations(file, queries, read_gallery(file.parent) or read_gallery(file.parent.parent) or _corpus(file))


def read_gallery(folder: Path) -> tuple[int, ...] | None:
    """Image ids in the order of COCO's list of unlabeled pictures, from ``folder`` or its place in the official layout, or None."""
    for info in (folder / INFO, folder / "annotations" / INFO, folder / "COCO2017_unlabeled" / "annotations" / INFO):
        if info.is_file():
            return tuple(image.id for image in read_as(info, _Info, "COCO's list of images").images)
    return None


def _corpus(file: Path) -> tuple[int, ...] | None:
    if corpus := companion_file(file, "circo_corpus.jsonl"):  # MegaPairs' form of the same list
        with gzip.open(corpus, "rt") if corpus.suffix == ".gz" else open(corpus) as lines:
            return tuple(json.loads(line)["content"] for line in lines)
    return None


def score(annotations: Path, predictions: Path, options: ScoreOptions) -> Scores:
    """Score a file in CIRCO's submission format ``{"0": [50 image ids], ...}``.

    Shorter lists are scored too, as by the official code; metrics at a greater depth are then only lower bounds, and
    ``lower_bounds`` lists them. Raises UserError for malformed files and for the test split, whose ground truths are hidden.
    """
    truth = load(annotations)
    rankings, notes = read_predictions(truth, predictions, options.partial)
    short = {i: ranking for i, ranking in rankings.items() if len(ranking) < _whole_list(truth)}
    if truth.targets_hidden:
        ready = (
            f"is no submission yet: {len(short)} of its lists hold fewer than {DEPTH} ids, which the server refuses"
            if short
            else "is well-formed; submit it at https://circo.micc.unifi.it"
        )
        raise UserError(
            f"{truth.path} is CIRCO's test split, whose ground truths are hidden: {predictions} {ready}, "
            "or score validation predictions"
        )
    if options.remove_reference:
        reference = {q.id: q.reference for q in truth.queries}
        rankings = {i: [x for x in ranking if x != reference[i]] for i, ranking in rankings.items()}
        notes.append("the reference image was removed: not comparable with published CIRCO numbers")
    bounds: list[str] = []
    if short:
        shortest = min(len(rankings[i]) for i in short)
        bounds = [f"{name}@{k}" for name in ("mAP", "Recall") for k in RANKS if k > shortest]
        bounds += [f"semantic_mAP@10 {aspect}" for aspect in ASPECTS if shortest < 10]
        notes.append(
            f"{len(short)} lists are shorter than {_whole_list(truth)} (the shortest has {shortest}): what is measured deeper than "
            f"{shortest} is a lower bound; a submission needs exactly {DEPTH}"
        )
    return Scores("circo", metrics(truth.queries, rankings), len(rankings), tuple(notes), tuple(bounds))


def _whole_list(truth: Annotations) -> int:
    """Number of ids that a list must have for every metric to be exact."""
    return DEPTH if truth.gallery is None else min(DEPTH, len(truth.gallery))


def read_predictions(truth: Annotations, path: Path, partial: bool = False) -> tuple[dict[int, list[int]], list[str]]:
    """Rankings by query id, and notes. Raises UserError with every problem found."""
    data = predictions_object(path, read_json(path), 'CIRCO predictions {"0": [50 image ids], ...}')
    findings = Findings(path, partial)
    findings.check_keys(data, [str(q.id) for q in truth.queries])
    known: Any = frozenset(truth.gallery) if truth.gallery is not None else range(LAST_COCO_ID + 1)
    rule = ListRule(int, "image id", 1, known)
    for key, ranking in data.items():
        findings.check_list(f"query {key}", ranking, rule)
    notes = list(findings.finish())
    if longer := sum(len(r) > DEPTH for r in data.values()):
        notes.append(f"{longer} lists are longer than {DEPTH}: only the first {DEPTH} count; the server refuses them")
    return {int(key): ranking for key, ranking in data.items()}, notes


def metrics(queries: Sequence[Query], rankings: Mapping[int, Sequence[int]]) -> dict[str, Any]:
    """mAP, Recall and semantic mAP@10 in percent over the queries that ``rankings`` (query id -> image ids) holds."""
    queries = [q for q in queries if q.id in rankings]
    precision = {k: [average_precision(rankings[q.id], q.ground_truths, k) for q in queries] for k in RANKS}
    recall = {k: [100.0 * (q.target in rankings[q.id][:k]) for q in queries] for k in RANKS}
    semantic = {aspect: [ap for q, ap in zip(queries, precision[10], strict=True) if aspect in q.aspects] for aspect in ASPECTS}
    return {
        "mAP": {str(k): mean(precision[k]) for k in RANKS},
        "Recall": {str(k): mean(recall[k]) for k in RANKS},
        "semantic_mAP@10": {aspect: mean(values) for aspect, values in semantic.items()},
    }


def average_precision(ranking: Sequence[int], truths: Sequence[int], k: int) -> float:
    """AP@k in percent: sum of the precisions at the hits among the first k, over min(number of ground truths, k)."""
    wanted = set(truths)
    hits, total = 0, 0.0
    for position, image in enumerate(ranking[:k], start=1):
        if image in wanted:
            hits += 1
            total += hits / position
    return 100.0 * total / min(len(truths), k)
