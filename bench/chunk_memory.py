"""Memory of a training step against its estimate, over texts of any length: a budget of tokens a pass, and rows a pass.

    python bench/chunk_memory.py [--tokens 2048] [--rows 32] [--texts 256]

A text tower of 6 layers of width 128 over 248 tokens with random weights trains on batches whose texts are all short, all long,
or short but for one in twenty. The estimate (:mod:`mmret.retriever.train.chunk_memory`) is of four small passes of the tower,
before any step. Measured is the most that torch holds at once during a step's passes (its own count of allocations) over what it
held before. The peer is rows a pass, as many as short texts fill the budget with. ``--base FOLDER``: the estimate for a model of
yours.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmret.retriever.train.batch import Batch
from mmret.retriever.train.chunk_memory import step_memory
from mmret.retriever.train.clip import ClipEmbedder
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.kinds import EMBEDDERS
from mmret.retriever.train.parallel import SINGLE_PROCESS
from mmret.retriever.train.state import States
from mmret.retriever.train.trainer import Trainer
from mmret.settings import Recipe

CONTEXT, WIDTH, LAYERS = 248, 128, 6
WORDS = "red green blue larger smaller left right of a the with without hat square circle".split()
MIXES = {"short": 0.0, "mixed": 0.05, "long": 1.0}
"""Share of the texts that are long."""


def tower(folder: Path) -> Path:
    """A CLIP with a text tower of :data:`CONTEXT` tokens, and an image tower as small as can be."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer().train_new_from_iterator([" ".join(WORDS)] * 9, vocab_size=600)
    size = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    ends = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    text = {**size, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT}
    vision = {**small, "image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def batch_of(count: int, long: float) -> Batch:
    """``count`` different texts of 4 to 10 words, of which the share ``long`` has 200 to 240."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 11, count)
    if long:
        lengths[: max(1, round(long * count))] = rng.integers(200, 241, max(1, round(long * count)))
    texts = [" ".join(rng.choice(WORDS, length)) for length in rng.permutation(lengths)]
    return Batch(np.arange(count), texts, np.arange(count))


def most_allocated(call: Callable[[], Any]) -> int:
    """The most bytes that torch held at once during ``call()``, over what it held before."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(held.max(initial=0))


class Measured:
    """A trainer of the text tower alone."""

    def __init__(self, folder: Path, work: Path, **limits: int):
        recipe = Recipe(
            trainable="text",
            mined_negatives=0,
            negatives="none",
            batch_size=2,
            steps=10,
            temperature=0.1,
            keep_activations="never",
            **limits,
        )
        self.embedder = ClipEmbedder.load(recipe, folder)
        self.embedder.rows = lambda numbers: torch.zeros(len(numbers), self.embedder.retriever.dim)
        self.trainer = Trainer(recipe, _no_rows(recipe), self.embedder, States(work, "bench"))
        self.embedder.model.train()

    def step(self, batch: Batch) -> int:
        """Bytes that a step takes beside weights and optimiser state."""
        self.trainer.optimizer.zero_grad(set_to_none=True)
        read = self.embedder.read(batch)
        return most_allocated(lambda: self.trainer.backward(batch, read))

    def estimate(self, batch: Batch, tokens: int) -> int:
        """The same, as foreseen for a pass of ``tokens``."""
        memory = self.embedder.text_memory()
        longest = max(map(len, self.embedder.retriever.tokens(list(batch.texts))))
        features = 2 * len(batch.texts) * self.embedder.retriever.dim * 4
        return step_memory(self.trainer.parameters, memory, tokens, longest, features)


def _no_rows(recipe: Recipe) -> TrainingSet:
    made = object.__new__(TrainingSet)
    made.images = []
    return made


def compare(tokens: int, rows: int, texts: int, with_rows: tuple[str, ...] = tuple(MIXES)) -> dict[str, dict[str, float]]:
    """Of each mix of texts: the estimate in MiB, and what a step took over it with ``tokens`` a pass, and with ``rows`` a pass of
    those that are ``with_rows``."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        base = tower(Path(folder) / "base")
        by_tokens = Measured(base, Path(folder) / "a", chunk_tokens=tokens)
        by_rows = Measured(base, Path(folder) / "b", chunk_size=rows)
        for name, long in MIXES.items():
            batch = batch_of(texts, long)
            estimate = by_tokens.estimate(batch, tokens)
            found[name] = {
                "estimate": estimate / 2**20,
                "tokens": by_tokens.step(batch) / estimate,
            }
            if name in with_rows:
                found[name]["rows"] = by_rows.step(batch) / estimate
    return found


def gate() -> dict[str, float | list[float]]:
    found = compare(1024, 64, 128, with_rows=("mixed",))
    return {
        "mixes": len(found),
        "most_over_estimate": max(row["tokens"] for row in found.values()),
        "least_over_estimate": min(row["tokens"] for row in found.values()),
        "rows_over_estimate": found["mixed"]["rows"],
    }


def main(
    tokens: Annotated[int, typer.Option(help="of a pass, padding counted")] = 2048,
    rows: Annotated[int, typer.Option(help="of a pass of the peer's")] = 128,
    texts: int = 256,
    base: Annotated[Path | None, typer.Option(help="folder of a CLIP or an MLLM: the estimate alone")] = None,
    kind: Annotated[str, typer.Option(help="of the recipe for --base: clip or mllm")] = "clip",
) -> None:
    torch.set_num_threads(1)
    if base is not None:
        embedder = EMBEDDERS[kind].load(Recipe(kind=kind), base, SINGLE_PROCESS)
        memory = embedder.text_memory() if kind == "clip" else embedder.prompt_memory()
        print(
            f"{memory.fixed:,.0f} bytes, {memory.token:,.0f} a token, {memory.pair:,.1f} a token and token of the longest row",
            end="",
        )
        print(f", {memory.picture:,.0f} a picture" if memory.picture else "")
        return
    print(f"{'texts':8}{'estimate':>12}{f'{tokens} tokens':>16}{f'{rows} rows':>12}   of the estimate")
    for name, row in compare(tokens, rows, texts).items():
        print(f"{name:8}{row['estimate']:>8.1f} MiB{row['tokens']:>16.2f}{row['rows']:>12.2f}")


if __name__ == "__main__":
    typer.run(main)
