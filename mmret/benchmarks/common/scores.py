"""The options and the result of a scorer, the same for every benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class ScoreOptions:
    """Choices that change a number; the defaults are the official protocol of each benchmark.

    ``subset_predictions``: CIRR's second file. ``partial``: score incomplete files over what they hold, as the official
    code would, and say so. ``soft``: CIRR also by its authors' soft targets. ``remove_reference``: drop the query's own
    image from CIRCO and FashionIQ rankings before scoring (not comparable with published numbers). ``gallery``:
    FashionIQ over the original split, or over the smaller union of references and targets ("VAL split" of some papers;
    7 points easier).
    """

    subset_predictions: Path | None = None
    partial: bool = False
    soft: bool = False
    remove_reference: bool = False
    gallery: Literal["original", "union"] = "original"


@dataclass(frozen=True)
class Scores:
    """Metrics of one prediction file in percent. ``values`` is what ``mmret score --json`` prints; None where not defined.

    ``lower_bounds``: metrics, named as in :meth:`rows`, that longer lists of predictions could only raise.
    """

    benchmark: str
    values: dict[str, Any]
    queries: int
    notes: tuple[str, ...] = ()
    lower_bounds: tuple[str, ...] = ()

    def rows(self) -> Iterator[tuple[str, float | None]]:
        """(metric, percent) in the order of ``values``, nested keys joined: ``mAP@5``, ``dress R@10``."""
        yield from flatten(self.values)

    def document(self) -> dict[str, Any]:
        """``values`` for JSON; where some are only lower bounds, also ``lower_bounds`` and the ``remarks`` on the file."""
        if not self.lower_bounds:
            return self.values
        return {**self.values, "lower_bounds": list(self.lower_bounds), "remarks": list(self.notes)}


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Nested metric names joined with ``@`` before a number and a space before a word."""
    for key, value in values.items():
        name = f"{prefix}@{key}" if prefix and key.isdecimal() else f"{prefix} {key}".strip()
        if isinstance(value, dict):
            yield from flatten(value, name)
        else:
            yield name, value


def mean(values: list[float]) -> float | None:
    """Unweighted mean, or None of nothing (official code gives NaN, which is no JSON)."""
    return sum(values) / len(values) if values else None
