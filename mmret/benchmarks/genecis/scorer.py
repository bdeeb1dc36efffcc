"""GeneCIS (Vaze et al., CVPR 2023): four tasks of small galleries, R@1, R@2, R@3; the paper's figure is the mean R@1.

Rules of facebookresearch/genecis: each template ranks its own gallery with the target put first (position 0), no
reference is removed, noise in the galleries (a repeated target, the reference among the candidates) is kept. Because
the target sits at position 0, a constant or NaN score looks like 100 % under a stable sort; predictions here are
explicit permutations, and the runner ranks ties against the target. The authors call the data "v0": differences of 0.2
points of mean R@1 mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from mmret.benchmarks.common.reading import (
    Entry,
    Findings,
    ListRule,
    annotation_file,
    predictions_object,
    read_as,
    read_json,
    recognise,
    require_annotations,
)
from mmret.benchmarks.common.scores import ScoreOptions, Scores, mean
from mmret.errors import UserError

TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")
RANKS = (1, 2, 3)


@dataclass(frozen=True)
class Picture:
    """A whole image of COCO val2017 (``box`` None) or one instance in a Visual Genome image, ``box`` = x, y, w, h in pixels."""

    file: str
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Template:
    """One query. ``candidates[0]`` is the target, the gallery follows in file order."""

    condition: str
    reference: Picture
    candidates: tuple[Picture, ...]


@dataclass(frozen=True)
class Task:
    name: str
    path: Path
    templates: tuple[Template, ...]


def load(path: Path) -> dict[str, Task]:
    """Tasks by name from a folder with ``{task}.json`` (or .json.gz) files, or from one such file."""
    if path.is_file():
        name = path.name.split(".")[0]
        if name not in TASKS:
            raise UserError(f"{path}: a GeneCIS annotation file is called <{'|'.join(TASKS)}>.json")
        return {name: _task(name, path)}
    files = {name: annotation_file(path, f"{name}.json") for name in TASKS}
    found = {name: _task(name, file) for name, file in files.items() if file}
    if not found:
        require_annotations(path, "GeneCIS", *(f"{name}.json" for name in TASKS))
    return found


class _Picture(Entry):
    val_image_id: int | None = None
    image_id: str | int | None = None
    instance_bbox: list[float] = Field(default=[], min_length=4, max_length=4)

    @model_validator(mode="after")
    def _one_kind(self) -> _Picture:
        if (self.val_image_id is None) == (self.image_id is None) or bool(self.instance_bbox) != bool(self.image_id):
            raise ValueError('a picture is {"val_image_id": int} or {"image_id": str, "instance_bbox": [x, y, w, h]}')
        return self

    def picture(self) -> Picture:
        if self.image_id is None:
            return Picture(f"{self.val_image_id:012d}.jpg")
        x, y, w, h = self.instance_bbox
        return Picture(f"{self.image_id}.jpg", (x, y, w, h))


class _Entry(Entry):
    condition: str
    reference: _Picture
    target: _Picture
    gallery: list[_Picture] = Field(min_length=1)


def _task(name: str, file: Path) -> Task:
    entries = read_as(file, list[_Entry], "a list of GeneCIS templates")
    templates = (Template(e.condition, e.reference.picture(), tuple(p.picture() for p in (e.target, *e.gallery)))
                 for e in entries)  # fmt: skip
    return Task(name, file, tuple(templates))


def score(annotations: Path, predictions: Path, options: ScoreOptions) -> Scores:
    """Score ``{"focus_attribute": [[candidate positions best first], one list a template], ...}``.

    The file may have any of the four tasks. Every list must be a permutation of its template's candidates. Raises UserError
    for malformed files.
    """
    truth = load(annotations)
    data = predictions_object(
        predictions,
        read_json(predictions),
        'GeneCIS predictions {"focus_attribute": [[candidate positions], ...], ...}',
    )
    if unknown := [name for name in data if name not in TASKS]:
        raise UserError(
            f"{predictions}: {unknown[0]!r} is no GeneCIS task ({', '.join(TASKS)}); the file looks like {recognise(data)}"
        )
    values: dict[str, Any] = {}
    notes: list[str] = []
    for name in [t for t in TASKS if t in data]:
        if name not in truth:
            raise UserError(f"{predictions} has predictions for {name}, but {annotations} has no {name}.json")
        rankings, more = read_predictions(truth[name], data[name], predictions, options.partial)
        notes += more
        values[name] = metrics(rankings)
    if missing := [t for t in TASKS if t not in values]:
        notes.append(
            f"mean over {', '.join(values)} only: GeneCIS's figure is the mean R@1 of four tasks "
            f"({', '.join(missing)} not predicted)"
        )
    scored = sum(len(truth[name].templates) for name in values)
    values["mean"] = average(values)
    return Scores("genecis", values, scored, tuple(notes))


def read_predictions(task: Task, lists: Any, path: Path, partial: bool = False) -> tuple[list[list[int]], list[str]]:
    """Checked rankings of one task in file order, and notes."""
    findings = Findings(path, partial)
    findings.check_count(lists, len(task.templates), task.name, task.path.name)
    for index, (ranking, template) in enumerate(zip(lists, task.templates, strict=False)):
        size = len(template.candidates)
        rule = ListRule(int, "candidate position", size, range(size))
        findings.check_list(f"{task.name} template {index}", ranking, rule)
    return lists, list(findings.finish())


def metrics(rankings: Sequence[Sequence[int]]) -> dict[str, float | None]:
    """Share of the rankings, in percent, with position 0 (the target) among the first k."""
    return {f"R@{k}": mean([100.0 * (0 in ranking[:k]) for ranking in rankings]) for k in RANKS}


def average(values: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    """Unweighted mean over the tasks, per metric; R@1 is the paper's figure."""
    return {f"R@{k}": mean([v for t in values.values() if (v := t[f"R@{k}"]) is not None]) for k in RANKS}
