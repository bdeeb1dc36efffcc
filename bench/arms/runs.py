"""One run of an arm: trained as ``mmret train`` does it, measured on the queries, in one process with all the others of its lake.

What does not change between runs is computed once: the part of the image tower below what is trained, of all pictures of the lake
(kept in the work folder too), from which the gallery is embedded as well. Figures are the same as without that. Costs a run its
steps and about two seconds.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.nn.functional import normalize

from mmret.benchmarks.composed import evaluate_composed
from mmret.benchmarks.robustness import paraphrase_spread
from mmret.benchmarks.stage import held_out_edits
from mmret.benchmarks.triplets import read_triplets
from mmret.errors import UserError
from mmret.hashing import fingerprint
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.retriever.models.checkpoint import weights_digest
from mmret.retriever.models.load import Retriever
from mmret.retriever.models.two_towers import TwoTowerRetriever
from mmret.retriever.train.clip import ClipEmbedder
from mmret.retriever.train.kinds import TWO_TOWERS
from mmret.retriever.train.stage import TrainingJob, base_folder, checkpoint_folder, train_on_lake
from mmret.retriever.train.state import Place
from mmret.retriever.train.teach import teach
from mmret.retriever.train.tower import Pictures, frozen_features
from mmret.settings import Recipe

KS = (1, 10)
_TIMED_STEPS, _TIMED_EVERY, _ROUNDS = 30, 5, 3


@dataclass(frozen=True)
class ArmJob(TrainingJob):
    """A recipe that is trained into ``out``, without the pairs ``asked`` (query image, target), which the queries ask for."""

    out: Path = Path()
    asked: frozenset[tuple[str, str]] = frozenset()

    @property
    def place(self) -> Place:
        return Place.of(self.out)

    def rows(self) -> pa.Table:
        rows = super().rows()
        if not self.asked:
            return rows
        pairs = zip(rows["query_id"].to_pylist(), rows["target_id"].to_pylist(), strict=True)
        return rows.filter(pa.array([pair not in self.asked for pair in pairs], pa.bool_()))


class StoredPictures:
    """A trained retriever whose pictures are ids: their features are ``features`` (n, dim), un-normalised, of ``ids``."""

    def __init__(self, retriever: TwoTowerRetriever, ids: Sequence[str], features: torch.Tensor):
        self.retriever, self.dim, self.features = retriever, retriever.dim, features
        self.place = {image: n for n, image in enumerate(ids)}
        self._texts: dict[tuple[str, ...], torch.Tensor] = {}

    def encode(self, images: Sequence[Any] | None = None, texts: Sequence[str] | None = None, batch_size: int = 64) -> np.ndarray:
        """As :meth:`mmret.retriever.models.two_towers.TwoTowerRetriever.encode`."""
        given = [part for part in (images, texts) if part is not None]
        rows = [np.empty((0, self.dim), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(given[0]), batch_size):
                parts = []
                if images is not None:
                    parts.append(self.features[[self.place[i] for i in images[start : start + batch_size]]])
                if texts is not None:
                    parts.append(self._text_features(tuple(texts[start : start + batch_size])))
                rows.append(normalize(sum(parts).float(), dim=-1).numpy())
        return np.concatenate(rows)

    def _text_features(self, texts: tuple[str, ...]) -> torch.Tensor:
        if texts not in self._texts:
            self._texts[texts] = self.retriever.text_features(texts)
        return self._texts[texts]


class MeasuredLake:
    """A lake that arms are trained on, with its queries. ``work``: a folder for what runs share."""

    def __init__(self, lake: Lake, queries: Path | None, work: Path):
        self.lake, self.work, self.profile = lake, work, resolve(lake)[0]
        self.queries = read_triplets(lake, queries)[0] if queries else held_out_edits(lake, self.profile.evaluate)
        self.asked = frozenset((q.reference, t) for q in self.queries for t in q.targets) if queries else frozenset()
        self.ids = sorted(lake.read("images", columns=["image_id"])["image_id"].to_pylist())
        self._frozen: dict[str, np.ndarray] = {}

    @cached_property
    def triplets(self) -> str:
        """A digest of what the lake's triplets say."""
        rows = self.lake.read("triplets", columns=["pair_id", "texts", "hard_negatives"]).sort_by("pair_id")
        return fingerprint(rows.to_pydict())

    @cached_property
    def pictures(self) -> dict[str, bytes]:
        return images_by_id(self.lake, self.ids)

    def load(self, ids: Any) -> dict[str, bytes]:
        return {i: self.pictures[i] for i in ids}

    def frozen(self, recipe: Recipe) -> np.ndarray | None:
        """What the lower layers of the image tower make of every picture, in the order of ``ids``; None where all is trained."""
        base = base_folder(self.lake, recipe.base)
        if recipe.kind != "clip" or recipe.trainable == "all":
            return None
        key = fingerprint(weights_digest(base), recipe.trainable, recipe.image_blocks, self.ids)[:16]
        if key not in self._frozen:
            embedder = ClipEmbedder.load(recipe, base)
            embedder.model.eval()
            pictures = Pictures(pa.array(self.ids, pa.string()), self.load)
            path = self.work / f"frozen-{key}.npy"
            self._frozen[key] = frozen_features(embedder.tower, embedder.retriever, pictures, path, lambda done: None)
        return self._frozen[key]

    @contextmanager
    def sharing(self, recipe: Recipe) -> Iterator[None]:
        """Runs inside read the lower layers of :meth:`frozen` instead of computing them."""
        frozen, ids = self.frozen(recipe), pa.array(self.ids, pa.large_string())
        if frozen is None:
            yield
            return

        class Sharing(ClipEmbedder):
            def open(self, data: Any, load_images: Any, work: Path) -> None:
                place = pc.index_in(data.images, value_set=ids).to_numpy()
                self.rows = lambda numbers: torch.from_numpy(frozen[place[numbers]])

        usual = TWO_TOWERS["clip"]
        TWO_TOWERS["clip"] = Sharing
        try:
            yield
        finally:
            TWO_TOWERS["clip"] = usual

    def job(self, recipe: Recipe, out: Path) -> ArmJob:
        """What trains ``recipe`` into ``out``; its rows are those of the lake without the queries' own pairs."""
        settings = {part: getattr(self.profile, part) for part in ("licences", "evaluate", "annotate")}
        return ArmJob(lake=self.lake, name="arm", recipe=recipe, out=out, asked=self.asked, **settings)

    def train(self, recipe: Recipe, out: Path) -> dict[str, float]:
        """Train into ``out``; returns processor ``seconds``, and ``step_seconds``, the median over what the log's rows cost."""
        for folder in (out, out.with_name(f"{out.name}.work")):
            shutil.rmtree(folder, ignore_errors=True)
        marks: list[tuple[int, float]] = []
        with self.sharing(recipe):
            began = time.process_time()
            train_on_lake(self.job(recipe, out), on_row=lambda row: marks.append((row["step"], time.process_time())))
            seconds = time.process_time() - began
        per_step = [(t - s) / (n - m) for (m, s), (n, t) in zip(marks, marks[1:], strict=False)]
        return {"seconds": seconds, "step_seconds": statistics.median(per_step) if per_step else seconds / recipe.steps}

    def prepare(self, name: str, recipe: Recipe, teaches: bool) -> dict[str, float] | None:
        """Make checkpoint ``name`` of the lake where it is not there, and have it score the triplets if it ``teaches``; returns
        processor ``seconds``, None where it was there."""
        out = checkpoint_folder(self.lake, name)
        if out.is_dir():
            return None
        found, began = self.train(recipe, out), time.process_time()
        if teaches:
            teach(self.lake, name, self.job(recipe, out).rows(), self.load)
        return {"seconds": found["seconds"] + time.process_time() - began}

    def run(self, recipe: Recipe, out: Path) -> dict[str, float]:
        """One training and its figures, in percent."""
        trained = self.train(recipe, out)
        began = time.process_time()
        figures = self.measure(recipe, out)
        shutil.rmtree(out)
        return figures | trained | {"measuring_seconds": time.process_time() - began}

    def measure(self, recipe: Recipe, folder: Path) -> dict[str, float]:
        """R@k of the queries over all pictures, and of their parts alone, by the checkpoint in ``folder``."""
        retriever = Retriever.load(folder, "cpu")
        frozen = self.frozen(recipe)
        encoder: Any = retriever
        load, shown = self.load, [self.pictures[i] for i in self.ids] if frozen is None else self.ids
        if frozen is not None:
            encoder, load = StoredPictures(retriever, self.ids, _features(retriever, recipe, frozen)), _themselves
        vectors = encoder.encode(shown)
        asked = [(q.reference, q.text, q.targets) for q in self.queries]
        found = evaluate_composed(encoder, self.ids, vectors, asked, load, KS)
        figures = {name: found[name] for name in ("R@1", "R@10", "image R@10", "text R@10")}
        if worded := [(q.reference, q.wordings, q.targets) for q in self.queries if len(q.wordings) > 1]:
            figures["paraphrase spread"] = paraphrase_spread(encoder, self.ids, vectors, worded, load)["spread"]
        return figures


def _themselves(ids: Sequence[str]) -> dict[str, Any]:
    return {i: i for i in ids}


def _features(retriever: TwoTowerRetriever, recipe: Recipe, frozen: np.ndarray, chunk: int = 256) -> torch.Tensor:
    """Un-normalised features (n, dim) of all pictures, from what is below the layers that were trained."""
    tower = ClipEmbedder.tower_class(retriever.model, recipe)
    with torch.inference_mode():
        return torch.cat([tower.features(torch.from_numpy(np.array(frozen[i : i + chunk]))) for i in range(0, len(frozen), chunk)])


def step_costs(timed: Sequence[tuple[str, MeasuredLake, Recipe]], folder: Path) -> dict[str, float]:
    """Processor time of a step of each of ``timed`` over that of the first: the median over rounds in which all take turns, so that
    what else the machine does meanwhile concerns all. Raises UserError with the arm that cannot be trained."""
    ratios: dict[str, list[float]] = {name: [] for name, _, _ in timed}
    for _ in range(_ROUNDS):
        seconds = {}
        for name, lake, recipe in timed:
            short = recipe.model_copy(update={"steps": _TIMED_STEPS, "log_every": _TIMED_EVERY, "evaluate_every": None})
            out = folder / f"timed-{os.getpid()}"
            try:
                seconds[name] = lake.train(short, out)["step_seconds"]
            except UserError as error:
                raise UserError(f"arm '{name}': {error}") from None
            shutil.rmtree(out)
        first = seconds[timed[0][0]]
        for name, found in seconds.items():
            ratios[name].append(found / first)
    return {name: statistics.median(found) for name, found in ratios.items()}
