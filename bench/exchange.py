"""How two processes make one gradient: our own sum, torch's DDP, FSDP2. Seconds, bytes and memory of a step, alternating.

    python bench/exchange.py [--batch 32] [--chunk 8] [--rounds 8] [--width 256] [--layers 4]
    torchrun --nnodes 2 ... bench/exchange.py --device eth0      # on two machines, with the bytes of that network device

Two gloo processes on one thread each hold one CLIP three times, in each of the three ways, and take the same step in turn: forward
passes without a graph, exchange of features, the loss, forward and backward passes, exchange of gradients, AdamW. Equal losses are
asserted at every step. Bytes are what the network device sent (without ``--device`` the loopback's, which other programs use too).
``held_mib``: parameters, gradients and optimiser state of one process after a step.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import nn

from bench.train import NEGATIVES, RATE, SIDE, TEMPERATURE, rows, towers
from mmret.retriever.models.clip import ClipRetriever
from mmret.retriever.train.clip import ClipEmbedder
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.parallel import Group
from mmret.retriever.train.state import States
from mmret.retriever.train.trainer import Trainer
from mmret.settings import Recipe

WAYS = ("sum", "ddp", "fsdp")


def a_trainer(way: str, folder: Path, given: argparse.Namespace, group: Group) -> Trainer:
    recipe = Recipe(
        negatives="query+mined",
        mined_negatives=NEGATIVES - 1,
        batch_size=given.batch,
        chunk_size=given.chunk,
        steps=given.rounds + 2,
        learning_rate=RATE,
        temperature=TEMPERATURE,
        parallel=way,
    )
    data = TrainingSet(rows(given.batch), recipe)
    pixels = np.random.default_rng(0).integers(0, 256, (len(data.images), 3, SIDE, SIDE), dtype=np.uint8)
    embedder = ClipEmbedder(recipe, ClipRetriever.load(folder, group.device), group)
    embedder.rows = lambda numbers: torch.from_numpy(pixels[numbers])
    trainer = Trainer(recipe, data, embedder, States(folder / f"work-{way}-{group.rank}", "bench"), group)
    embedder.model.train()
    return trainer


def sent(device: str) -> int:
    return int(Path(f"/sys/class/net/{device}/statistics/tx_bytes").read_text())


def held(trainer: Trainer) -> float:
    """MiB of this process's parameters, gradients and optimiser state."""
    tensors = [t for p in trainer.embedder.model.parameters() for t in (p, p.grad) if t is not None]
    tensors += [t for part in trainer.optimizer.parts for of in part.state.values() for t in of.values() if torch.is_tensor(t)]
    return sum(getattr(t, "_local_tensor", t).nbytes for t in tensors) / 2**20


def measure(given: argparse.Namespace, group: Group) -> dict[str, Any]:
    """Medians over the rounds after two that warm up, and the ratios of each way's seconds to our sum's in the same round."""
    torch.set_num_threads(1)
    folder = Path(given.folder)
    trainers = {way: a_trainer(way, folder, given, group) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    moved: dict[str, list[int]] = {way: [] for way in WAYS}
    for number in range(given.rounds + 2):
        losses = {}
        for way in WAYS[number % 3 :] + WAYS[: number % 3]:
            trainer = trainers[way]
            batch = trainer.data.batch(number)
            read = trainer.embedder.read(batch)
            group.wait()
            before, start = sent(given.device), time.perf_counter()
            losses[way], _ = trainer.train_step(batch, read)
            group.wait()
            trainer.step += 1
            if number >= 2:
                seconds[way].append(time.perf_counter() - start)
                moved[way].append(sent(given.device) - before)
        assert all(abs(loss - losses["sum"]) <= 1e-3 * abs(losses["sum"]) for loss in losses.values()), losses
    return {
        "parameters_mib": round(sum(p.nbytes for p in whole(folder)) / 2**20, 1),
        "batch": given.batch,
        "chunk": given.chunk,
        "rounds": given.rounds,
        "seconds": {way: round(statistics.median(of), 3) for way, of in seconds.items()},
        "over_sum": {
            way: round(statistics.median(own / ours for own, ours in zip(of, seconds["sum"], strict=True)), 3)
            for way, of in seconds.items()
        },
        "sent_mib": {way: round(statistics.median(of) / 2**20, 1) for way, of in moved.items()},
        "held_mib": {way: round(held(trainer), 1) for way, trainer in trainers.items()},
    }


def whole(folder: Path) -> list[nn.Parameter]:
    return list(ClipRetriever.load(folder, "cpu").model.parameters())


def start_two(arguments: list[str], folder: Path) -> None:
    """This script in two processes of this machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, __file__, *arguments, "--folder", str(folder)]
    running = [subprocess.Popen(line, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
    if any([process.wait() for process in running]):
        sys.exit(1)


def gate() -> dict[str, float | list[float]]:
    """Figures for ``bench/gates.py``, of two steps of a small model: rounds of equal losses, and what FSDP2 holds over the sum."""
    line = [sys.executable, __file__, "--rounds", "2", "--batch", "8", "--chunk", "4", "--width", "64", "--layers", "2"]
    found = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    return {"equal_rounds": found["rounds"], "fsdp_held_over_sum": found["held_mib"]["fsdp"] / found["held_mib"]["sum"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--device", default="lo", help="network device whose bytes are counted")
    parser.add_argument("--folder", help="of the model; written by the first process where it is not there")
    given = parser.parse_args()
    if "WORLD_SIZE" not in os.environ:
        with tempfile.TemporaryDirectory() as scratch:
            start_two(sys.argv[1:], towers(Path(scratch) / "towers", given.width, given.layers))
        return
    with Group.join() as group:
        if group.first and not Path(given.folder, "config.json").is_file():
            towers(Path(given.folder), given.width, given.layers)
        group.wait()
        found = measure(given, group)
        if group.first:
            print(json.dumps(found))


if __name__ == "__main__":
    main()
