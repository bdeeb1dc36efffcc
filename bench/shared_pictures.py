"""(Picture, text) pairs a second of an MLLM where a picture is computed once for all texts of a triplet.

    python bench/shared_pictures.py [--rounds 5]

The project's own trainer, batches of 24 queries, three texts a triplet, three hard negatives, adapters on two MLLMs of one size,
whose prompts have the text before the picture (the paper's, which shares the vision tower alone) and behind it (a chat template,
which shares all that the language model reads of a picture). Pictures have 64 tokens of the language model. Over two others: one
text a visit (``one``), and all texts with a prompt and a picture each (``separate``). The steps take turns; a ratio is of the
processor time of one query, of one round. Two texts of three do not bring a target and negatives of their own, which is the larger
part of what is won over ``one``.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
import typer
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmret.retriever.models.asked import Asked
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.mllm import MllmEmbedder
from mmret.retriever.train.parallel import SINGLE_PROCESS
from mmret.retriever.train.state import States
from mmret.retriever.train.trainer import Trainer
from mmret.schemas import TRIPLETS
from mmret.settings import Recipe
from tests.retriever.asked_folders import TEMPLATE
from tests.retriever.mllm_folders import qwen2_vl_of

QUERIES, SIDE = 24, 256
WORDS = "red green blue larger smaller left right of a the with without hat square circle".split()


def mllm(folder: Path, behind: bool) -> Path:
    """A Qwen2-VL of two layers of width 192, 64 tokens a picture; ``behind``: its prompts have the text behind the picture."""
    language = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 3, "num_key_value_heads": 3}
    torch.manual_seed(0)
    qwen2_vl_of(folder, language | heads, {"depth": 1, "embed_dim": 64, "num_heads": 2, "mlp_ratio": 2}, 8 * 28)
    if behind:
        Asked(TEMPLATE, query="find it", max_pixels=(8 * 28) ** 2).save(folder)
    return folder


def triplets() -> pa.Table:
    rng = np.random.default_rng(0)
    names = [f"{n:032x}" for n in range(5 * QUERIES)]
    empty = dict.fromkeys(TRIPLETS.names)
    return pa.Table.from_pylist(
        [
            {
                **empty,
                "pair_id": f"{n:032x}",
                "query_id": own[0],
                "target_id": own[1],
                "texts": [" ".join(rng.choice(WORDS, 8)) for _ in range(3)],
                "hard_negatives": own[2:],
                "signals": ["caption"],
                "split": "train",
            }
            for n in range(QUERIES)
            for own in [names[5 * n : 5 * n + 5]]
        ],
        TRIPLETS,
    )


def picture(name: str) -> bytes:
    pixels = np.random.default_rng(int(name, 16)).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Steps:
    """Steps of one recipe, one after the other."""

    def __init__(self, base: Path, work: Path, texts: str, shared: bool = True):
        recipe = Recipe(
            kind="mllm",
            texts_at_once=texts,
            batch_size=QUERIES,
            chunk_size=QUERIES,
            steps=10**6,
            learning_rate=1e-4,
            temperature=0.05,
            lora={"rank": 4},
            instruction="find it",
        )
        self.data = TrainingSet(triplets(), recipe)
        embedder = MllmEmbedder.load(recipe, base, SINGLE_PROCESS)
        files = {name: picture(name) for name in self.data.images.to_pylist()}
        embedder.open(self.data, lambda names: {name: files[name] for name in names}, work)
        if not shared:
            embedder.shared.repeated = lambda pictures: False
        self.trainer = Trainer(recipe, self.data, embedder, States(work, "bench"))
        embedder.model.train()

    def seconds_a_query(self) -> float:
        """Processor seconds of a step, over its queries; pictures are read and resized outside the clock where they can be."""
        batch = self.data.batch(self.trainer.step)
        read = self.trainer.embedder.read(batch)
        began = time.process_time()
        self.trainer.train_step(batch, read)
        self.trainer.step += 1
        return (time.process_time() - began) / len(batch.queries)


def compare(rounds: int) -> dict[str, list[float]]:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bases = {"before_picture": mllm(root / "before", False), "behind_picture": mllm(root / "behind", True)}
        for name, base in bases.items():
            arms = {
                "at_once": Steps(base, root / f"{name}-a", "triplet"),
                "one": Steps(base, root / f"{name}-b", "one"),
                "separate": Steps(base, root / f"{name}-c", "triplet", shared=False),
            }
            for arm in arms.values():
                arm.seconds_a_query()
            times = [{arm: steps.seconds_a_query() for arm, steps in arms.items()} for _ in range(rounds)]
            for arm, ratio in (("one", f"{name}_over_one_processor"), ("separate", f"{name}_over_separate_processor")):
                found[ratio] = [round_[arm] / round_["at_once"] for round_ in times]
    return found


def gate() -> dict[str, float | list[float]]:
    return {"queries": QUERIES, **compare(5)}


def main(rounds: Annotated[int, typer.Option(help="steps of each, in turns")] = 5) -> None:
    torch.set_num_threads(1)
    for name, ratios in compare(rounds).items():
        print(f"{name:45}{np.median(ratios):6.2f}   {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    typer.run(main)
