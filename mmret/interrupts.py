"""Ctrl-C and SIGTERM: both unwind what runs, and neither is lost where a library catches signals for itself.

Dagster notes a signal while a run begins or ends and forgets it with that run, so a Ctrl-C at such a moment stopped nothing. Costs
two system calls per block of :func:`heard`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_received: list[int] = []


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived, as from ``docker stop`` or a batch system; unwinds like Ctrl-C."""


def listen() -> None:
    """From now on SIGINT raises KeyboardInterrupt and SIGTERM :class:`Terminated`, and both are remembered."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    sys.unraisablehook = _unraisable


def _unraisable(lost: Any) -> None:
    """What a callback of the garbage collector raised goes no further. A signal that met one is sent again, a moment later."""
    if isinstance(lost.exc_value, Exception):
        sys.__unraisablehook__(lost)
    else:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()


def _stop(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise_if_stopped()


def raise_if_stopped() -> None:
    """Raise KeyboardInterrupt or :class:`Terminated` where a signal arrived and something swallowed what it raised."""
    if _received:
        raise Terminated if signal.SIGTERM in _received else KeyboardInterrupt


@contextmanager
def heard() -> Iterator[None]:
    """A signal that arrives inside the block is raised at its end at the latest, whoever handles signals inside."""
    raise_if_stopped()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ear, mouth = os.pipe()
    for end in (ear, mouth):
        os.set_blocking(end, False)
    before = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        try:
            _received.extend(number for number in os.read(ear, 4096) if number in (signal.SIGINT, signal.SIGTERM))
        except BlockingIOError:
            pass
        finally:
            os.close(ear)
            os.close(mouth)
        raise_if_stopped()
