"""Runs a model on FashionIQ val, category by category, scored as by ``mmret score``."""

from __future__ import annotations

from typing import Any

from mmret.benchmarks.common.gallery import Question, Ranker, paraphrase_variants, prepare, query_variants
from mmret.benchmarks.common.image_folder import ImageFolder
from mmret.benchmarks.common.pictures import Embedder
from mmret.benchmarks.common.protocol import Template, load_protocol
from mmret.benchmarks.common.runs import BenchmarkRun, RunOptions, Variant
from mmret.benchmarks.fashioniq import scorer as fashioniq
from mmret.errors import UserError


def run(embedder: Embedder, options: RunOptions) -> BenchmarkRun:
    """Run FashionIQ val, all categories that are annotated.

    ``options.images``: a folder with <ASIN>.jpg or .png files somewhere below it (images, resized_image, image).
    """
    categories = fashioniq.load(options.annotations)
    protocol = load_protocol("fashioniq", options.template)
    places = ("images", "resized_image", "image", *(f"images/{c}" for c in categories), *categories)
    folder = ImageFolder(options.images, places, (".jpg", ".png", ".jpeg"), anywhere=True)
    rankers: dict[str, Ranker] = {}
    partials, notes = [], []
    for name, category in categories.items():
        if any(q.target is None for q in category.queries):
            raise UserError(f"{category.path} has no targets: FashionIQ is scored on its validation split")
        if any(len(q.captions) != 2 for q in category.queries):
            raise UserError(f"{category.path}: every FashionIQ query has two captions, and both are needed")
        if category.gallery is None and options.gallery == "original":
            raise UserError(f"no split.{name}.val.json beside {category.path}: it lists the gallery")
        names = category.gallery if options.gallery == "original" else sorted(category.union)
        questions = [
            Question(i, q.reference, {"first": q.captions[0], "second": q.captions[1]}, (q.target,))
            for i, q in enumerate(category.queries)
        ]
        rankers[name], partial = prepare(embedder, {n: folder.find(n) for n in names or ()}, questions, protocol, options, False)
        partials += [f"{name}: {partial}"] if partial else []
    if options.gallery == "union":
        notes.append("gallery: references and targets only, not the original split; compare only with papers that say so")
    if missing := [c for c in fashioniq.CATEGORIES if c not in categories]:
        partials.append(f"PARTIAL: no annotations of {', '.join(missing)}; the mean is over {', '.join(categories)}")

    def variant(name: str, template: Template | None, image: bool) -> Variant:
        values: dict[str, Any] = {}
        lists = {}
        for category, ranker in rankers.items():
            rankings = ranker.rankings(ranker.vectors(template, image))
            lists[category] = [rankings.get(i, []) for i in range(len(categories[category].queries))]
            answered = [categories[category].queries[i] for i in rankings]
            values[category] = fashioniq.metrics(answered, list(rankings.values()))
        values["mean"] = fashioniq.average(values)
        return Variant(name, values, {"predictions.json": lists})

    return BenchmarkRun(
        "fashioniq",
        "val" if options.gallery == "original" else "val-union",
        protocol.label,
        embedder.model,
        sum(len(r.questions) for r in rankers.values()),
        sum(len(r.gallery.shots) for r in rankers.values()),
        tuple(variant(name, *way) for name, way in query_variants(protocol).items()),
        paraphrase_variants(variant, protocol, options, False),
        "; ".join(partials) or None,
        tuple(notes),
    )
