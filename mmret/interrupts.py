"""Ctrl-C and SIGTERM: both unwind what runs, and neither is lost where a library catches signals for itself.

Dagster notes a signal while it works or waits between steps and forgets it with its run, so a Ctrl-C at such a moment stopped
nothing. Costs a thread that sleeps per block of :func:`heard`.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

HEEDED_AFTER_S = 3.0
"""So long a library that catches signals has to end by itself, inside :func:`heard`; then what runs is stopped where it stands."""
_received: list[int] = []


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived, as from ``docker stop`` or a batch system; unwinds like Ctrl-C."""


def listen() -> None:
    """From now on SIGINT raises KeyboardInterrupt and SIGTERM :class:`Terminated`, and both are remembered."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    sys.unraisablehook = _unraisable
    if logging.lastResort:
        logging.lastResort.addFilter(_is_no_stop)


def _is_no_stop(record: logging.LogRecord) -> bool:
    """Whether a library logs something else than that a signal met it; most do so with a traceback, which is no news."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or issubclass(kind, Exception)


def _unraisable(lost: Any) -> None:
    """What a callback of the garbage collector raised goes no further. A signal that met one is sent again, a moment later."""
    if not _is_of_signal(lost.exc_type):
        sys.__unraisablehook__(lost)
    else:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()


def _is_of_signal(kind: type[BaseException]) -> bool:
    """Whether a handler of signals raises it, Dagster's too (``DagsterExecutionInterruptedError``), which is not imported here. A
    task that was cancelled or a generator that was closed is no signal."""
    return issubclass(kind, KeyboardInterrupt) or not issubclass(kind, Exception) and "Interrupt" in kind.__name__


def _stop(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise_if_stopped()


def raise_if_stopped() -> None:
    """Raise KeyboardInterrupt or :class:`Terminated` where a signal arrived and something swallowed what it raised."""
    if _received:
        raise Terminated if signal.SIGTERM in _received else KeyboardInterrupt


@contextmanager
def heard() -> Iterator[None]:
    """A signal that arrives inside the block ends it within some seconds, whoever handles signals inside."""
    raise_if_stopped()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    listener = _Listener(ear)
    before = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        listener.end()
        os.close(mouth)  # the listener reads to the end
        listener.join()
        raise_if_stopped()


class _Listener(threading.Thread):
    """Reads which signals arrived, and raises one in the main thread that has not ended the block in time, again and again."""

    def __init__(self, ear: int):
        super().__init__(daemon=True)
        self._ear, self._lock, self._over = ear, threading.Lock(), False

    def run(self) -> None:
        while True:
            waited_for = HEEDED_AFTER_S if _received else None
            if not select.select([self._ear], [], [], waited_for)[0]:
                self._raise_in_main()
            elif numbers := os.read(self._ear, 4096):
                _received.extend(number for number in numbers if number in (signal.SIGINT, signal.SIGTERM))
            else:
                os.close(self._ear)
                return

    def _raise_in_main(self) -> None:
        with self._lock:
            if not self._over:
                kind = Terminated if signal.SIGTERM in _received else KeyboardInterrupt
                _set_exception(ctypes.py_object(kind))

    def end(self) -> None:
        """Raise nothing from now on. What was raised and has not arrived yet arrives here, and goes no further.

        It is not taken back: Python 3.11 then looks for it for ever, and in a program that is traced (a debugger, coverage) does
        nothing else.
        """
        while True:
            try:
                with self._lock:
                    self._over = True
                for _ in range(2):  # Python looks for what was raised whenever a loop goes round
                    pass
                return
            except (KeyboardInterrupt, Terminated):
                continue


def _set_exception(kind: Any) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.main_thread().ident or 0), kind)
