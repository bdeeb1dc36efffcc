"""Section 3.3 of the paper in plain Python: train a retriever on the triplets by InfoNCE with hard negatives, and measure it.

    python examples/train.py --work work

Reads what ``mine.py`` and ``annotate.py`` wrote and writes the checkpoint to ``work/checkpoint``. Measured is composed retrieval
from all pictures, before and after: on the built-in corpus by edits whose every right answer is known, elsewhere by the held-out
triplets.
"""

import argparse
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmret.benchmarks.composed import evaluate_composed
from mmret.benchmarks.edits import edits
from mmret.errors import UserError
from mmret.retriever.models.load import Retriever, query_options
from mmret.retriever.train.loop import train
from mmret.settings import load_profile, parse_override

KS = (1, 5, 10, 50)


def questions(images: pa.Table, triplets: pa.Table) -> list[tuple[str, str, set[str]]]:
    """(reference id, what should change, ids of all that are right), none of them trained on."""
    attributes = [json.loads(extra or "{}") for extra in images["extra"].to_pylist()]
    made = edits(list(zip(images["image_id"].to_pylist(), attributes, strict=True)), 1000)
    held_out = triplets.filter(pc.equal(triplets["split"], "test")).to_pylist()
    return [(e["reference"], e["text"], set(e["targets"])) for e in made] or [
        (row["query_id"], row["texts"][0], {row["target_id"]}) for row in held_out
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("work"), help="the folder that annotate.py wrote")
    parser.add_argument("--profile", default="demo", help="where the recipe stands")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for example recipes.demo.steps=100")
    options = parser.parse_args(arguments)
    recipe = load_profile(options.profile, dict(map(parse_override, options.set))).recipes[options.recipe]
    images, triplets = (pq.read_table(options.work / f"{name}.parquet") for name in ("images", "triplets"))
    files = dict(zip(images["image_id"].to_pylist(), images["data"].to_pylist(), strict=True))

    def load_images(ids: list[str]) -> dict[str, bytes]:
        return {image_id: files[image_id] for image_id in ids}

    towers = options.work / recipe.base
    base, trained = (towers if towers.is_dir() else recipe.base), options.work / "checkpoint"
    facts = train(recipe, triplets, load_images, base, trained)
    print(f"{facts['step']} steps over {facts['triplets']} triplets, loss {facts['loss']:.3f}, {facts['seconds']:.0f} s: {trained}")

    asked = questions(images, triplets)
    if not asked:
        return print("nothing to measure: no triplet is held out (annotate.py --held-out 0.2)")
    print(f"{len(asked)} questions over {len(files)} pictures, percent found among the first {', '.join(map(str, KS))}")
    for name, folder in (("untrained", base), ("trained", trained)):
        retriever = Retriever.load(folder)
        gallery = retriever.encode(images=list(files.values()))
        found = evaluate_composed(retriever, list(files), gallery, asked, load_images, KS, **query_options(folder))
        print(f"  {name:9}", *(f"{found[f'R@{k}']:6.1f}" for k in KS))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
