"""The files below a folder in a fixed order, directory by directory, with what is not looked into named.

Hidden files and folders are left out, linked directories not entered, and a lake that lies among the pictures is no source of
pictures. Cost: one look at each name; memory the names of one directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from mmret.ingest.remarks import Note

_OF_SYSTEMS = ("thumbs.db", "ehthumbs.db", "desktop.ini")
_FOLDERS_OF_SYSTEMS = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information")
"""Of macOS, network storage, Windows and Linux: copies, thumbnails and what was deleted."""


@dataclass(frozen=True)
class Directory:
    """``base`` is its path from the root, "" or with a ``/`` at its end; ``names`` are its files, ``refused`` what is closed."""

    base: str
    names: list[str]
    refused: list[str]


def directories(root: str, is_inside: Callable[[str], bool], note: Note) -> Iterator[Directory]:
    """Every directory below ``root``. Linked ones that lead outside, and at last those that cannot be read, are ``refused``."""
    closed: list[OSError] = []
    for directory, inner, names in os.walk(root, onerror=closed.append):
        base = "" if directory == root else os.path.relpath(directory, root) + "/"
        visible, inner[:] = told_apart(base, names, inner, lambda path: _is_lake(os.path.join(root, path)), note)
        links = (name for name in inner if os.path.islink(os.path.join(directory, name)))
        yield Directory(base, visible, [base + name for name in links if not is_inside(os.path.join(directory, name))])
    for error in closed:
        yield Directory("", [], [os.path.relpath(str(error.filename), root)])


def told_apart(
    base: str, names: Iterable[str], folders: Iterable[str], is_lake: Callable[[str], bool], note: Note
) -> tuple[list[str], list[str]]:
    """The files of a directory that are read, and the folders in it that are entered, in order; of the others goes a ``note``."""
    visible = []
    for name in sorted(names):
        if name.startswith(".") or name.lower() in _OF_SYSTEMS:
            note("hidden", base + name, "hidden files and those of systems are not read")
        else:
            visible.append(name)
    entered = []
    for name in sorted(folders):
        if name.startswith(".") or name.lower() in _FOLDERS_OF_SYSTEMS:
            note("hidden", base + name, "hidden folders are not looked into")
        elif is_lake(base + name):
            note("lake_among_pictures", base + name, "a lake is no source of pictures")
        else:
            entered.append(name)
    return visible, entered


def _is_lake(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, "lake.yaml")) and os.path.isdir(os.path.join(folder, "corpus_manifest"))
