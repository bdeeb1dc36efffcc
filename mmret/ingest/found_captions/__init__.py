"""What a picture without a caption says of itself: a description in its file, words in its name, words in its folder's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import NamedTuple

from mmret.ingest.found_captions.metadata import embedded_description
from mmret.ingest.found_captions.names import words_of_name
from mmret.settings import CaptionSettings

SAYS_NOTHING = "says_nothing"
"""Reason of a picture whose file and names say nothing of what is in it."""


class Found(NamedTuple):
    """``origin``: xmp, iptc, exif, png, file_name or folder_name."""

    text: str
    origin: str


def found_caption(root: str, path: str, read: Callable[[], bytes], settings: CaptionSettings) -> Found | None:
    """The caption that the picture called ``path`` of the source ``root`` brings along, or None.

    ``read`` returns its file and is called only where descriptions in files count; what it raises is raised. Names are taken only
    where the settings say that they stand for captions.
    """
    if settings.embedded and (described := embedded_description(read())):
        return Found(*described)
    return named_caption(root, path) if settings.missing == "names" else None


def named_caption(root: str, path: str) -> Found | None:
    """The caption that the names of file and folders make, or None. A member of a tar has the tar's folder above it."""
    file = PurePosixPath(path.replace("\\", "/"))
    if text := words_of_name(file.name):
        return Found(text, "file_name")
    parents = [part for part in file.parts[:-1][::-1] if "." not in part[1:]]
    above = PurePosixPath(root)
    if not root.startswith("shapes:") and not above.suffix:
        parents.append(above.name)
    return next((Found(text, "folder_name") for part in parents[:3] if (text := words_of_name(part))), None)
