"""Section 3.2 of the paper in plain Python: describe what two pictures share and where they differ, then instruct from that.

    python examples/annotate.py --work work
    python examples/annotate.py --work work --server Qwen/Qwen3-VL-8B-Instruct http://localhost:8000/v1

The first works the texts out from the captions and needs no model; the second asks a vision-language model behind any server that
speaks OpenAI's protocol (vLLM, SGLang, llama.cpp, a provider). Every answer is stored, so a second run asks nothing again.
Reads what ``mine.py`` wrote; writes ``descriptions.parquet``, ``instructions.parquet`` and the training set, ``triplets.parquet``.
"""

import argparse
from pathlib import Path

import pyarrow.parquet as pq

from mmret.annotate.backends.load import load_annotators
from mmret.annotate.describe import describe
from mmret.annotate.instruct import instruct
from mmret.annotate.store import AnswerStore
from mmret.assemble.triplets import assemble
from mmret.errors import UserError
from mmret.settings import AnnotateSettings, EngineSettings, EvaluateSettings


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("work"), help="the folder that mine.py wrote")
    parser.add_argument("--server", nargs=2, metavar=("MODEL", "URL"), help="ask this model; without it: from the captions")
    parser.add_argument("--held-out", type=float, default=0.1, help="share of query pictures whose triplets are kept for measuring")
    options = parser.parse_args(arguments)
    images, pairs = (pq.read_table(options.work / f"{name}.parquet") for name in ("images", "pairs"))
    captions = dict(zip(images["image_id"].to_pylist(), images["caption"].to_pylist(), strict=True))
    files = dict(zip(images["image_id"].to_pylist(), images["data"].to_pylist(), strict=True))

    settings = AnnotateSettings()
    if options.server:
        model, url = options.server
        settings = AnnotateSettings(backend="openai", vision=EngineSettings(model=model, urls=(url,)))
    annotators = load_annotators(settings)
    for annotator in annotators.values():
        annotator.load_images = lambda ids: {image_id: files[image_id] for image_id in ids if image_id in files}
    store = AnswerStore(options.work)

    # the vision model's step, then the language model's
    descriptions = describe(pairs, captions, annotators["descriptions"], settings, store)
    instructions = instruct(descriptions, pairs, captions, annotators["instructions"], settings, store)

    # (image, instruction, target image) with hard negatives, the query picture first among them
    triplets, left_out = assemble(pairs, descriptions, instructions, images, EvaluateSettings(held_out=options.held_out))
    for name, table in (("descriptions", descriptions), ("instructions", instructions), ("triplets", triplets)):
        pq.write_table(table, options.work / f"{name}.parquet")
    print(f"{pairs.num_rows} pairs, {triplets.num_rows} triplets in {options.work}; without texts: {left_out or 'none'}")
    for row in triplets.slice(0, 3).to_pylist():
        print(f"  {row['query_path']} + “{row['texts'][0]}” → {row['target_path']}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
