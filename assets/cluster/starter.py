"""``python -m assets.cluster.starter NAME``: forks a child for each step that :mod:`assets.cluster.step` asks for on this node.

Costs the imports once, some 970 MB that the children share, and nothing while it waits; it ends when idle for a minute. A child is
ended with whoever asked for it, so that a job that Ray kills leaves no step behind.
"""

import json
import os
import selectors
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module

from assets.cluster.step import LENGTH, STATUS, same_user

PRELOADED = (
    *("assets.cluster.job", "assets.dagster_internals.step_command", "torch", "lancedb", "polars"),
    # what stages import when they run: model libraries alone are four seconds of a core
    *("mmret.encode.stage", "mmret.encode.clip", "mmret.encode.dinov2", "mmret.encode.tfidf", "mmret.ingest.stage"),
    *("mmret.mine.stage", "mmret.annotate.stage", "mmret.annotate.quality.measure", "mmret.assemble.stage"),
)
IDLE_S = 60.0


@dataclass
class Child:
    pid: int
    ended: int
    """A descriptor that is readable when it has ended."""
    asker: socket.socket


def serve(listening: socket.socket) -> None:
    """Fork until nobody has asked for a minute."""
    children: dict[int, Child] = {}
    with selectors.DefaultSelector() as waiting:
        waiting.register(listening, selectors.EVENT_READ)
        while True:
            ready = waiting.select(None if children else IDLE_S)
            if not ready and not children:
                return
            for key, _ in ready:
                if key.fileobj is listening:
                    if child := _begin(listening, waiting):
                        children[child.pid] = child
                        waiting.register(child.ended, selectors.EVENT_READ, child)
                        waiting.register(child.asker, selectors.EVENT_READ, child)
                elif key.fileobj == key.data.ended:
                    _end(children.pop(key.data.pid), waiting)
                elif key.data.pid in children:
                    _hand_on(key.data, waiting)


def _begin(listening: socket.socket, waiting: selectors.BaseSelector) -> Child | None:
    asker, _ = listening.accept()
    try:
        if not same_user(asker):
            raise OSError("another user")
        length, files, _, _ = socket.recv_fds(asker, LENGTH.size, 2)
        text = asker.recv(LENGTH.unpack(length)[0], socket.MSG_WAITALL)
        wanted = json.loads(text)
    except (OSError, ValueError, struct.error):  # somebody else, or gone before a word was said
        asker.close()
        return None
    pid = os.fork()
    if pid == 0:
        waiting.close()
        listening.close()
        asker.close()
        _become(wanted["env"], wanted["folder"], files)
    for file in files:
        os.close(file)
    return Child(pid, os.pidfd_open(pid), asker)


def _become(env: dict[str, str], folder: str, files: list[int]) -> None:
    """In the child: execute the step as a process of its own would, and end."""
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        for at, file in enumerate(files, start=1):
            os.dup2(file, at)
            os.close(file)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(folder)
        from assets.dagster_internals.step_command import execute_step

        status = execute_step()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _hand_on(child: Child, waiting: selectors.BaseSelector) -> None:
    """A signal for the child; or its asker is gone, and it with it."""
    try:
        said = child.asker.recv(1)
    except OSError:
        said = b""
    if not said:
        waiting.unregister(child.asker)
    number = said[0] if said else signal.SIGKILL
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:  # it has ended, or was forked a moment ago and leads no group yet
        with suppress(ProcessLookupError):
            os.kill(child.pid, number)


def _end(child: Child, waiting: selectors.BaseSelector) -> None:
    _, status = os.waitpid(child.pid, 0)
    waiting.unregister(child.ended)
    os.close(child.ended)
    with suppress(KeyError, ValueError):
        waiting.unregister(child.asker)
    with suppress(OSError):
        child.asker.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))
    child.asker.close()


def main(name: str) -> None:
    """Listen on the abstract socket ``name``; where another does already, that one serves."""
    with socket.socket(socket.AF_UNIX) as listening:
        try:
            listening.bind(b"\0" + name.encode())
        except OSError:
            return
        for module in PRELOADED:
            import_module(module)
        listening.listen(64)  # only now: whoever asks tries until somebody does
        serve(listening)


if __name__ == "__main__":
    main(sys.argv[1])
