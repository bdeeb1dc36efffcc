"""CIRR (Liu et al., ICCV 2021): R@k over the whole split and R_subset@k inside the query's set of six near images.

The headline reading is the one papers use (CLIP4Cir lineage, ``cirr_compute_val_metrics`` of miccunifi/SEARLE): the
reference is removed from the ranking and the label is ``target_hard``. The data set's authors also score soft targets
(CIRPLANT); the two differ (40.90 against 40.56 R@1 on one model), so soft is a separate block, never a replacement.
Chance R_subset@1 is 20 %, not 16.7 %: five candidates remain once the reference is gone.
"""

from __future__ import annotations

import re
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
    recognise,
    require_annotations,
)
from mmret.benchmarks.common.scores import ScoreOptions, Scores, mean
from mmret.errors import UserError

RANKS, SUBSET_RANKS = (1, 5, 10, 50), (1, 2, 3)
SOFT_RANKS = (1, 2, 5, 10, 50, 100)
DEPTH, SUBSET_DEPTH = 50, 3
VERSION = "rc2"
METRICS = ("recall", "recall_subset")


@dataclass(frozen=True)
class Query:
    """One query. ``members``: the six names of its set, with the reference. ``target`` is None in the test split."""

    id: int
    reference: str
    caption: str
    members: tuple[str, ...]
    target: str | None
    soft_targets: Mapping[str, float]


@dataclass(frozen=True)
class Annotations:
    path: Path
    queries: tuple[Query, ...]
    gallery: Mapping[str, str | None]
    """Image name -> path inside the image folder, in the order of the split file; None: no split file was found."""

    @property
    def targets_hidden(self) -> bool:
        return any(q.target is None for q in self.queries)


class _Set(Entry):
    members: list[str]


class _Entry(Entry):
    pairid: int
    reference: str
    caption: str
    img_set: _Set
    target_hard: str | None = None
    target_soft: dict[str, float] | None = None


def load(path: Path) -> Annotations:
    """Read ``cap.rc2.val.json`` (or test1, train) and the ``split.rc2.*.json`` beside it or in ``../image_splits``."""
    file = require_annotations(path, "CIRR", "cap.rc2.val.json", "cap.rc2.test1.json")
    if re.search(r"cap\.ext\.", file.name):
        raise UserError(f"{file} holds CIRR's auxiliary annotations; the queries are in cap.rc2.*.json")
    queries = []
    for e in read_as(file, list[_Entry], "a list of CIRR queries"):
        if e.reference not in e.img_set.members:
            raise UserError(f"{file}: pairid {e.pairid}: the reference is not among the members of its set")
        members = tuple(e.img_set.members)
        queries.append(Query(e.pairid, e.reference, e.caption, members, e.target_hard, e.target_soft or {}))
    if len({q.id for q in queries}) < len(queries):
        raise UserError(f"{file}: a pairid occurs twice")
    return Annotations(file, tuple(queries), _gallery(file, queries))


def _gallery(file: Path, queries: Sequence[Query]) -> dict[str, str | None]:
    if split := companion_file(file, re.sub(r"^cap\.", "split.", file.name.removesuffix(".gz"))):
        return read_as(split, dict[str, str], "a CIRR split file: an object of image name -> path")
    return dict.fromkeys(name for q in queries for name in (*q.members, *filter(None, [q.target])))


def score(annotations: Path, predictions: Path, options: ScoreOptions) -> Scores:
    """Score files in the server's format: ``predictions`` (50 names a query) and, where the options name it, the subset file (3).

    Raises UserError for malformed files and for the test split, whose targets are hidden.
    """
    truth = load(annotations)
    rankings, notes = read_predictions(truth, predictions, "recall", options.partial)
    subset: dict[int, list[str]] | None = None
    if options.subset_predictions:
        subset, more = read_predictions(truth, options.subset_predictions, "recall_subset", options.partial)
        notes += more
    else:
        notes.append("no --subset-predictions file: R_subset is not scored")
    if truth.targets_hidden:
        raise UserError(
            f"{truth.path} has no targets (CIRR's test split): the files are well-formed; submit them at "
            "http://cirr.cecs.anu.edu.au, or score validation predictions against cap.rc2.val.json"
        )
    values = metrics(truth.queries, rankings, subset)
    if options.soft:
        values["soft"] = soft_metrics(truth.queries, rankings, subset)
    return Scores("cirr", values, len(rankings), tuple(notes))


def read_predictions(truth: Annotations, path: Path, metric: str, partial: bool = False) -> tuple[dict[int, list[str]], list[str]]:
    """Rankings by pairid without the reference, and notes. Raises UserError with every problem found."""
    data = dict(predictions_object(path, read_json(path), f'a CIRR submission with "metric": "{metric}"'))
    _check_header(path, data, metric)
    findings = Findings(path, partial)
    findings.check_keys(data, [str(q.id) for q in truth.queries], "pair")
    queries = {str(q.id): q for q in truth.queries}
    gallery = truth.gallery
    for key, ranking in data.items():
        known: Any = gallery
        depth = min(DEPTH, len(gallery) - 1)
        if metric == "recall_subset" and key in queries:
            known, depth = queries[key].members, min(SUBSET_DEPTH, len(queries[key].members) - 1)
        findings.check_list(f"pairid {key}", ranking, ListRule(str, "image name", depth, known))
    notes = list(findings.finish())
    if listed := sum(queries[key].reference in ranking for key, ranking in data.items()):
        notes.append(f"{listed} {metric} lists contain the query's own reference image; it was removed before scoring")
    rankings = {queries[key].id: [name for name in ranking if name != queries[key].reference] for key, ranking in data.items()}
    references = {q.reference for q in truth.queries}
    if metric == "recall" and len(references) < len(gallery) and all(map(references.issuperset, rankings.values())):
        notes.append(
            "every predicted image is the reference of some query: was the gallery cut down to references? "
            f"CIRR's is the whole split ({len(gallery)} images)"
        )
    return rankings, notes


def _check_header(path: Path, data: dict[str, Any], metric: str) -> None:
    if "version" not in data or "metric" not in data:
        raise UserError(
            f'{path} lacks the entry "version" or "metric" of a CIRR submission: add '
            f'"version": "{VERSION}" and "metric": "{metric}". It looks like {recognise(data)}'
        )
    version, given = data.pop("version"), data.pop("metric")
    if version != VERSION:
        raise UserError(f'{path} is for version {version!r} of CIRR; only "{VERSION}" is scored')
    if given != metric:
        other = " (swap --predictions and --subset-predictions?)" if given in METRICS else ""
        raise UserError(f'{path} has "metric": {given!r} where "{metric}" is expected{other}')


def metrics(
    queries: Sequence[Query], rankings: Mapping[int, Sequence[str]], subset: Mapping[int, Sequence[str]] | None
) -> dict[str, Any]:
    """R@k and, where ``subset`` is given, R_subset@k in percent by hard targets; the lists must be without the reference."""

    def hits(lists: Mapping[int, Sequence[str]], k: int) -> float | None:
        return mean([100.0 * (q.target in lists[q.id][:k]) for q in queries if q.id in lists])

    values: dict[str, Any] = {"R": {str(k): hits(rankings, k) for k in RANKS}}
    if subset is not None:
        values["Rs"] = {str(k): hits(subset, k) for k in SUBSET_RANKS}
    return values


def soft_metrics(
    queries: Sequence[Query], rankings: Mapping[int, Sequence[str]], subset: Mapping[int, Sequence[str]] | None
) -> dict[str, Any]:
    """The metric of the data set's authors: the best ``target_soft`` weight among the first k, never below 0, in percent."""

    def best(lists: Mapping[int, Sequence[str]], k: int) -> float | None:
        return mean(
            [100.0 * max([0.0, *(q.soft_targets.get(name, 0.0) for name in lists[q.id][:k])]) for q in queries if q.id in lists]
        )

    deepest = min(map(len, rankings.values()), default=0)
    values: dict[str, Any] = {"R": {str(k): best(rankings, k) for k in SOFT_RANKS if k <= max(deepest, DEPTH)}}
    if subset is not None:
        values["Rs"] = {str(k): best(subset, k) for k in SUBSET_RANKS}
    return values
