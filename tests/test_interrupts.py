"""A signal ends what runs, once, without a traceback, whatever a library makes of it."""

import logging
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from mmret import interrupts
from tests.conftest import CHECKOUT

ALONE = "MMRET_SIGNALS_ALONE"
"""Set in the process that these tests have to themselves: a signal is the whole process's, and other libraries listen too."""
alone = pytest.mark.skipif(ALONE not in os.environ, reason="run by the first test, in a process of its own")


def test_signals_are_met_in_a_process_of_their_own():
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    if ALONE in os.environ:
        return
    done = subprocess.run(line, cwd=CHECKOUT, env={**os.environ, ALONE: "1"}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and " skipped" not in done.stdout, done.stdout + done.stderr


@pytest.fixture
def deaf():
    """A library that notes signals and goes on; what is remembered of signals is forgotten afterwards."""
    seen: list[int] = []
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.unraisablehook
    for each in before:
        signal.signal(each, lambda number, frame: seen.append(number))
    yield seen
    interrupts._received.clear()
    sys.unraisablehook = hook
    for each, handler in before.items():
        signal.signal(each, handler)


@alone
def test_a_signal_that_a_library_swallows_is_raised_at_the_end_of_the_block(deaf):
    with pytest.raises(interrupts.Terminated, match="^$"):
        with interrupts.heard():
            os.kill(os.getpid(), signal.SIGTERM)
    assert deaf == [signal.SIGTERM]


@alone
def test_a_library_that_goes_on_for_ever_is_stopped_where_it_stands(deaf, monkeypatch):
    monkeypatch.setattr(interrupts, "HEEDED_AFTER_S", 0.1)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt, match="^$"):
        with interrupts.heard():
            os.kill(os.getpid(), signal.SIGINT)
            while time.monotonic() < began + 30:
                try:
                    time.sleep(0.01)
                except KeyboardInterrupt:
                    if time.monotonic() < began + 0.25:
                        continue  # swallowed: raised again a moment later
                    raise
    assert deaf == [signal.SIGINT] and 0.25 < time.monotonic() - began < 20


@alone
def test_nothing_is_raised_once_the_block_is_over_and_nothing_without_a_signal(deaf, monkeypatch):
    monkeypatch.setattr(interrupts, "HEEDED_AFTER_S", 0.05)
    with interrupts.heard():
        time.sleep(0.2)
    with pytest.raises(KeyboardInterrupt, match="^$"):
        with interrupts.heard():
            os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)


@alone
def test_what_a_library_logs_of_a_signal_is_not_shown_and_other_errors_are(deaf):
    interrupts.listen()
    shown = []
    for error in (KeyboardInterrupt(), RuntimeError("a fault")):
        try:
            raise error
        except BaseException:
            record = logging.LogRecord("pool", logging.ERROR, "", 1, "reset failed", (), sys.exc_info())
            shown.append(bool(logging.lastResort.filter(record)))
    assert shown == [False, True]


TRACED = """
import os, signal, sys, time
from mmret import interrupts
signal.signal(signal.SIGINT, lambda number, frame: None)
interrupts.HEEDED_AFTER_S = 0.05
trace = lambda *event: trace
sys.settrace(trace)
try:
    with interrupts.heard():
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            time.sleep(0.01)
except KeyboardInterrupt:
    print("ended", flush=True)
"""


@alone
def test_a_program_that_is_traced_ends_as_well():
    done = subprocess.run([sys.executable, "-c", TRACED], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("ended\n", 0), done.stderr


@alone
def test_what_is_lost_in_the_garbage_collector_is_a_signal_only_if_a_signal_met_it(monkeypatch):
    sent, shown = [], []
    monkeypatch.setattr(interrupts.os, "kill", lambda *asked: sent.append(asked))
    monkeypatch.setattr(sys, "__unraisablehook__", lambda lost: shown.append(lost.exc_type))
    dagsters = type("DagsterExecutionInterruptedError", (BaseException,), {})
    for kind in (GeneratorExit, ValueError, SystemExit, InterruptedError, KeyboardInterrupt, interrupts.Terminated, dagsters):
        interrupts._unraisable(SimpleNamespace(exc_type=kind, exc_value=None))
    time.sleep(0.5)
    assert sent == [(os.getpid(), signal.SIGINT)] * 3
    assert shown == [GeneratorExit, ValueError, SystemExit, InterruptedError]
