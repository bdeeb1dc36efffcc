"""FashionIQ (Wu et al., CVPR 2021): R@10 and R@50 per category on the validation split, and their unweighted mean.

The gallery is the *original* validation split of the category (3,817 / 6,346 / 5,373 images) and the reference stays in
it, as in SEARLE's ``fiq_compute_val_metrics`` and MegaPairs' ``evaluate``. Some papers rank over the union of
references and targets only, which is about 7 points of R@10 easier; the two must never be mixed, so that gallery is an
explicit choice here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmret.benchmarks.common.reading import (
    Entry,
    Findings,
    ListRule,
    annotation_file,
    companion_file,
    predictions_object,
    read_as,
    read_json,
    recognise,
    require_annotations,
)
from mmret.benchmarks.common.scores import ScoreOptions, Scores, mean
from mmret.errors import UserError

CATEGORIES = ("dress", "shirt", "toptee")
RANKS = (10, 50)
DEPTH = 50


@dataclass(frozen=True)
class Query:
    """One query; it has no id of its own, so the list index is its name. ``captions``: always two."""

    reference: str
    target: str | None
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Category:
    name: str
    path: Path
    queries: tuple[Query, ...]
    gallery: tuple[str, ...] | None
    """ASINs in the order of the split file; None where none lies beside the captions."""

    @property
    def union(self) -> frozenset[str]:
        """References and targets: the smaller gallery of some papers."""
        return frozenset(a for q in self.queries for a in (q.reference, q.target) if a)


class _Entry(Entry):
    candidate: str
    target: str | None = None
    captions: list[str]


def load(path: Path) -> dict[str, Category]:
    """Categories by name from a folder with ``cap.{category}.val.json`` files, or from one such file."""
    if path.is_file():
        parts = path.name.split(".")
        if len(parts) < 4 or parts[0] != "cap" or parts[1] not in CATEGORIES:
            raise UserError(f"{path}: a FashionIQ annotation file is called cap.<{'|'.join(CATEGORIES)}>.val.json")
        return {parts[1]: _category(parts[1], path)}
    files = {name: annotation_file(path, f"cap.{name}.val.json") for name in CATEGORIES}
    found = {name: _category(name, file) for name, file in files.items() if file}
    if not found:
        require_annotations(path, "FashionIQ", *(f"cap.{name}.val.json" for name in CATEGORIES))
    return found


def _category(name: str, file: Path) -> Category:
    entries = read_as(file, list[_Entry], "a list of FashionIQ queries")
    queries = tuple(Query(e.candidate, e.target, tuple(e.captions)) for e in entries)
    gallery = None
    if split := companion_file(file, "split" + file.name.removesuffix(".gz").removeprefix("cap")):
        gallery = tuple(read_as(split, list[str], "a FashionIQ split file: a list of image names"))
    category = Category(name, file, queries, gallery)
    if gallery is not None and (lost := category.union.difference(gallery)):
        raise UserError(
            f"{split} and {file} do not belong together: {len(lost)} images of the captions, "
            f"{min(lost)} for one, are not in the split"
        )
    return category


def score(annotations: Path, predictions: Path, options: ScoreOptions) -> Scores:
    """Score ``{"dress": [[50 ASINs best first], one list a query in file order], ...}``; any of the three categories.

    Raises UserError for malformed files. A file with fewer than three categories is scored, and the notes say so.
    """
    truth = load(annotations)
    data = predictions_object(predictions, read_json(predictions), 'FashionIQ predictions {"dress": [[50 ASINs], ...], ...}')
    if unknown := [name for name in data if name not in CATEGORIES]:
        raise UserError(
            f"{predictions}: {unknown[0]!r} is no FashionIQ category ({', '.join(CATEGORIES)}); "
            f"the file looks like {recognise(data)}"
        )
    values: dict[str, Any] = {}
    notes: list[str] = []
    for name in [c for c in CATEGORIES if c in data]:
        if name not in truth:
            raise UserError(f"{predictions} has predictions for {name}, but {annotations} has no cap.{name}.val.json")
        rankings, more = read_predictions(truth[name], data[name], predictions, options)
        notes += more
        if any(q.target is None for q in truth[name].queries):
            raise UserError(f"{truth[name].path} has no targets: only the validation split can be scored")
        values[name] = metrics(truth[name].queries, rankings)
    if missing := [c for c in CATEGORIES if c not in values]:
        notes.append(
            f"mean over {', '.join(values)} only: FashionIQ's number is the mean of three categories "
            f"({', '.join(missing)} not predicted)"
        )
    scored = sum(len(truth[name].queries) for name in values)
    values["mean"] = average(values)
    return Scores("fashioniq", values, scored, tuple(notes))


def read_predictions(category: Category, lists: Any, path: Path, options: ScoreOptions) -> tuple[list[list[str]], list[str]]:
    """Checked rankings of one category in file order, and notes. A query without predictions has an empty list."""
    name, gallery = category.name, category.gallery
    findings = Findings(path, options.partial)
    findings.check_count(lists, len(category.queries), name, category.path.name)
    pool = len(gallery) if gallery is not None and options.gallery == "original" else len(category.union)
    rule = ListRule(
        str,
        "ASIN",
        min(DEPTH, pool) if gallery is not None else DEPTH,
        frozenset(gallery) if gallery is not None else None,
    )
    for index, ranking in enumerate(lists):
        findings.check_list(f"{name} query {index}", ranking, rule)
    notes = list(findings.finish())
    if gallery is None:
        notes.append(f"no split.{name}.val.json beside {category.path.name}: unknown ASINs cannot be told")
    rankings, more = _reduce(category, lists, options)
    return rankings, notes + more


def _reduce(category: Category, lists: Sequence[Sequence[str]], options: ScoreOptions) -> tuple[list[list[str]], list[str]]:
    """Apply the choices of gallery and reference removal."""
    union, notes = category.union, []
    rankings = [list(ranking) for ranking in lists]
    smaller = category.gallery is not None and len(union) < len(category.gallery)
    if options.gallery == "union":
        rankings = [[a for a in ranking if a in union] for ranking in rankings]
        if any(len(r) < min(DEPTH, len(union)) for r in rankings):
            raise UserError(
                f"{category.name}: scoring over the smaller gallery needs {DEPTH} of its images in every "
                "list; give rankings of the whole split, or rankings made over that gallery"
            )
        notes.append(
            f"{category.name}: gallery of {len(union)} references and targets, not the original split; "
            "compare only with papers that say so"
        )
    elif smaller and len(rankings) >= 20 and all(map(union.issuperset, rankings)):
        notes.append(
            f"{category.name}: every predicted image is a reference or a target; a ranking of those "
            f"{len(union)} images alone is not comparable: the gallery has {len(category.gallery or ())}"
        )
    if options.remove_reference:
        rankings = [[a for a in r if a != q.reference] for q, r in zip(category.queries, rankings, strict=False)]
        notes.append(f"{category.name}: the reference image was removed: not comparable with published numbers")
    return rankings, notes


def metrics(queries: Sequence[Query], rankings: Sequence[Sequence[str]]) -> dict[str, float | None]:
    """Hit rates in percent over the queries that have a ranking (all of them unless a partial file was allowed)."""
    return {
        f"R@{k}": mean([100.0 * (q.target in ranking[:k]) for q, ranking in zip(queries, rankings, strict=False)]) for k in RANKS
    }


def average(values: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    """Unweighted mean over the categories, per metric."""
    return {f"R@{k}": mean([v for c in values.values() if (v := c[f"R@{k}"]) is not None]) for k in RANKS}
