"""Finds a benchmark's pictures in the folders that people really have: unpacked a level deeper, renamed, converted.

The official place is looked at first and costs one look at the disk a picture. Only where a picture is not there is the whole tree
read, once (about 1 s for 100,000 files), and the picture taken wherever a file has its name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from mmret.errors import UserError
from mmret.ingest.rows import IMAGE_SUFFIXES

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".zip.001")
_MAX_ARCHIVES = 3  # that are named


class ImageFolder:
    """Finds pictures by name under ``root``: in it or its ``subfolders``, with one of the ``extensions`` ("" for none), else
    anywhere below it under the same name.

    ``anywhere``: whether the name alone tells a picture, so that the folder it lies in and its format do not matter; else the
    name must have folders, and they must be the same. Raises UserError where there is no such folder.

    >>> ImageFolder(Path("fashionIQ"), ("images",), (".jpg", ".png"), anywhere=True).find("B005X4PL1G")
    """

    def __init__(self, root: Path, subfolders: Sequence[str] = (), extensions: Sequence[str] = ("",), *, anywhere: bool = False):
        if root.is_file() and root.name.lower().endswith(ARCHIVES):
            raise UserError(f"{root} is still packed: unpack it and give the folder")
        if not root.is_dir():
            raise UserError(f"no folder of images at {root}")
        self.root, self.subfolders, self.anywhere = root, subfolders, anywhere
        self.bases = [b for b in (root, *(root / s for s in subfolders)) if b.is_dir()]
        self.extensions = extensions

    def find(self, name: str) -> Path | None:
        """The file, or None. A name that leads out of the folder is not found."""
        pure = PurePosixPath(name)
        if ".." in pure.parts or pure.is_absolute():
            return None
        candidates = (base / f"{name}{ext}" for base in self.bases for ext in self.extensions)
        return next((path for path in candidates if path.is_file()), None) or self._below(pure)

    def _below(self, name: PurePosixPath) -> Path | None:
        """The file of that name anywhere below; of several that in the likeliest folder."""
        parents = tuple(p for p in name.parent.parts if p != ".")
        if not parents and not self.anywhere:
            return None
        found = self._by_stem.get(_stem(name.name), [])
        same = [p for p in found if not parents or p.parent.parts[-len(parents) :] == parents]
        if not self.anywhere:
            exact = {f"{name.name}{ext}".casefold() for ext in self.extensions}
            same = found = [p for p in same if p.name.casefold() in exact]
        return min(same or found, key=self._rank, default=None)

    def _rank(self, path: Path) -> tuple[int, int, str]:
        names = [PurePosixPath(s).name.casefold() for s in self.subfolders]
        within = [names.index(part.casefold()) for part in path.relative_to(self.root).parts[:-1] if part.casefold() in names]
        return (min(within, default=len(names)), len(path.parts), str(path))

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in files_below(self.root):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                found.setdefault(_stem(path.name), []).append(path)
        return found


def files_below(root: Path) -> Iterator[Path]:
    """All files below ``root``, through links too, without what systems leave there (``__MACOSX``, hidden files)."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()  # a link that leads back
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if f != "__MACOSX" and not f.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def still_packed(root: Path) -> str:
    """A clause that names the archives below ``root``, which someone may have forgotten to unpack; "" where there are none."""
    archives = [str(p.relative_to(root)) for p in files_below(root) if p.name.lower().endswith(ARCHIVES)]
    if not archives:
        return ""
    more = f" and {len(archives) - _MAX_ARCHIVES} more" if len(archives) > _MAX_ARCHIVES else ""
    return f"{', '.join(archives[:_MAX_ARCHIVES])}{more} there {'is' if len(archives) == 1 else 'are'} still packed: unpack first"


def _stem(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    return (name.removesuffix(suffix) if suffix.lower() in IMAGE_SUFFIXES else name).casefold()
