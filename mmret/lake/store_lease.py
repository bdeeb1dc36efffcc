"""The lease of a lake in an object store: one object that says who works on it, renewed while that one lives.

It is taken, renewed and given back by compare-and-set, so of several that try at once one succeeds. A holder that was not heard of
for some minutes, by the store's own clock, is dead and its lease free; should it come back, it notices before it launches anything
more. Costs two requests every half minute and as many before each launch.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from contextlib import suppress
from typing import Any

from mmret.errors import UserError
from mmret.storage import Storage, StorageUnreachable

BEAT_S = 30
"""The lease is renewed so often."""
DEAD_AFTER_S = 300
"""A lease that was not renewed for so long is free. Ten beats: a process that computes hard may miss some."""
_KEY = "run-lease.json"
_CLOCK = "run-lease.clock"
_TRIES = 5


class StoreLease:
    """The lease as ``holder`` has it or tries to: what others are told, with its id under ``lease``."""

    def __init__(self, storage: Storage, holder: dict[str, Any]):
        self._storage, self._holder = storage, holder
        self._asking, self._ended = threading.Lock(), threading.Event()
        self._renewing = threading.Thread(target=self._renew_until_ended, name="lease", daemon=True)

    def take(self, dead: str | None = None) -> bool:
        """Take the lease and keep it renewed; whether the holder before this one did not end well.

        ``dead``: id of a lease whose holder is known to be gone. Raises UserError saying who works on the lake where somebody
        does.
        """
        unfinished = False
        while True:
            found, token = _read(self._storage)
            if found.get("lease") == self._holder["lease"]:  # the answer to the write that took it was lost
                break
            if found.get("state") == "held" and found.get("lease") != dead and not _is_dead(self._storage):
                raise UserError(
                    f"another {holder_of(found)} is working on {self._storage.address}; wait for it or stop it. Had it been "
                    f"killed, its lease would be free {DEAD_AFTER_S // 60} minutes after its last beat ({found.get('renewed')})"
                )
            unfinished = found.get("state", "free") != "free"
            if self._storage.swap(_KEY, self._text("held"), token):
                break
        self._renewing.start()
        return unfinished

    def check(self) -> None:
        """Renew the lease. Raises UserError where somebody else has taken it over meanwhile."""
        with self._asking:
            if self._ended.is_set():
                return
            for _ in range(_TRIES):
                found, token = _read(self._storage)
                if found.get("lease") != self._holder["lease"]:
                    raise UserError(
                        f"{holder_of(found)} has taken over {self._storage.address}, since nothing was heard of this command for "
                        f"{DEAD_AFTER_S // 60} minutes. What is finished is kept; once the other is done, the same command goes on"
                    )
                if self._storage.swap(_KEY, self._text("held"), token):
                    return

    def give_back(self, well: bool) -> None:
        """End the lease, whose work ended ``well`` or not. What cannot be told to the store is over in some minutes by itself."""
        self._ended.set()
        with suppress(StorageUnreachable), self._asking:
            found, token = _read(self._storage)
            if found.get("lease") == self._holder["lease"]:
                self._storage.swap(_KEY, self._text("free" if well else "failed"), token)

    def _renew_until_ended(self) -> None:
        while not self._ended.wait(BEAT_S):
            with suppress(Exception):  # a beat that is missed is made up for by the next; a lost lease is told before a launch
                self.check()

    def _text(self, state: str) -> bytes:
        renewed = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        return json.dumps({**self._holder, "state": state, "renewed": renewed, "beat": uuid.uuid4().hex}).encode()


def is_held(storage: Storage) -> bool:
    """Whether somebody who is alive holds the lease."""
    return _read(storage)[0].get("state") == "held" and not _is_dead(storage)


def holder_of(found: dict[str, Any]) -> str:
    """Who holds the lease, for people; older versions wrote a process id only."""
    try:
        return f"`{found['command']}` (host {found['host']}, process {found['process']}, since {found['since']})"
    except (TypeError, KeyError):
        return "`mmret run`"


def _read(storage: Storage) -> tuple[dict[str, Any], str | None]:
    data, token = storage.read_with_token(_KEY)
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        found = {}
    return (found if isinstance(found, dict) else {}), token


def _is_dead(storage: Storage) -> bool:
    """Whether the lease was not renewed for so long. The store's clock is asked where this machine's does not say that it was."""
    if (lease := storage.entry(_KEY)) is None:
        return True
    if 0 <= time.time_ns() - lease.modified_ns < DEAD_AFTER_S * 10**9 / 2:
        return False
    storage.write(_CLOCK, uuid.uuid4().hex.encode())
    now = storage.entry(_CLOCK)
    return now is not None and now.modified_ns - lease.modified_ns > DEAD_AFTER_S * 10**9
