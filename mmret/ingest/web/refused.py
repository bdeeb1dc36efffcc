"""What is to be fetched from an address, and why a file is not fetched: apart from what fetches (:mod:`mmret.ingest.web.download`),
whose libraries a lake without such sources does not need. Costs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_BUSY = frozenset((408, 425, 429))
"""Statuses below 500 after which another time may succeed."""


class Refused(Exception):
    """A file that is not fetched. ``passes``: whether another time may succeed."""

    def __init__(self, reason: str, detail: str, passes: bool = False):
        super().__init__(reason)
        self.reason, self.detail, self.passes = reason, detail, passes


class Wanted(NamedTuple):
    """An address and the place of its file."""

    address: str
    path: Path


def passes(status: int) -> bool:
    """Whether another time may succeed after a server answered with ``status``."""
    return status >= 500 or status in _BUSY
