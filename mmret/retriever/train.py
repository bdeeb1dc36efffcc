"""The training loop: MMRet-CLIP from triplets, by one recipe.

A step embeds each distinct image and text of its batch once (the query image is also its own hard negative, a sixth
of the work), gathers queries and candidates from them and takes InfoNCE. What a step does depends on (recipe, step,
weights) alone and the state is kept every ``checkpoint_every`` steps, so a killed run continues to the same weights,
bit for bit on the CPU. Cost: :mod:`mmret.retriever.tower` says which part of the image tower a recipe pays for in
every step.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn.functional import normalize

from mmret.errors import UserError
from mmret.lake import digest_table, fingerprint
from mmret.progress import advance
from mmret.retriever.checkpoint import States, replace_folder, weights_digest
from mmret.retriever.clip import ClipRetriever
from mmret.retriever.data import Batch, TrainingSet
from mmret.retriever.gradcache import Part, cached_backward, fitting_chunk, rng_state, set_rng_state
from mmret.retriever.log import write_log
from mmret.retriever.loss import info_nce, masks
from mmret.retriever.tower import ImageTower, LoadImages, Pictures, frozen_features
from mmret.settings import Recipe

FACTS = "recipe.json"
"""In a checkpoint's folder: the resolved recipe, the digest of all it was trained from, and the facts of the run."""


def train(recipe: Recipe, triplets: pa.Table, load_images: LoadImages, base: Path, out: Path) -> dict[str, Any]:
    """Train ``base`` on ``triplets`` (schema TRIPLETS) and put the checkpoint into folder ``out``; returns the facts
    of the run.

    ``load_images`` gives the files of image ids. Work in progress lies in ``<out>.work`` until ``out`` stands; for a
    checkpoint that is there already its facts are returned. Facts: ``step, loss`` (mean of the last tenth), ``pairs``
    (training pairs seen), ``seconds, triplets, images, batch_size, samples_per_second, truncated_texts, notes`` (what
    a reader should know). Raises UserError where there is nothing to train on, an image is missing, or the loss is
    not finite or explodes.
    """
    settings = recipe.model_dump(exclude={"checkpoint_every", "log_every"})
    identity = fingerprint(settings, digest_table(triplets), weights_digest(base))
    if (out / FACTS).is_file():
        done = json.loads((out / FACTS).read_text())
        if done["identity"] == identity:
            return done["facts"]
    data = TrainingSet(triplets, recipe)
    work = out.with_name(f"{out.name}.work")
    trainer = Trainer(recipe, data, ClipRetriever.load(base), States(work, identity))
    with ThreadPoolExecutor(1) as pool:
        trainer.run(_source(trainer, load_images, work), pool)
    facts = trainer.facts()

    def fill(folder: Path) -> None:
        trainer.retriever.save(folder)
        write_log(trainer.log, folder)
        record = {"identity": identity, "recipe": recipe.model_dump(), "facts": facts}
        (folder / FACTS).write_text(json.dumps(record, indent=2, default=str) + "\n")

    replace_folder(out, fill)
    shutil.rmtree(work, ignore_errors=True)
    return facts


def _source(trainer: Trainer, load_images: LoadImages, work: Path) -> Callable[[np.ndarray], torch.Tensor]:
    """What gives the rows below the cut of the image tower by image number: from disk, or decoded in every step."""
    pictures = Pictures(trainer.retriever, trainer.data.images, load_images)
    if trainer.recipe.trainable == "all":
        return pictures
    total, steps = len(trainer.data.images), trainer.recipe.steps
    frozen = frozen_features(trainer.tower, pictures, work / "frozen.npy", lambda done: advance(
        "checkpoints", 0, steps, f"image features {done:,} of {total:,}"))
    return lambda numbers: torch.from_numpy(frozen[numbers])


class Trainer:
    """Model, optimiser and position of one run."""

    def __init__(self, recipe: Recipe, data: TrainingSet, retriever: ClipRetriever, states: States):
        self.recipe, self.data, self.retriever, self.states = recipe, data, retriever, states
        torch.manual_seed(recipe.seed)
        self.model = retriever.model
        self.tower = ImageTower(self.model, recipe)
        text = [*self.model.text_model.parameters(), *self.model.text_projection.parameters()]
        image = list(self.tower.parameters())
        self.model.requires_grad_(False)
        for parameter in [*text, *image]:
            parameter.requires_grad_(True)
        rates = ((text, recipe.text_learning_rate or recipe.learning_rate), (image, recipe.learning_rate))
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters, "peak": rate, "lr": rate} for parameters, rate in rates if parameters],
            weight_decay=recipe.weight_decay)
        self.chunks = fitting_chunk(self.model, recipe)
        self.step, self.seconds = 0, 0.0
        self.log: list[dict[str, float]] = []
        self.recent: list[tuple[float, float]] = []  # loss and gradient norm of the steps since the last row of the log

    def run(self, rows: Callable[[np.ndarray], torch.Tensor], pool: ThreadPoolExecutor) -> None:
        """Continue from the newest state and train to the last step; the rows of the next step are read in ``pool``
        meanwhile."""
        state = self.states.latest()
        if state is not None:
            self.restore(state)
        self.model.train()
        ahead: Future[tuple[Batch, torch.Tensor]] | None = None
        last = time.monotonic()

        def read(step: int) -> tuple[Batch, torch.Tensor]:
            batch = self.data.batch(step)
            return batch, rows(batch.images()[0])

        while self.step < self.recipe.steps:
            batch, frozen = ahead.result() if ahead is not None else read(self.step)
            ahead = pool.submit(read, self.step + 1) if self.step + 1 < self.recipe.steps else None
            loss, norm = self.train_step(batch, frozen)
            self.recent.append((loss, norm))
            self.step += 1
            self.seconds, last = self.seconds + time.monotonic() - last, time.monotonic()
            if self.step % self.recipe.log_every == 0 or self.step == self.recipe.steps:
                self.write_row()
            if self.step % self.recipe.checkpoint_every == 0 and self.step < self.recipe.steps:
                self.states.save(self.step, self.state())
            advance("checkpoints", self.step, self.recipe.steps, f"loss {loss:.3f}")
        self.model.eval()

    def train_step(self, batch: Batch, frozen: torch.Tensor) -> tuple[float, float]:
        """One update; ``frozen`` (u, ...) belongs to the batch's distinct images. Returns the loss and the gradient's
        norm."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.decay(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(batch, frozen)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.recipe.max_grad_norm or math.inf)
        loss, norm = float(loss), float(norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise UserError(self.advice(f"is {loss} and the gradient's norm {norm}"))
        self.optimizer.step()
        return loss, norm

    def backward(self, batch: Batch, frozen: torch.Tensor) -> torch.Tensor:
        """Accumulate the gradient of the batch's loss, chunk by chunk; returns the loss."""
        _, query, candidate = batch.images()
        texts, text = batch.distinct_texts()
        query, candidate, text = (torch.from_numpy(i).to(self.model.device) for i in (query, candidate, text))
        positives, ignored = (m.to(self.model.device) for m in masks(
            batch.targets, batch.candidates, mask_false_negatives=self.recipe.mask_false_negatives))

        def loss_of(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
            # index_select, because its backward pass on the CPU adds in a fixed order; that of images[query] does not
            composed = images.index_select(0, query) + texts.index_select(0, text)
            return info_nce(normalize(composed, dim=-1), normalize(images.index_select(0, candidate), dim=-1),
                            positives, ignored, self.recipe.temperature)

        image_chunk, text_chunk = self.chunks
        text_chunks = [texts[i:i + text_chunk] for i in range(0, len(texts), text_chunk)]
        return cached_backward([Part(self.tower.features, frozen.split(image_chunk)),
                                Part(self.retriever.text_features, text_chunks)], loss_of)

    def decay(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero (paper, section 4)."""
        warmup, steps = self.recipe.warmup_steps, self.recipe.steps
        return (step + 1) / warmup if step < warmup else (steps - step) / max(1, steps - warmup)

    def write_row(self) -> None:
        """Add what happened since the last row to the log; raises UserError where the loss has left for good."""
        losses, norms = zip(*self.recent, strict=True)
        before = self.log[-1]["seconds"] if self.log else 0.0
        self.log.append({
            "step": self.step, "loss": sum(losses) / len(losses), "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": sum(norms) / len(norms), "seconds": self.seconds,
            "samples_per_second": len(losses) * self.data.batch_size / max(1e-9, self.seconds - before)})
        self.recent = []
        lowest, now = min(row["loss"] for row in self.log), self.log[-1]["loss"]
        if now > 2 * lowest + 1:
            raise UserError(self.advice(f"has risen from {lowest:.2f} to {now:.2f}"))

    def advice(self, what: str) -> str:
        rate, temperature = self.recipe.learning_rate, self.recipe.temperature
        return (f"training stopped at step {self.step}: the loss {what}. Lower the recipe's learning_rate "
                f"(now {rate:g}), give it warmup_steps, or raise temperature (now {temperature:g})")

    def state(self) -> dict[str, Any]:
        """All the next step depends on that is not a function of its number."""
        trained = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        return {"step": self.step, "trained": trained, "optimizer": self.optimizer.state_dict(), "rng": rng_state(),
                "chunks": list(self.chunks), "log": self.log, "recent": [list(r) for r in self.recent],
                "seconds": self.seconds, "truncated": self.retriever.truncated}

    def restore(self, state: dict[str, Any]) -> None:
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in state["trained"].items():
                parameters[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        set_rng_state(state["rng"])
        self.step, self.seconds, self.chunks = state["step"], state["seconds"], tuple(state["chunks"])
        self.log, self.recent = state["log"], [tuple(r) for r in state["recent"]]
        self.retriever.truncated = state["truncated"]

    def facts(self) -> dict[str, Any]:
        last = self.log[-max(1, len(self.log) // 10):]
        seen, size, notes = self.step * self.data.batch_size, self.data.batch_size, []
        if size < self.recipe.batch_size:
            notes.append(f"only {len(self.data)} triplets: the batch is {size}, not {self.recipe.batch_size}")
        if self.retriever.truncated:
            notes.append(f"{self.retriever.truncated} texts were longer than the text tower's limit and were cut")
        return {
            "step": self.step, "loss": sum(row["loss"] for row in last) / len(last), "pairs": seen,
            "seconds": round(self.seconds, 3), "triplets": len(self.data), "images": len(self.data.images),
            "batch_size": size, "trainable": self.recipe.trainable,
            "samples_per_second": round(seen / max(1e-9, self.seconds), 1),
            "truncated_texts": self.retriever.truncated, "notes": notes}
