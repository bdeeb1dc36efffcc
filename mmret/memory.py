"""Gives memory that is free inside this process back to the system, which allocators of C keep for themselves.

Arrays of some megabytes that were needed for a moment (while 100,000 vectors are read and sketched: 330 MB) else count as the
process's for as long as it lives. Costs some milliseconds; nothing where the C library is not glibc.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache


def give_back() -> None:
    """Return what is free in Arrow's pool and in glibc's heaps. Safe at any time, from any thread."""
    arrow = sys.modules.get("pyarrow")
    if arrow is not None:
        arrow.default_memory_pool().release_unused()
    trim = _glibc_trim()
    if trim is not None:
        trim(0)


@cache
def _glibc_trim() -> ctypes._CFuncPtr | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
