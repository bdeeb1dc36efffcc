"""Runs slow work of a page in a thread, so that it blocks no other visitor, and ends quietly if its own visitor has left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def run_in_thread(element: Any, function: Callable[..., T], *arguments: Any) -> T:
    """The result of ``function(*arguments)``, run in a thread, for ``element`` of a page.

    Raises asyncio.CancelledError where the element is gone when the result is there (the visitor left, or asked for something
    else), or the server stops: NiceGUI ends the handler then without a word. What ``function`` raises is raised here.
    """
    from nicegui import run

    result = await run.io_bound(lambda: (function(*arguments),))  # a tuple: io_bound gives None for work that was cancelled
    if result is None or element.is_deleted:
        raise asyncio.CancelledError
    return result[0]
