"""What in a picture's file decides its pixels, and what merely lies beside them: texts, profiles, tags, checksums, end marks.

A decoder gives up on much that no viewer minds: a long text, a wrong checksum of a comment, a missing end mark. Such a file is
written anew in memory with nothing but what decides its pixels (:func:`salvage`), and what was left out is noted. One module per
container. Cost: a walk over the container's parts, at the speed of CRC-32 for PNG (over 1 GB/s); a salvage copies the file.
"""

from __future__ import annotations

from types import ModuleType

from mmret.ingest.containers import gif, jp2, jpeg, png, tiff, webp
from mmret.ingest.containers.salvaged import Salvaged

_BLANK = b"\r\n\t \xef\xbb\xbf"
"""What text tools put before a file."""


def remarks(data: bytes) -> tuple[str, ...]:
    """What is odd about a file that decodes, as slugs: ``ancillary_checksum``, ``trailing_bytes``, ... Never raises."""
    module = _module(data)
    return tuple(module.remarks(data)) if module else ()


def salvage(data: bytes) -> Salvaged | None:
    """The file again with nothing but what decides its pixels; None where the container lacks some of it or is not known here."""
    module = _module(data)
    if module:
        return module.salvage(data)
    rest = data.lstrip(_BLANK)
    if len(rest) == len(data) or _module(rest) is None:
        return None
    return Salvaged(rest, ("leading_bytes",))


def missing_pixels(data: bytes) -> str | None:
    """What a file lacks of its pixels, where its container says so although a decoder may not; or None."""
    module = next((m for m in (jp2, jpeg) if m.begins(data)), None)
    return module.missing_pixels(data) if module else None


def _module(data: bytes) -> ModuleType | None:
    return next((module for module in (png, jpeg, webp, gif, tiff, jp2) if module.begins(data)), None)
