"""Which rows of a step go through a model together: so many rows, or rows of like length up to a budget of tokens.

A pass is padded to its longest row, so among short texts a single long one sizes what the pass keeps. With a budget rows are
sorted by length and a pass takes as many as, padded, hold so many tokens; :class:`mmret.retriever.train.part.Part` puts their
features back in order. Costs a sort of some thousands of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Together:
    """Rows that must not be parted: ``rows`` are their numbers, ``sequences`` what the model reads for them, the longest of which
    has ``length`` tokens."""

    rows: tuple[int, ...]
    length: int
    sequences: int


@dataclass(frozen=True)
class Limits:
    """Of one pass: ``tokens``, padding counted, and ``rows``; None where there is none."""

    tokens: int | None = None
    rows: int | None = None

    def hold(self, rows: int, sequences: int, longest: int) -> bool:
        """Whether so many rows, read as so many sequences padded to ``longest`` tokens, go through in one pass."""
        return (self.rows is None or rows <= self.rows) and (self.tokens is None or sequences * longest <= self.tokens)


def cut(units: Sequence[Together], limits: Limits) -> list[list[Together]]:
    """``units``, those of one pass together: in their order, or longest first where ``limits`` has tokens. One that is beyond a
    limit by itself has a pass of its own.

    >>> units = [Together((row,), length, 1) for row, length in enumerate([5, 40, 6, 5])]
    >>> [[row for unit in chunk for row in unit.rows] for chunk in cut(units, Limits(tokens=20))]
    [[1], [2, 0, 3]]
    """
    ordered = units if limits.tokens is None else sorted(units, key=lambda unit: (-unit.length, unit.rows))
    chunks: list[list[Together]] = []
    rows = sequences = longest = 0
    for unit in ordered:
        rows, sequences, longest = rows + len(unit.rows), sequences + unit.sequences, max(longest, unit.length)
        if not chunks or not limits.hold(rows, sequences, longest):
            chunks.append([])
            rows, sequences, longest = len(unit.rows), unit.sequences, unit.length
        chunks[-1].append(unit)
    return chunks


def by_tokens(lengths: Sequence[int], limits: Limits) -> list[list[int]]:
    """Numbers of rows of ``lengths`` tokens each, those of one pass together.

    >>> by_tokens([5, 40, 6, 5], Limits(tokens=20, rows=2))
    [[1], [2, 0], [3]]
    """
    units = [Together((row,), length, 1) for row, length in enumerate(lengths)]
    return [[row for unit in chunk for row in unit.rows] for chunk in cut(units, limits)]
