"""Progress reporting without a dependency on who listens.

Long loops call :func:`advance`; a front end (the terminal of ``mmret run``, Dagster's log, a test) installs a
:class:`Reporter` with :func:`reporting`. With none installed a call costs one context-variable look-up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Reporter(Protocol):
    def __call__(self, task: str, done: int, total: int | None, note: str = "") -> None:
        """``done`` of ``total`` units (None: unknown) of ``task`` are finished."""


_reporter: ContextVar[Reporter | None] = ContextVar("mmret_reporter", default=None)


def advance(task: str, done: int, total: int | None, note: str = "") -> None:
    """Tell the installed reporter, if any, that ``done`` of ``total`` units of ``task`` are finished."""
    reporter = _reporter.get()
    if reporter is not None:
        reporter(task, done, total, note)


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Install ``reporter`` for the calls made inside the block (in this thread or task)."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)
