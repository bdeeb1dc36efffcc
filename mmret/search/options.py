"""How a search holds the corpus in memory and where it leaves exactness for speed. Needs neither torch nor a lake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmret.errors import UserError

Precision = Literal["float32", "int8", "binary"]
PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "binary")


@dataclass(frozen=True)
class SearchOptions:
    """``precision`` and ``dimensions`` (None: all) of the vectors that every query is compared with. At ``float32`` and all
    dimensions a search is exact. Otherwise the first ``rescore * k`` pictures are scored again with their full vectors, read from
    disk; 0: they are not. From ``index_from`` pictures on, LanceDB's index finds the candidates (None: never).

    Memory a picture of d dimensions: 5 d bytes at float32 (4 d where the processor has no fast eight-bit products), ``dimensions``
    bytes at int8, an eighth of that at binary; and its row of table ``images``.
    """

    precision: Precision = "float32"
    dimensions: int | None = None
    rescore: int = 10
    index_from: int | None = 1_000_000

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UserError(f"no precision '{self.precision}': there are {', '.join(PRECISIONS)}")
        if self.dimensions is not None and self.dimensions < 1:
            raise UserError(f"{self.dimensions} dimensions: give 1 or more")
        if self.rescore < 0:
            raise UserError(f"rescore {self.rescore}: give 0 (not at all) or more")

    @property
    def exact(self) -> bool:
        """Whether every picture is compared by its full vector."""
        return self.precision == "float32" and self.dimensions is None
