"""An object store that does not answer while a source is read: never a picture's or a table's own fault, so no row may say so.

Readers make rows of the OSErrors of a file. This is none, passes through all of them, and becomes StorageUnreachable again where a
source was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmret.storage import StorageUnreachable


class SourceLost(Exception):
    """Carries the StorageUnreachable."""

    def __init__(self, why: StorageUnreachable):
        super().__init__(str(why))
        self.why = why


@contextmanager
def losing() -> Iterator[None]:
    """Inside the block StorageUnreachable is raised as SourceLost."""
    try:
        yield
    except StorageUnreachable as why:
        raise SourceLost(why) from why


@contextmanager
def ending_when_lost() -> Iterator[None]:
    """Inside the block SourceLost is raised as the StorageUnreachable that it is: what was begun ends, and no row is lost."""
    try:
        yield
    except SourceLost as lost:
        raise lost.why from None
