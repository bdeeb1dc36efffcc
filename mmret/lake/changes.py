"""Whether a lake that is open may have changed, for those who ask again and again: a server, a page.

In a local folder looking costs a system call a file, so the answer is always yes. In an object store one small request is made, for
the log of runs, and what changes without a run is seen within :data:`EVERY_S` seconds.
"""

from __future__ import annotations

import threading
import time

from mmret.lake.history import runs_token
from mmret.lake.store import Lake

EVERY_S = 60.0
"""So long a lake in an object store counts as unchanged while no run is logged."""


class Changes:
    """Asked by any number of threads: ``Changes(lake).maybe()``."""

    def __init__(self, lake: Lake, every_s: float = EVERY_S):
        self.lake, self.every_s = lake, every_s
        self._lock = threading.Lock()
        self._seen: str | None = None
        self._looked = -float("inf")

    def maybe(self) -> bool:
        """Whether to look; yes the first time."""
        if self.lake.storage.is_local:
            return True
        with self._lock:
            seen, now = runs_token(self.lake), time.monotonic()
            if seen == self._seen and now - self._looked < self.every_s:
                return False
            self._seen, self._looked = seen, now
            return True
