"""Servers of models that make themselves known in the lake: an object each, ``servers/<id>.json``, renewed while the server runs.

For clusters that have nothing else in common (Slurm, bare machines). Nobody compares clocks: a reader takes a server for alive
while its object changes from look to look. Costs a small write every ``BEAT_S`` and server, and a listing a look.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from mmret.storage import Storage, StorageUnreachable, Token

FOLDER = "servers"
BEAT_S = 15.0
SILENT_S = 90.0
"""A server whose object has not changed for so long is gone."""
_OLD_S = 15 * 60
"""On the first look, an object that was written so long ago is not asked at all. Clocks may differ by some minutes."""
_FORGOTTEN_S = 24 * 3600


class Registered(NamedTuple):
    """A server as it made itself known: address that ends in ``/v1``, and the names of the models that it serves."""

    url: str
    models: tuple[str, ...]


@contextmanager
def registered(storage: Storage, server: Registered, beat_s: float = BEAT_S) -> Iterator[None]:
    """Make ``server`` known in the lake's storage for the block, renewed by a thread; a killed one falls silent by itself.

    >>> with registered(lake.storage, Registered("http://10.0.0.3:8000/v1", ("Qwen/Qwen3-VL-8B-Instruct",))):
    ...     process.wait()
    """
    key, ended = f"{FOLDER}/{uuid.uuid4().hex[:16]}.json", threading.Event()

    def beat(number: int) -> None:
        storage.write(key, json.dumps({"url": server.url, "models": server.models, "beat": number}).encode())

    def renew() -> None:
        number = 1
        while not ended.wait(beat_s):
            with suppress(OSError, ValueError):  # a beat that is missed is made up for by the next
                beat(number)
            number += 1

    _remove_forgotten(storage)
    beat(0)
    beating = threading.Thread(target=renew, name="server's beat", daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join(10)
        with suppress(StorageUnreachable):  # it falls silent by itself
            storage.delete([key])


class RegisteredServers:
    """Who has made itself known, from look to look."""

    def __init__(self, storage: Storage, silent_s: float = SILENT_S):
        self.storage, self.silent_s = storage, silent_s
        self._seen: dict[str, tuple[Token, float, Registered]] = {}  # content, when it was new, by key

    def of(self, model: str) -> list[str]:
        """URLs of the servers of ``model`` that are alive."""
        seen, now = {}, time.monotonic()
        for entry in self.storage.list(FOLDER, below=False):
            token, since, server = self._seen.get(entry.key, ("", now, None))
            if token != entry.token:
                first = server is None
                server = self._read(entry.key)
                old = first and time.time_ns() - entry.modified_ns > _OLD_S * 10**9
                since = now - self.silent_s if old else now
            if server is not None:
                seen[entry.key] = (entry.token, since, server)
        self._seen = seen
        alive = [server for _, since, server in seen.values() if now - since < self.silent_s]
        return list(dict.fromkeys(server.url for server in alive if model in server.models))

    def _read(self, key: str) -> Registered | None:
        data, _ = self.storage.read_with_token(key)
        try:
            told = json.loads(data or b"")
            return Registered(str(told["url"]), tuple(map(str, told["models"])))
        except (ValueError, KeyError, TypeError):  # gone since, or somebody else's file
            return None

    def models(self) -> Sequence[str]:
        """Names of all models that some server, alive or not, has."""
        return sorted({name for _, _, server in self._seen.values() for name in server.models})


def _remove_forgotten(storage: Storage) -> None:
    old = [e.key for e in storage.list(FOLDER, below=False) if time.time_ns() - e.modified_ns > _FORGOTTEN_S * 10**9]
    storage.delete(old)
