"""Model, optimiser and position of one training run, and what a step is. Cost: the embedder's forward and backward passes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

import pyarrow as pa
import torch

from mmret.errors import UserError
from mmret.optimizer import Muon, Optimizers
from mmret.progress import advance
from mmret.retriever.train.averaging import Average
from mmret.retriever.train.data import Batch, TrainingSet
from mmret.retriever.train.distillation import Lesson, TeacherScores
from mmret.retriever.train.embedder import Embedder
from mmret.retriever.train.exchange import exchange_of, restore_optimizer
from mmret.retriever.train.gradcache import cached_backward, rng_state, set_rng_state
from mmret.retriever.train.held_out import HeldOut
from mmret.retriever.train.kept_graphs import KeptGraphs, room_for
from mmret.retriever.train.log import EVENTS, Events, peak_memory
from mmret.retriever.train.objective import Objective
from mmret.retriever.train.parallel import SINGLE_PROCESS, Group
from mmret.retriever.train.part import Part
from mmret.retriever.train.state import States
from mmret.retriever.train.tower import LoadImages
from mmret.settings import Recipe
from mmret.tasks import COMPOSED

SETTLED = 10
"""Rows of the log over which a task's loss is averaged before it is said to have risen."""
OnRow = Callable[[dict[str, Any]], None]
"""Called with each row of the log (columns of :data:`mmret.retriever.train.log.SCHEMA`) as it is written."""


class Trainer:
    """``run`` trains from the newest state to the last step. The first process of ``group`` writes states and log.

    Raises UserError where the loss is not finite or rises far above its lowest value, and at once where the recipe's matryoshka
    has dimensions that the model's vectors have not.
    """

    def __init__(self, recipe: Recipe, data: TrainingSet, embedder: Embedder, states: States, group: Group = SINGLE_PROCESS):
        self.recipe, self.data, self.embedder, self.states, self.group = recipe, data, embedder, states, group
        check_dimensions(recipe, embedder)
        self.exchange = exchange_of(recipe.parallel, group, embedder)
        if group.size > 1:  # which a resumed run would otherwise find anew
            embedder.chunks = tuple(map(min, zip(*group.all_values(embedder.chunks), strict=True)))
        self.held_out: HeldOut | None = None
        self.on_row: OnRow | None = None
        self.teacher: TeacherScores | None = None
        torch.manual_seed(recipe.seed + group.rank)
        self.optimizer = _optimizer(recipe, embedder)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.average = Average(recipe, embedder.model, self.exchange)
        self.kept = KeptGraphs(None, list(embedder.model.parameters()) if self.exchange.keeps_graphs else [])
        self.step, self.seconds = 0, 0.0
        self.log: list[dict[str, Any]] = []
        self.recent: list[tuple[float, float]] = []  # loss and gradient norm of the steps since the last row of the log
        self.figures: dict[str, list[float]] = {}  # what else there is of them, by column of the log

    def run(self, pool: ThreadPoolExecutor) -> None:
        """Continue from the newest state and train to the last step; the next step's pictures are read in ``pool``
        meanwhile."""
        state = self.newest_state()
        if state is not None:
            self.restore(state)
        events = Events(self.states.folder / EVENTS, self.step) if self.group.first else None
        self.embedder.model.train()
        ahead: Future[tuple[Batch, Any]] | None = None
        last = time.monotonic()

        def read(step: int) -> tuple[Batch, Any]:
            batch = self.data.batch(step)
            return batch, self.embedder.read(batch)

        while self.step < self.recipe.steps:
            batch, rows = ahead.result() if ahead is not None else read(self.step)
            ahead = pool.submit(read, self.step + 1) if self.step + 1 < self.recipe.steps else None
            self.recent.append(self.train_step(batch, rows))
            self.step += 1
            self.average.take(self.step)
            self.seconds, last = self.seconds + time.monotonic() - last, time.monotonic()
            if self.is_due(self.recipe.log_every) or self.is_due(self.recipe.evaluate_every):
                self.write_row(events)
                last = time.monotonic()  # measuring is not training
            if self.step % self.recipe.checkpoint_every == 0 and self.step < self.recipe.steps:
                self.save_state()
            advance("checkpoints", self.step, self.recipe.steps, f"loss {self.recent_loss():.3f}")
        self.average.install()
        self.embedder.model.eval()
        if events:
            events.close()

    def newest_state(self) -> dict[str, Any] | None:
        """That which the first process finds, in every process."""
        state = self.states.latest() if self.group.first else None
        step = self.group.all_values(state and state["step"])[0]
        return state if state is not None or step is None else self.states.at(step)

    def is_due(self, every: int | None) -> bool:
        """Whether something done ``every`` so many steps, and at the last one, is due now."""
        return every is not None and (self.step % every == 0 or self.step == self.recipe.steps)

    def recent_loss(self) -> float:
        return self.recent[-1][0] if self.recent else self.log[-1]["loss"]

    def train_step(self, batch: Batch, rows: Any) -> tuple[float, float]:
        """One update from what was read of the batch. Returns the loss and the gradient's norm."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.decay(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(batch, rows)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.max_grad_norm or math.inf)
        norm = self.exchange.norm(norm)
        loss, norm = float(loss), float(norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise UserError(self.advice(f"is {loss} and the gradient's norm {norm}"))
        self.optimizer.step()
        return loss, norm

    def backward(self, batch: Batch, rows: Any) -> torch.Tensor:
        """Accumulate the gradient of the batch's loss, that of all processes together; returns the loss."""
        parts, gather = self.embedder.parts(batch, rows)
        parts = [replace(part, encode=self.in_precision(part.encode)) for part in parts]
        own = self.group.share(len(batch.queries))
        lesson = None
        if self.teacher is not None:
            lesson = self.teacher.lesson(batch, self.data.images)
            lesson = Lesson(lesson.places[own], lesson.scores[own])
        objective = Objective(self.recipe, batch, own, self.parameters[0].device, lesson)
        loss = self.cached_backward(parts, lambda *features: objective(*gather(*features)))
        self.group.sum([loss, *objective.counts.values()])
        for name, figure in objective.figures().items():
            self.figures.setdefault(name, []).append(figure)
        self.exchange.sum_gradients(self.parameters)
        return loss

    def cached_backward(self, parts: Sequence[Part], loss_of: Callable[..., torch.Tensor]) -> torch.Tensor:
        """See :func:`mmret.retriever.train.gradcache.cached_backward`; how much may be kept is found before the first step. All
        processes take part."""
        if self.kept.room is None:
            states = [of for part in self.optimizer.parts for of in part.state.values()]
            state = [value for of in states for value in of.values() if torch.is_tensor(value)]
            self.kept.room = room_for(self.recipe.keep_activations, self.exchange, self.parameters, state)
        first = not self.kept.passes
        loss = cached_backward(parts, loss_of, self.exchange, self.kept)
        if first and (said := self.kept.says()):
            advance("checkpoints", self.step, self.recipe.steps, said)
        return loss

    @staticmethod
    def held_out_of(triplets: pa.Table, recipe: Recipe, load_images: LoadImages) -> HeldOut:
        """What :attr:`held_out` measures."""
        return HeldOut(triplets, recipe, load_images)

    def in_precision(self, encode: Callable[[Any], torch.Tensor]) -> Callable[[Any], torch.Tensor]:
        """``encode`` with its products in the recipe's precision; features are float32 at least."""
        if self.recipe.precision == "float32":
            return encode
        device = self.parameters[0].device.type

        def encode_mixed(chunk: Any) -> torch.Tensor:
            with torch.autocast(device, getattr(torch, self.recipe.precision)):
                return encode(chunk).float()

        return encode_mixed

    def decay(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero (paper, section 4)."""
        warmup, steps = self.recipe.warmup_steps, self.recipe.steps
        return (step + 1) / warmup if step < warmup else (steps - step) / max(1, steps - warmup)

    def write_row(self, events: Events | None) -> None:
        """Add what happened since the last row to the log; raises UserError where the loss has left for good."""
        losses, norms = zip(*self.recent, strict=True)
        before = self.log[-1]["seconds"] if self.log else 0.0
        row = {
            "step": self.step,
            "loss": sum(losses) / len(losses),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": sum(norms) / len(norms),
            "seconds": self.seconds,
            "memory_bytes": peak_memory(),
            "samples_per_second": self.seen(self.step - len(losses)) / max(1e-9, self.seconds - before),
            **self.losses_by_task(losses),
            **{name: sum(figures) / len(figures) for name, figures in self.figures.items()},
        }
        if self.held_out is not None and self.is_due(self.recipe.evaluate_every):
            with self.average.installed():
                row |= self.exchange.inference(partial(self.held_out.measure, self.embedder))
        self.log.append(row)
        self.recent, self.figures = [], {}
        if events:
            events.write(row)
            if self.on_row:
                self.on_row(row)
        # tasks differ in their losses, and a row of the log may have one step of a task, which says little by itself
        for column in [name for name in row if name.startswith("loss_")] or ["loss"]:
            found = _settled([earlier[column] for earlier in self.log if column in earlier], 1 if column == "loss" else SETTLED)
            if found and found[-1] > 2 * min(found) + 1:
                of_task = column.replace("loss_", "of ") + " " if column != "loss" else ""
                raise UserError(self.advice(f"{of_task}has risen from {min(found):.2f} to {found[-1]:.2f}"))

    def seen(self, since: int = 0) -> int:
        """Queries that the steps from ``since`` to now have shown."""
        return sum(self.data.seen(self.step).values()) - sum(self.data.seen(since).values())

    def losses_by_task(self, losses: Sequence[float]) -> dict[str, float]:
        """Means of ``losses``, those of the last steps, by task: columns of the log. None where there is one task, or batches of
        several."""
        by_task: dict[str, list[float]] = {}
        for step, loss in enumerate(losses, self.step - len(losses)):
            if len(self.data.tasks) > 1 and (task := self.data.task_of(step)):
                by_task.setdefault(f"loss_{task}", []).append(loss)
        return {name: sum(part) / len(part) for name, part in by_task.items()}

    def advice(self, what: str) -> str:
        rate, temperature, matrices = self.recipe.learning_rate, self.recipe.temperature, self.recipe.matrix_learning_rate
        also = f" and matrix_learning_rate (now {matrices:g})" if matrices else ""
        return (
            f"training stopped at step {self.step}: the loss {what}. Lower the recipe's learning_rate "
            f"(now {rate:g}){also}, give it warmup_steps, or raise temperature (now {temperature:g})"
        )

    def save_state(self) -> None:
        """Write the state a killed run continues from. All processes take part, the first one writes."""
        rng, truncated = self.group.all_values(rng_state()), sum(self.group.all_values(self.embedder.retriever.truncated))
        state = self.state()
        if self.group.first:
            self.states.save(self.step, state | {"rng": rng, "truncated": truncated})

    def state(self) -> dict[str, Any]:
        """All the next step depends on that is not a function of its number; the first process's is whole."""
        trained = {name: p.detach() for name, p in self.embedder.model.named_parameters() if p.requires_grad}
        return {
            "step": self.step,
            "trained": self.exchange.whole(trained),
            "optimizer": self.exchange.whole(self.optimizer.state_dict()),
            "chunks": list(self.embedder.chunks),
            "log": self.log,
            "recent": [list(r) for r in self.recent],
            "figures": self.figures,
            "seconds": self.seconds,
            **self.average.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up ``state``. RNG streams are per process, so another number of processes draws other dropout masks."""
        parameters = dict(self.embedder.model.named_parameters())
        with torch.no_grad():
            for name, value in state["trained"].items():
                parameters[name].copy_(self.exchange.divided(value, parameters[name]))
        self.average.restore(state)
        restore_optimizer(self.optimizer, state["optimizer"], self.exchange)
        if len(state["rng"]) == self.group.size:
            set_rng_state(state["rng"][self.group.rank])
        self.step, self.seconds, self.embedder.chunks = state["step"], state["seconds"], tuple(state["chunks"])
        self.log, self.recent = state["log"], [tuple(r) for r in state["recent"]]
        self.figures = state.get("figures", {})
        self.embedder.retriever.truncated = state["truncated"] if self.group.first else 0

    def facts(self) -> dict[str, Any]:
        """See :func:`mmret.retriever.train.loop.train`. All processes take part."""
        truncated = sum(self.group.all_values(self.embedder.retriever.truncated))
        last = self.log[-max(1, len(self.log) // 10) :]
        seen, size = self.seen(), self.data.batch_size
        notes = [f"{task} was left out: {why}" for task, why in self.data.left_out.items()] + self.average.notes()
        for task, of_task in zip(self.data.tasks, self.data.sizes, strict=True):
            own, rows = self.data.of[task], "triplets" if task == COMPOSED else f"rows of {task}"
            if of_task < self.recipe.batch_size:
                texts = f" with {own.queries} texts" if own.queries > len(own) else ""
                notes.append(f"only {len(own)} {rows}{texts}: the batch is {of_task}, not {self.recipe.batch_size}")
            if own.alone:
                notes.append(f"{own.alone} of {len(own)} {rows} have no neighbour to share a batch with")
        if self.recipe.agreement and not any(own.several for own in self.data.of.values()):
            notes.append("agreement compared nothing: no row has several texts")
        if truncated:
            notes.append(f"{truncated} texts were longer than the model's limit and were cut")
        return {
            "step": self.step,
            "loss": sum(row["loss"] for row in last) / len(last),
            "pairs": seen,
            "seconds": round(self.seconds, 3),
            "triplets": len(self.data.of[COMPOSED]) if COMPOSED in self.data.of else 0,
            "tasks": {name: {"rows": len(self.data.of[name]), "seen": n} for name, n in self.data.seen(self.step).items()}
            | {name: {"rows": 0, "seen": 0} for name in self.data.left_out},
            "images": len(self.data.images),
            "batch_size": size,
            "trainable": self.recipe.trainable,
            "samples_per_second": round(seen / max(1e-9, self.seconds), 1),
            **{name: value for name, value in self.log[-1].items() if name.startswith("recall_")},
            "truncated_texts": truncated,
            **self.average.facts(),
            **({"activations": said} if (said := self.kept.says()) else {}),
            "notes": notes,
        }


def check_dimensions(recipe: Recipe, embedder: Embedder) -> None:
    """Raises UserError where the recipe's matryoshka has dimensions that the model's vectors have not."""
    if recipe.matryoshka and recipe.matryoshka[-1] >= (dim := embedder.retriever.dim):
        raise UserError(
            f"the recipe's matryoshka has {recipe.matryoshka[-1]}, but vectors of {recipe.base} have {dim} dimensions: give "
            f"numbers below {dim}; whole vectors are trained anyway"
        )


def _optimizer(recipe: Recipe, embedder: Embedder) -> Optimizers:
    """AdamW over the groups of ``embedder``, and Muon over its hidden matrices where the recipe has a rate for it."""
    hidden = embedder.hidden_matrices() if recipe.matrix_learning_rate else []
    inside = {id(parameter) for parameter in hidden}
    groups = [([p for p in group if id(p) not in inside], rate) for group, rate in embedder.parameter_groups()]
    parts: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [{"params": parameters, "peak": rate, "lr": rate} for parameters, rate in groups if parameters],
            weight_decay=recipe.weight_decay,
        )
    ]
    if hidden and recipe.matrix_learning_rate:
        parts.append(Muon(hidden, recipe.matrix_learning_rate, recipe.weight_decay))
        for group in parts[-1].param_groups:
            group["peak"] = group["lr"]
    return Optimizers(parts)


def _settled(values: Sequence[float], rows: int) -> list[float]:
    """The means of each ``rows`` values in a row; none while there are fewer."""
    sums = [0.0, *accumulate(values)]
    return [(sums[at] - sums[at - rows]) / rows for at in range(rows, len(sums))]
