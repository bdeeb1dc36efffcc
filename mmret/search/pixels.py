"""A bound on the pixels that are decoded and not yet encoded, so that many large pictures at once do not fill the memory."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from PIL import Image

MOST = 64_000_000
"""Pixels of all pictures together, 192 MB as RGB; a picture of more has its turn alone."""
_UNKNOWN = 4_000_000  # of a picture whose file is not at hand


class PixelBudget:
    """Places for decoded pictures. Safe for threads."""

    def __init__(self, most: int = MOST):
        self.most = most
        self._free = most
        self._changed = threading.Condition()
        self._closed = False

    def take(self, data: bytes | None, future: Future[Any]) -> Callable[[], None] | None:
        """Wait until the picture in file ``data`` may be decoded. Its place is free once ``future`` is done, or what is returned is
        called, whichever comes first. None: closed."""
        wanted = min(_pixels(data), self.most)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._free >= wanted)
            if self._closed:
                return None
            self._free -= wanted
        taken = [wanted]

        def free() -> None:
            with self._changed:
                self._free += taken.pop() if taken else 0
                self._changed.notify_all()

        future.add_done_callback(lambda _: free())
        return free

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _pixels(data: bytes | None) -> int:
    if data is None:
        return _UNKNOWN
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return picture.width * picture.height
    except Exception:  # whatever it is, decoding says what is wrong with it
        return _UNKNOWN
