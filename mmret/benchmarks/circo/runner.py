"""Runners of the benchmarks with one gallery for all queries: CIRCO, CIRR, FashionIQ.

Scored by the same functions as ``mmret score``; the closed test servers' files come out where a test split is given.
"""

from __future__ import annotations

from typing import Any

from mmret.benchmarks.circo import scorer as circo
from mmret.benchmarks.circo.submission import circo_submission, cirr_submission
from mmret.benchmarks.cirr import scorer as cirr
from mmret.benchmarks.common.gallery import DEPTH, Question, Ranker, paraphrased, prepare, ways
from mmret.benchmarks.common.pictures import Embedder, ImageFolder
from mmret.benchmarks.common.protocol import Template, load_protocol
from mmret.benchmarks.common.runs import BenchmarkRun, RunOptions, Variant
from mmret.benchmarks.fashioniq import scorer as fashioniq
from mmret.errors import UserError

CIRCO_GALLERY = 123_403


def run_circo(embedder: Embedder, options: RunOptions) -> BenchmarkRun:
    """CIRCO val (scored) or test (submission file). ``options.images``: COCO2017_unlabeled, or the folder of its
    pictures.
    """
    truth = circo.load(options.annotations)
    protocol = load_protocol("circo", options.template)
    folder = ImageFolder(options.images, ("unlabeled2017", "COCO2017_unlabeled/unlabeled2017"))
    notes = []
    ids = truth.gallery or circo.gallery_beside(options.images)
    if ids is None:
        ids = tuple(sorted({int(p.stem) for base in folder.bases for p in base.glob("*.jpg") if p.stem.isdecimal()}))
        notes.append(f"no {circo.INFO} was found: the gallery is the {len(ids)} pictures that are there")
    if len(ids) != CIRCO_GALLERY:
        notes.append(f"gallery of {len(ids)} images, not CIRCO's {CIRCO_GALLERY}: not comparable with published numbers")
    questions = [
        Question(
            q.id,
            q.reference,
            {"shared_concept": q.shared_concept, "relative_caption": q.relative_caption},
            q.ground_truths,
        )
        for q in truth.queries
    ]
    ranker, partial = prepare(embedder, {i: folder.find(f"{i:012d}.jpg") for i in ids}, questions, protocol, options, False)

    def variant(name: str, template: Template | None, image: bool) -> Variant:
        rankings = ranker.rankings(ranker.vectors(template, image))
        values = {} if truth.hidden else circo.metrics(truth.queries, rankings)
        return Variant(name, values, {"predictions.json": {str(key): names for key, names in rankings.items()}})

    variants = tuple(variant(name, *way) for name, way in ways(protocol).items())
    submissions = {}
    if truth.hidden and not partial and len(ids) >= DEPTH:
        submissions["circo_test.json"] = circo_submission(variants[0].predictions["predictions.json"], truth)
    return BenchmarkRun(
        "circo",
        "test" if truth.hidden else "val",
        protocol.label,
        embedder.model,
        len(ranker.questions),
        len(ranker.gallery.shots),
        variants,
        paraphrased(variant, protocol, options, truth.hidden),
        partial,
        tuple(notes),
        submissions,
    )


def run_cirr(embedder: Embedder, options: RunOptions) -> BenchmarkRun:
    """CIRR val (scored) or test1 (the server's two files). ``options.images``: the folder with dev, test1 and train."""
    truth = cirr.load(options.annotations)
    protocol = load_protocol("cirr", options.template)
    folder = ImageFolder(options.images, ("img_raw",))
    paths = {
        name: folder.find((path or f"./{name.split('-')[0]}/{name}.png").removeprefix("./")) for name, path in truth.gallery.items()
    }
    questions = [Question(q.id, q.reference, {"caption": q.caption}, (q.target,) if q.target else ()) for q in truth.queries]
    ranker, partial = prepare(embedder, paths, questions, protocol, options, remove_reference=True)
    by_id = {q.id: q for q in truth.queries}
    answered = [by_id[q.key] for q in ranker.questions]

    def variant(name: str, template: Template | None, image: bool) -> Variant:
        vectors = ranker.vectors(template, image)
        rankings = ranker.rankings(vectors)
        subset = ranker.rankings_within(vectors, [q.members for q in answered], cirr.SUBSET_DEPTH)
        values = {} if truth.hidden else cirr.metrics(answered, rankings, subset)
        head = {"version": cirr.VERSION}
        return Variant(
            name,
            values,
            {
                "recall.json": head | {"metric": "recall"} | {str(k): v for k, v in rankings.items()},
                "recall_subset.json": head | {"metric": "recall_subset"} | {str(k): v for k, v in subset.items()},
            },
        )

    variants = tuple(variant(name, *way) for name, way in ways(protocol).items())
    submissions = {}
    if truth.hidden and not partial and len(truth.gallery) > DEPTH:
        for metric in cirr.METRICS:
            submissions[f"cirr_test1_{metric}.json"] = cirr_submission(variants[0].predictions[f"{metric}.json"], metric, truth)
    split = truth.path.name.split(".")[2]
    return BenchmarkRun(
        "cirr",
        split,
        protocol.label,
        embedder.model,
        len(answered),
        len(ranker.gallery.shots),
        variants,
        paraphrased(variant, protocol, options, truth.hidden),
        partial,
        (),
        submissions,
    )


def run_fashioniq(embedder: Embedder, options: RunOptions) -> BenchmarkRun:
    """FashionIQ val, all categories that are annotated. ``options.images``: a folder of <ASIN>.jpg or .png, maybe in
    images/.
    """
    categories = fashioniq.load(options.annotations)
    protocol = load_protocol("fashioniq", options.template)
    folder = ImageFolder(options.images, ("images", *(f"images/{c}" for c in categories), *categories), (".jpg", ".png", ".jpeg"))
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
        tuple(variant(name, *way) for name, way in ways(protocol).items()),
        paraphrased(variant, protocol, options, False),
        "; ".join(partials) or None,
        tuple(notes),
    )
