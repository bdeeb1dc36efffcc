"""An object store that does not answer, or refuses, while a source is read: never a picture's or a table's own fault, so no row may
say so.

Readers make rows of the OSErrors and ValueErrors of a file. This is neither, passes through all of them, and becomes what it was
again where a source was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmret.errors import UserError
from mmret.storage import StorageUnreachable


class SourceLost(Exception):
    """Carries the StorageUnreachable, or the UserError of a store that refuses (credentials that ran out, a bucket that went)."""

    def __init__(self, why: StorageUnreachable | UserError):
        super().__init__(str(why))
        self.why = why


@contextmanager
def losing() -> Iterator[None]:
    """Inside the block, which does nothing but ask a store, StorageUnreachable and UserError are raised as SourceLost."""
    try:
        yield
    except (StorageUnreachable, UserError) as why:
        raise SourceLost(why) from why


@contextmanager
def ending_when_lost() -> Iterator[None]:
    """Inside the block SourceLost is raised as the error that it carries: what was begun ends, and no row is lost."""
    try:
        yield
    except SourceLost as lost:
        raise lost.why from None
