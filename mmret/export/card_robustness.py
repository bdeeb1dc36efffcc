"""The part of both cards that says how much a retriever's answers depend on what should not matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmret.benchmarks.figures import nest
from mmret.benchmarks.robustness_figures import table_of
from mmret.export.markdown import plain, table


def robustness(evaluations: Iterable[Mapping[str, Any]]) -> str:
    """A table of rows of ``evaluations``, a column a model; nothing where no robustness was measured."""
    columns, rows = table_of(nest(evaluations))
    if not rows:
        return ""
    said = (
        "Spread: questions that some of their wordings answer among the first ten, and not all. Hard negatives: pictures near the "
        "query that are known, or mined, to be wrong."
    )
    return f"{table([plain(column) for column in columns], [[plain(cell) for cell in row] for row in rows])}\n\n{said}"
