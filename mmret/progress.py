"""Progress reporting without a dependency on who listens.

Long loops call :func:`advance`; front ends (the terminal of ``mmret run``, Dagster's log and asset page, a test) install a
:class:`Reporter` with :func:`reporting`, or beside those that listen already with :func:`also_reporting`. With none installed a
call costs one context-variable look-up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Counts:
    """What a loop has met so far beside the units it finished. ``rejects`` may be the loop's own dictionary: copy what is kept."""

    rejects: Mapping[str, int] = field(default_factory=dict)
    """Rows that have no use, by reason."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    """Money, at the prices of the settings; 0 where none are set."""


class Reporter(Protocol):
    def __call__(self, task: str, done: int, total: int | None, note: str = "", counts: Counts | None = None) -> None:
        """``done`` of ``total`` units (None: unknown) of ``task`` are finished. ``counts`` comes from loops that have some."""


_reporter: ContextVar[Reporter | None] = ContextVar("mmret_reporter", default=None)


def advance(task: str, done: int, total: int | None, note: str = "", counts: Counts | None = None) -> None:
    """Tell the installed reporter, if any, that ``done`` of ``total`` units of ``task`` are finished.

    The loop that makes a table has the table's name as its ``task``; then its pace counts for the time left of the whole run.
    """
    reporter = _reporter.get()
    if reporter is not None:
        reporter(task, done, total, note, **({} if counts is None else {"counts": counts}))


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Install ``reporter`` for the calls made inside the block (in this thread or task)."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


@contextmanager
def also_reporting(reporter: Reporter) -> Iterator[None]:
    """As :func:`reporting`, and the reporter installed before goes on listening."""
    before = _reporter.get()

    def both(task: str, done: int, total: int | None, note: str = "", **more: Counts) -> None:
        if before is not None:
            before(task, done, total, note, **more)
        reporter(task, done, total, note, **more)

    with reporting(both):
        yield
