"""What a node runs for a step: a child of a process that has imported the graph and its libraries, else a process of its own.

A step that starts from nothing spends four to six seconds of a core on imports. The first step on a node leaves a *starter* behind
that imports them once and then only forks: each step has a process and memory of its own as before, and the starter ends when
nobody has asked it for a minute. It is found by an abstract socket, which no other host, user, code or number of threads shares.
Standard library only: this file is executed by its path, and costs 30 ms.
"""

import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
START_S = 60.0
LENGTH, STATUS, _PEER = struct.Struct("!Q"), struct.Struct("!i"), struct.Struct("3i")


def name_of_starter() -> bytes:
    """Of the socket of this host, user, container, interpreter, code and number of threads."""
    stamp = max(p.stat().st_mtime_ns for root in ("mmret", "assets", "resources") for p in (CHECKOUT / root).rglob("*.py"))
    mounts = os.readlink("/proc/self/ns/mnt")
    of = [
        os.getuid(),
        mounts,
        sys.executable,
        str(CHECKOUT),
        stamp,
        os.environ.get("OMP_NUM_THREADS"),
        os.environ.get("PYTHONPATH"),
    ]
    return b"\0mmret-steps-" + hashlib.sha256(json.dumps(of).encode()).hexdigest()[:24].encode()


def same_user(peer: socket.socket) -> bool:
    """Whether the other end belongs to this user: what steps are handed has credentials in it."""
    _, user, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return user == os.getuid()


def connected(name: bytes) -> socket.socket | None:
    """A connection to the starter; None where there is none, or somebody else's."""
    found = socket.socket(socket.AF_UNIX)
    try:
        found.connect(name)
    except OSError:
        found.close()
        return None
    return found if same_user(found) else None


def starter() -> socket.socket | None:
    """A connection to the starter of this node, begun where there is none; None where none comes up."""
    name, begun, end = name_of_starter(), None, time.monotonic() + START_S
    while time.monotonic() < end:
        if found := connected(name):
            return found
        if begun is None or begun.poll() not in (None, 0):
            if begun is not None:
                return None
            begun = subprocess.Popen(
                [sys.executable, "-m", "assets.cluster.starter", name[1:].decode()],
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={k: v for k, v in os.environ.items() if not k.startswith("DAGSTER_COMPRESSED")},
            )
        time.sleep(0.05)
    return None


def ask(to: socket.socket) -> int:
    """Have the starter execute the step of this process's environment, with its output; the step's exit status."""

    def hand_on(number: int, _: Any) -> None:
        to.sendall(bytes([number]))

    wanted = json.dumps({"env": dict(os.environ), "folder": os.getcwd()}).encode()
    socket.send_fds(to, [LENGTH.pack(len(wanted))], [1, 2])
    to.sendall(wanted)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)
    answer = to.recv(STATUS.size, socket.MSG_WAITALL)
    return STATUS.unpack(answer)[0] if len(answer) == STATUS.size else 1


def main() -> None:
    """``step.py COMMAND...``: by the starter, else by ``COMMAND``, which takes the same environment."""
    found = starter() if sys.platform == "linux" else None
    if found is None:
        os.execvp(sys.argv[1], sys.argv[1:])
    raise SystemExit(ask(found))


if __name__ == "__main__":
    main()
