"""The options and the results of a benchmark run, the same for every benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmret.benchmarks.common.image_folder import still_packed
from mmret.benchmarks.common.pictures import Embedder, Shot
from mmret.benchmarks.common.scores import flatten
from mmret.errors import UserError

COMPOSED, IMAGE_ONLY, TEXT_ONLY, NO_CONCEPT = "composed", "image only", "text only", "composed, no shared concept"


@dataclass(frozen=True)
class RunOptions:
    """Options of a run. ``images``, ``annotations``: paths in the benchmark's official layout. ``template``: a name in its
    protocol file (None: the default). ``allow_missing``: score without the pictures that are missing, and say so.
    ``paraphrases``: also run the protocol's other wordings. ``gallery``: of FashionIQ only.
    """

    images: Path
    annotations: Path
    template: str | None = None
    allow_missing: bool = False
    paraphrases: bool = False
    gallery: Literal["original", "union"] = "original"


@dataclass(frozen=True)
class Variant:
    """Results of one variant of the queries (composed, image only, text only, ...).

    ``values``: metrics in percent, nested as the scorers return them; empty where targets are hidden.
    """

    name: str
    values: Mapping[str, Any]
    predictions: Mapping[str, Any] = field(default_factory=dict)
    """File name -> content, in the formats that ``mmret score`` reads."""

    def metrics(self) -> Iterator[tuple[str, float]]:
        yield from ((name, value) for name, value in flatten(dict(self.values)) if value is not None)


@dataclass(frozen=True)
class BenchmarkRun:
    """All numbers of one checkpoint on one benchmark, and what they were measured with.

    ``partial`` is None for a complete run, else says what was left out; every table repeats it. ``protocol``: version and
    template.
    """

    benchmark: str
    split: str
    protocol: str
    model: str
    queries: int
    gallery: int
    variants: tuple[Variant, ...]
    paraphrases: tuple[Variant, ...] = ()
    partial: str | None = None
    notes: tuple[str, ...] = ()
    submissions: Mapping[str, Any] = field(default_factory=dict)
    """File name -> content for the closed test servers."""

    @property
    def name(self) -> str:
        return f"{self.benchmark}.{self.split}"


@dataclass
class MissingPictures:
    """Pictures that are not there or cannot be read, by name, with the reason."""

    reasons: dict[str, str] = field(default_factory=dict)

    def check(self, total: int, allow: bool, root: Path) -> None:
        """Raise UserError with the list unless ``allow``."""
        if not self.reasons or allow:
            return
        packed = still_packed(root) if root.is_dir() else ""
        shown = [f"  {name}: {reason}" for name, reason in list(self.reasons.items())[:20]]
        more = [f"  and {len(self.reasons) - 20} more"] if len(self.reasons) > 20 else []
        raise UserError(
            "\n".join(
                [
                    f"{len(self.reasons)} of {total} pictures are missing under {root} and the folders below it; "
                    "nothing was scored:",
                    *shown,
                    *more,
                    *([packed] if packed else []),
                    "get them, or take a partial score that says so with --allow-missing",
                ]
            )
        )


def average_vectors(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Normalised mean (n, d) of several arrays of unit vectors (n, d); a single one is returned as it is."""
    if len(parts) == 1:
        return parts[0]
    total = np.sum(parts, axis=0)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def query_vectors(
    embedder: Embedder, shots: Sequence[Shot] | None, texts: Sequence[tuple[str, ...]], instruction: str
) -> np.ndarray:
    """(q, d) float32 of the queries; ``shots`` None: text alone. The vectors of several texts of one query are averaged."""
    parts = []
    for one in zip(*texts, strict=True):
        parts.append(
            embedder.text_vectors(one, instruction) if shots is None else embedder.composed_vectors(shots, one, instruction)
        )
    return average_vectors(parts)
