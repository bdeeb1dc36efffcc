"""Pictures that visitors gave to the search page, by their content, so that an address can name one for as long as the server runs.

Nothing is written to disk. Memory: at most ``MOST_BYTES``; beyond it the pictures that nobody has used for longest are dropped.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from mmret.hashing import content_id
from mmret.web.pictures import SIDES, thumbnail

LARGEST = 32 * 2**20
"""Bytes of one picture."""
MOST_BYTES = 128 * 2**20


class Uploads:
    """Pictures by content id. Safe for threads."""

    def __init__(self, most_bytes: int = MOST_BYTES):
        self.most_bytes = most_bytes
        self._lock = threading.Lock()
        self._pictures: OrderedDict[str, bytes] = OrderedDict()

    def add(self, data: bytes) -> str:
        """Keep a picture's file; returns its content id, which is also its image id where the corpus has it."""
        name = content_id(data)
        with self._lock:
            self._pictures[name] = data
            self._pictures.move_to_end(name)
            while len(self._pictures) > 1 and sum(map(len, self._pictures.values())) > self.most_bytes:
                self._pictures.popitem(last=False)
        return name

    def get(self, name: str) -> bytes | None:
        """The picture's file, None where it was never given or is dropped."""
        with self._lock:
            if name in self._pictures:
                self._pictures.move_to_end(name)
            return self._pictures.get(name)

    def thumbnail(self, name: str, side: int) -> bytes | None:
        """Its JPEG of at most ``side`` pixels, one of :data:`SIDES`; None where there is no such picture."""
        return thumbnail(self.get(name), side) if side in SIDES else None
