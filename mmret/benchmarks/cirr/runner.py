"""Runs a model on CIRR: val is scored as by ``mmret score``, test1 gives the two files for the closed server."""

from __future__ import annotations

from mmret.benchmarks.cirr import scorer as cirr
from mmret.benchmarks.cirr.submission import cirr_submission
from mmret.benchmarks.common.gallery import DEPTH, Question, paraphrase_variants, prepare, query_variants
from mmret.benchmarks.common.image_folder import ImageFolder
from mmret.benchmarks.common.pictures import Embedder
from mmret.benchmarks.common.protocol import Template, load_protocol
from mmret.benchmarks.common.runs import BenchmarkRun, RunOptions, Variant


def run(embedder: Embedder, options: RunOptions) -> BenchmarkRun:
    """Run CIRR val (scored) or test1 (the server's two files). ``options.images``: the folder with dev, test1 and train."""
    truth = cirr.load(options.annotations)
    protocol = load_protocol("cirr", options.template)
    folder = ImageFolder(options.images, ("img_raw", "images"), anywhere=True)
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
        values = {} if truth.targets_hidden else cirr.metrics(answered, rankings, subset)
        head = {"version": cirr.VERSION}
        return Variant(
            name,
            values,
            {
                "recall.json": head | {"metric": "recall"} | {str(k): v for k, v in rankings.items()},
                "recall_subset.json": head | {"metric": "recall_subset"} | {str(k): v for k, v in subset.items()},
            },
        )

    variants = tuple(variant(name, *way) for name, way in query_variants(protocol).items())
    submissions = {}
    if truth.targets_hidden and not partial and len(truth.gallery) > DEPTH:
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
        paraphrase_variants(variant, protocol, options, truth.targets_hidden),
        partial,
        (),
        submissions,
    )
