"""Runs a model on GeneCIS: every template ranks its own ten or fifteen pictures, instances cropped by the official rule.

Each distinct picture or crop is embedded once, however many galleries show it (focus_attribute: 22,000 uses, about
17,000 crops).
"""

from __future__ import annotations

from typing import Any

from mmret.benchmarks.common.candidates import duplicates_of_first, order, similarities
from mmret.benchmarks.common.image_folder import ImageFolder
from mmret.benchmarks.common.pictures import Embedder, Shot
from mmret.benchmarks.common.protocol import Protocol, Template, load_protocol
from mmret.benchmarks.common.runs import (
    COMPOSED,
    IMAGE_ONLY,
    TEXT_ONLY,
    BenchmarkRun,
    MissingPictures,
    RunOptions,
    Variant,
    query_vectors,
)
from mmret.benchmarks.genecis import scorer as genecis
from mmret.errors import UserError


def run(embedder: Embedder, options: RunOptions) -> BenchmarkRun:
    """Run all GeneCIS tasks that are annotated.

    ``options.images`` holds COCO val2017 and Visual Genome, in their own folders or all together.
    """
    tasks = genecis.load(options.annotations)
    protocol = load_protocol("genecis", options.template)
    folder = ImageFolder(
        options.images, ("val2017", "coco/val2017", "VG_100K", "VG_100K_2", "VG_All", "visual_genome"), anywhere=True
    )
    sets = [_GenecisTask(embedder, task, folder, options) for task in tasks.values()]
    partials = [p for p in (s.partial for s in sets) if p]
    if absent := [t for t in genecis.TASKS if t not in tasks]:
        partials.append(f"PARTIAL: no annotations of {', '.join(absent)}; the mean is over {', '.join(tasks)}")

    def variant(name: str, template: Template | None, image: bool) -> Variant:
        lists = {s.task.name: s.rankings(protocol, template, image) for s in sets}
        values: dict[str, Any] = {n: genecis.metrics([r for r in rankings if r]) for n, rankings in lists.items()}
        values["mean"] = genecis.average(values)
        return Variant(name, values, {"predictions.json": lists})

    variants = (
        variant(COMPOSED, protocol.template, True),
        variant(IMAGE_ONLY, None, True),
        variant(TEXT_ONLY, protocol.template, False),
    )
    paraphrases = [variant(t.name, t, True) for t in protocol.paraphrases] if options.paraphrases else []
    return BenchmarkRun(
        "genecis",
        "val",
        protocol.label,
        embedder.model,
        sum(len(s.answerable) for s in sets),
        sum(len(s.keys) for s in sets),
        variants,
        tuple(Variant(v.name, v.values) for v in paraphrases),
        "; ".join(partials) or None,
        ("differences of 0.2 points of mean R@1 are within the data's noise (its authors)",),
    )


class _GenecisTask:
    """One task with its pictures embedded, every crop once."""

    def __init__(self, embedder: Embedder, task: genecis.Task, folder: ImageFolder, options: RunOptions):
        self.embedder, self.task = embedder, task
        pictures = list(dict.fromkeys(p for t in task.templates for p in (t.reference, *t.candidates)))
        paths = {file: folder.find(file) for file in dict.fromkeys(p.file for p in pictures)}
        missing = MissingPictures({file: "not found" for file, path in paths.items() if path is None})
        missing.check(len(paths), options.allow_missing, options.images)
        self.shots = {p: Shot(path, p.box) for p in pictures if (path := paths[p.file])}
        vectors = embedder.picture_vectors(list(self.shots.values()), f"{task.name} pictures")
        here = list(self.shots)
        for i, reason in vectors.unreadable.items():
            missing.reasons[here[i].file] = reason
        missing.check(len(paths), options.allow_missing, options.images)
        self.row = {p: i for i, p in enumerate(here) if i not in vectors.unreadable}
        self.rows, self.keys = vectors.rows, vectors.keys
        self.answerable = [t for t in task.templates if all(p in self.row for p in (t.reference, *t.candidates))]
        if not self.answerable:
            raise UserError(f"{task.name}: no template has all its pictures under {options.images}")
        self.partial = None
        if len(self.answerable) < len(task.templates):
            self.partial = (
                f"PARTIAL: {task.name}: {len(missing.reasons)} pictures are missing, "
                f"{len(task.templates) - len(self.answerable)} of {len(task.templates)} templates were left out"
            )

    def rankings(self, protocol: Protocol, template: Template | None, image: bool) -> list[list[int]]:
        """Candidate positions best first, one list a template in file order; empty lists where pictures are missing."""
        references = [t.reference for t in self.answerable]
        if template is None:
            queries = self.rows[[self.row[r] for r in references]]
        else:
            texts = [template.texts({"condition": t.condition}, self.task.name) for t in self.answerable]
            shots = [self.shots[r] for r in references] if image else None
            queries = query_vectors(self.embedder, shots, texts, protocol.instruction)
        found = {}
        for query, entry in zip(queries, self.answerable, strict=True):
            rows = [self.row[p] for p in entry.candidates]
            found[id(entry)] = order(similarities(self.rows[rows], query), duplicates_of_first([self.keys[r] for r in rows]))
        return [found.get(id(entry), []) for entry in self.task.templates]
