"""How far an annotation step is, told while the answers come: rows, rejects by reason, tokens and money so far.

A batch of 4,096 pairs takes a slow server a quarter of an hour, so the answers of the running batch are counted as they come: as a
share of its rows, each judged question for half of one. Costs a look at the clock an answer; five reports a second at most.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from mmret.annotate.answers import Stats
from mmret.annotate.protocol import Request
from mmret.progress import Counts, advance

_EVERY = 0.2


class RowProgress:
    """Tells :func:`mmret.progress.advance` how many of ``total`` rows of ``table`` are done. ``judged``: whether each is judged.

    Rejects are those of finished batches and what the running one cannot use so far, which a further attempt may mend.
    """

    def __init__(self, table: str, total: int, stats: Stats, judged: bool):
        self._table, self._total, self._stats = table, total, stats
        self._share = 0.5 if judged else 1.0
        self._before = self._rows = 0
        self._told = -_EVERY
        self._rejects: Counter[str] = Counter()
        self._unusable: dict[str, str] = {}  # reasons of the running batch by pair

    def begin_batch(self, rows: int) -> None:
        """``rows`` more rows are worked on."""
        self._rows = rows

    def end_batch(self, reasons: Iterable[str]) -> None:
        """The rows of the batch are finished; ``reasons``: of those among them that were asked about and have no use."""
        self._rejects.update(reasons)
        self._unusable = {}
        self._before, self._rows = self._before + self._rows, 0
        self._tell(0)

    def answered(self, request: Request, reason: str, share: float) -> None:
        """An answer has come that can be used, or not for ``reason``; with it a ``share`` of the batch's questions, or of those of
        its judge, is answered."""
        if reason:
            self._unusable[request.pair_id] = reason
        elif self._unusable:
            self._unusable.pop(request.pair_id, None)
        if (now := time.monotonic()) - self._told >= _EVERY:
            self._told = now
            start = self._share if request.kind == "judge" else 0.0
            self._tell(int(self._rows * (start + self._share * share)))

    def _tell(self, rows: int) -> None:
        stats = self._stats
        rejects = self._rejects + Counter(self._unusable.values())
        counts = Counts(rejects, stats.tokens_in, stats.tokens_out, stats.cost)
        advance(self._table, self._before + rows, self._total, f"{stats.sent:,} asked, {stats.stored:,} known", counts)
