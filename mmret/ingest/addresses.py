"""Tells addresses on the web apart from names of files and from texts: neither a picture nor a caption is one. Costs nothing."""

from __future__ import annotations

import re
from typing import Any

_BEGINS = re.compile(r"\s*[\"']?(?!file:)[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_WHOLE = re.compile(r"\s*(?:(?:https?|ftp|s3|gs|file)://\S+|www\.\S+)\s*", re.IGNORECASE)


def is_address(text: Any) -> bool:
    """Whether ``text`` begins as an address on a network (``https://``, ``s3://``); a ``file://`` names a file.

    >>> is_address("s3://bucket/a.jpg"), is_address("file:///a.jpg"), is_address("a.jpg")
    (True, False, False)
    """
    return isinstance(text, str) and _BEGINS.match(text) is not None


def is_only_an_address(text: str) -> bool:
    """Whether the whole of ``text`` is one address, also of a file, so that it is no caption.

    >>> is_only_an_address("www.example.org/a"), is_only_an_address("a cat, from https://example.org")
    (True, False)
    """
    return _WHOLE.fullmatch(text) is not None
