"""Runs a model on CIRCO: val is scored as by ``mmret score``, test gives the file for the closed server."""

from __future__ import annotations

from mmret.benchmarks.circo import scorer as circo
from mmret.benchmarks.circo.submission import circo_submission
from mmret.benchmarks.common.gallery import DEPTH, Question, paraphrase_variants, prepare, query_variants
from mmret.benchmarks.common.image_folder import ImageFolder
from mmret.benchmarks.common.pictures import Embedder
from mmret.benchmarks.common.protocol import Template, load_protocol
from mmret.benchmarks.common.runs import BenchmarkRun, RunOptions, Variant

CIRCO_GALLERY = 123_403


def run(embedder: Embedder, options: RunOptions) -> BenchmarkRun:
    """Run CIRCO val (scored) or test (submission file). ``options.images``: COCO2017_unlabeled, or a folder around or in it."""
    truth = circo.load(options.annotations)
    protocol = load_protocol("circo", options.template)
    folder = ImageFolder(options.images, ("unlabeled2017", "COCO2017_unlabeled/unlabeled2017"), anywhere=True)
    notes = []
    ids = truth.gallery or circo.read_gallery(options.images) or circo.read_gallery(options.images.parent)
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
        values = {} if truth.targets_hidden else circo.metrics(truth.queries, rankings)
        return Variant(name, values, {"predictions.json": {str(key): names for key, names in rankings.items()}})

    variants = tuple(variant(name, *way) for name, way in query_variants(protocol).items())
    submissions = {}
    if truth.targets_hidden and not partial and len(ids) >= DEPTH:
        submissions["circo_test.json"] = circo_submission(variants[0].predictions["predictions.json"], truth)
    return BenchmarkRun(
        "circo",
        "test" if truth.targets_hidden else "val",
        protocol.label,
        embedder.model,
        len(ranker.questions),
        len(ranker.gallery.shots),
        variants,
        paraphrase_variants(variant, protocol, options, truth.targets_hidden),
        partial,
        tuple(notes),
        submissions,
    )
