"""Training steps at the paper's sizes on one GPU: MMRet-CLIP base, and a LoRA step of an MLLM.

    python bench/gpu_train.py [clip|mllm] [--tiny] [--steps 5] [--peak-tflops 989]

``clip``: ViT-B/16, batch 2,048 x (1 query + 1 target + 4 hard negatives, the query image counted) at 224 px. ``mllm``: a model of
Qwen2-VL-2B's shape, batch 144 with 3 hard negatives at 512 px, LoRA of rank 32 on vision and language. Both in bfloat16 with
GradCache, by the project's own trainer; weights are random, for speed does not depend on them. Pictures lie in memory, decoded:
what is measured is the step. Reported: samples/s, seconds a step, peak memory, and floating-point operations per second as
counted by torch over a step of an eighth of the batch (both forward passes of GradCache included; they grow with the rows), as a
share of ``--peak-tflops`` (989: an H200's or H100's dense bfloat16 peak) where it runs on a GPU. Chunks that do not fit are halved.
``--tiny`` shrinks everything: the same code in seconds on a CPU. ``bench/gpu_all.py`` measures the same beside all else.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mmret.retriever.train.data import TrainingSet  # noqa: E402
from mmret.retriever.train.kinds import EMBEDDERS  # noqa: E402
from mmret.retriever.train.log import peak_memory  # noqa: E402
from mmret.retriever.train.parallel import SINGLE_PROCESS, Group  # noqa: E402
from mmret.retriever.train.state import States  # noqa: E402
from mmret.retriever.train.trainer import Trainer  # noqa: E402
from mmret.schemas import TRIPLETS  # noqa: E402
from mmret.settings import Recipe  # noqa: E402
from tests.retriever.mllm_folders import qwen2_vl_of  # noqa: E402

WORDS = ("make it green", "a thing that is different in way", "find a picture with more dots and a darker tone")


@dataclass(frozen=True)
class Size:
    """``negatives``: per query, the query image counted. ``side``: of the pictures, pixels. ``model``: writes the base folder."""

    batch: int
    negatives: int
    side: int
    model: Callable[[Path], None]
    recipe: dict[str, Any]


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def clip(folder: Path, width: int, layers: int, heads: int, text_width: int, side: int, patch: int) -> None:
    """A CLIP of OpenAI's shape with random weights, drawn on the GPU where there is one."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    words = CLIPTokenizer().train_new_from_iterator(WORDS * 3, vocab_size=600)
    ends = {f"{end}_token_id": getattr(words, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    shape = {"num_hidden_layers": layers, "projection_dim": text_width}
    config = CLIPConfig(
        text_config={
            **shape,
            **ends,
            "hidden_size": text_width,
            "intermediate_size": 4 * text_width,
            "vocab_size": 49_408,
            "num_attention_heads": text_width // 64,
            "max_position_embeddings": 77,
        },
        vision_config={
            **shape,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_attention_heads": heads,
            "image_size": side,
            "patch_size": patch,
        },
        projection_dim=text_width,
    )
    with torch.device(device()):
        model = CLIPModel(config)
    model.save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    CLIPProcessor(image_processor=pictures, tokenizer=words).save_pretrained(folder)


LANGUAGE_2B = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
LANGUAGE_TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 600,
}
LORA = {"kind": "mllm", "instruction": "find a picture", "lora": {"rank": 32}, "gradient_checkpointing": True}
SIZES = {
    ("clip", False): Size(2048, 4, 224, lambda f: clip(f, 768, 12, 12, 512, 224, 16), {}),
    ("clip", True): Size(16, 4, 32, lambda f: clip(f, 64, 2, 2, 64, 32, 16), {"chunk_size": 8}),
    ("mllm", False): Size(
        144,
        3,
        512,
        lambda f: qwen2_vl_of(f, LANGUAGE_2B, {"depth": 32, "embed_dim": 1280, "num_heads": 16}, 512, torch.bfloat16, device()),
        LORA,
    ),
    ("mllm", True): Size(
        4,
        3,
        56,
        lambda f: qwen2_vl_of(f, LANGUAGE_TINY, {"depth": 2, "embed_dim": 32, "num_heads": 2}, 56, torch.bfloat16, device()),
        {**LORA, "chunk_size": 4},
    ),
}


def rows(count: int, negatives: int) -> pa.Table:
    """``count`` triplets; no image occurs twice but the query image as its own hard negative."""
    per = negatives + 1
    names = [f"{i:032x}" for i in range(count * per)]
    empty = dict.fromkeys(TRIPLETS.names)
    return pa.Table.from_pylist(
        [
            {
                **empty,
                "pair_id": f"{n:032x}",
                "query_id": names[n * per],
                "target_id": names[n * per + 1],
                "texts": [f"{WORDS[n % 3]} {n}"],
                "hard_negatives": [names[n * per], *names[n * per + 2 : (n + 1) * per]],
                "signals": ["caption"],
                "split": "train",
            }
            for n in range(count)
        ],
        TRIPLETS,
    )


def picture(side: int) -> bytes:
    """A random picture of side x side pixels as a file; every image id stands for it: speed does not depend on what it shows."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


Step = Callable[[], tuple[float, float]]
"""A training step; returns the loss and the gradient's norm."""


class Steps:
    """Training steps of one model, in batches of any size, in ``group``. ``change``: fields of the recipe."""

    def __init__(self, kind: str, tiny: bool, work: Path, group: Group = SINGLE_PROCESS, **change: Any):
        self.size, self.work = SIZES[kind, tiny], work
        usual = {"batch_size": self.size.batch, "mined_negatives": self.size.negatives - 1, "steps": 10**6, "precision": "bfloat16"}
        self.recipe = Recipe.model_validate({"kind": kind, **usual, **self.size.recipe, **change})
        if not (work / "base").exists():
            self.size.model(work / "base")
        self.embedder = EMBEDDERS[kind].load(self.recipe, work / "base", group)
        self.chosen = tuple(self.embedder.chunks)
        self.images = 0
        self.preparing = 0.0
        if kind == "mllm":
            self.embedder.retriever.inputs = self._timed(self.embedder.retriever.inputs)

    def of(self, batch: int) -> Step:
        """A step of ``batch`` triplets whose pictures are read; the number of its pictures is in ``images``."""
        recipe = self.recipe.model_copy(update={"batch_size": batch})
        data = TrainingSet(rows(batch, self.size.negatives), recipe)
        trainer = Trainer(recipe, data, self.embedder, States(self.work / "states", "bench"))
        file = picture(self.size.side)
        self.embedder.open(data, lambda ids: dict.fromkeys(ids, file), self.work)
        self.embedder.model.train()
        first = data.batch(0)
        read, self.images = self.embedder.read(first), len(data.images)
        return lambda: self._fitting(lambda: trainer.train_step(first, read))

    def _fitting(self, step: Step) -> tuple[float, float]:
        """``step``, with chunks halved until it fits the memory."""
        while True:
            try:
                return step()
            except torch.OutOfMemoryError:
                if max(self.embedder.chunks) == 1:
                    raise
            gc.collect()  # outside of the handler, whose traceback holds the tensors of the step
            torch.cuda.empty_cache()
            self.embedder.chunks = tuple(max(1, size // 2) for size in self.embedder.chunks)

    def _timed(self, prepare: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            inputs = prepare(*arguments)
            self.preparing += time.perf_counter() - started
            return inputs

        return timed


def measure(
    kind: str,
    tiny: bool,
    steps: int,
    peak_tflops: float,
    batch: int | None = None,
    seconds: float = math.inf,
    folder: Path | None = None,
    **change: Any,
) -> dict[str, Any]:
    """Figures of up to ``steps`` steps, of less than ``batch`` (None: the paper's) where two would take longer than ``seconds``.

    ``folder``: where the model lies and is kept, or is put; ``change``: fields of the recipe."""
    until = time.perf_counter() + seconds
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as work:
        made = Steps(kind, tiny, folder or Path(work), **change)
        wanted = batch or made.size.batch
        small = max(2, wanted // 8)
        step = made.of(small)
        with FlopCounterMode(display=False) as counter:
            step()
        flops = counter.get_total_flops() / small
        estimate = spent(step) / small
        taken = next((b for b in (wanted, wanted // 2, wanted // 4) if 2.5 * b * estimate < until - time.perf_counter()), small)
        step = made.of(taken)
        times: list[float] = []  # the first is of chunks that may still be too large
        while len(times) < 2 or (len(times) <= steps and time.perf_counter() + times[-1] < until):
            made.preparing = 0.0
            times.append(spent(step))
    a_step = statistics.median(times[1:])
    return {
        "kind": kind,
        "tiny": tiny,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "batch": taken,
        "images": made.images,
        "chunks": list(made.embedder.chunks),
        "chunks_chosen": list(made.chosen),
        "steps": len(times) - 1,
        "seconds_per_step": round(a_step, 4),
        "seconds_preparing": round(made.preparing, 4),
        "samples_per_second": round(taken / a_step, 1),
        "peak_memory_gib": round(peak_memory() / 2**30, 2),
        "tflop_per_step": round(flops * taken / 1e12, 4),
        "tflops": round(flops * taken / a_step / 1e12, 2),
        "share_of_peak": round(flops * taken / a_step / (peak_tflops * 1e12), 3) if torch.cuda.is_available() else None,
    }


def spent(step: Step) -> float:
    """Seconds of a step, the GPU's work included."""
    wait()
    started = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - started


def gate() -> dict[str, float | list[float]]:
    """Pictures of a step at the paper's size of MMRet-CLIP, and the share of an H100's or H200's peak."""
    found = measure("clip", False, 5, 989.0)
    return {"images": found["images"], "share_of_peak": found["share_of_peak"]}


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="?", choices=["clip", "mllm"], help="default: both")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float, default=989.0)
    given = parser.parse_args()
    for each in [given.kind] if given.kind else ["clip", "mllm"]:
        print(json.dumps(measure(each, given.tiny, given.steps, given.peak_tflops)))
