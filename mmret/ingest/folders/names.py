"""Finds the file that a manifest means, where the name it writes is not quite the name on disk.

Other systems compose accents otherwise, do not tell cases apart, write ``%20``, ``\\`` or ``file://``. A name that fits one file
under these is that file; a name that fits none is a reject that names the likely one. Cost: nothing for a name that is right; a
listing of the folder, once, for others.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import lru_cache
from urllib.parse import unquote

from mmret.ingest.folders.files import Files

Exists = Callable[[str], bool]
"""Whether a relative path is a file that may be read."""

_CLOSE_AMONG = 2000  # names in a folder up to which similar ones are sought
_WALKED = 200_000  # names looked at for one that lies elsewhere
_SEARCHES = 1000  # missing names of one source for which a likely file is sought


def spellings(path: str) -> Iterator[str]:
    """Other ways to read a written path, the likeliest first, without ``path`` itself."""
    seen = {path}
    plain = path.strip().strip("\"'")
    if plain.lower().startswith("file:"):
        plain = re.sub(r"(?i)^file:(//(localhost)?(?=/))?", "", plain)
    for one in (plain.replace("\\", "/"), plain):
        for text in (one, unquote(one)):
            for form in ("NFC", "NFD"):
                for read in (text, unicodedata.normalize(form, text)):
                    if read and read not in seen:
                        seen.add(read)
                        yield read


class FolderNames:
    """The names below one folder, for looking up what a manifest means. Listings are kept, so it is for one listing of a source."""

    def __init__(self, files: Files):
        self._files = files
        self._folded = lru_cache(maxsize=8)(self._list)
        self._elsewhere: dict[str, str] | None = None
        self._searches = 0

    def find(self, path: str, exists: Exists) -> str | None:
        """The one file below the folder that ``path`` means, or None where there is none, or more than one."""
        for other in spellings(path):
            if exists(other):
                return other
        for other in (path.replace("\\", "/"), *spellings(path)):
            if (found := self._by_folding(other)) and exists(found):
                return found
        return None

    def likely(self, path: str, exists: Exists) -> str | None:
        """A file that ``path``, which means none, may have been written for: for a person to look at."""
        self._searches += 1
        if self._searches > _SEARCHES:
            return None
        plain = next(iter(spellings(path.replace("\\", "/") + " ")), path).lstrip("/")
        parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
        for i in range(1, len(parts)):  # the same path below another folder, as on another machine
            tail = "/".join(parts[i:])
            if exists(tail):
                return tail
            if (found := self._by_folding(tail)) and exists(found):
                return found
        folder, name = posixpath.split(plain)
        beside = self._folded(folder)
        stem = os.path.splitext(fold(name))[0]
        same_stem = sorted(real for key, reals in beside.items() if os.path.splitext(key)[0] == stem for real in reals)
        close = get_close_matches(fold(name), beside, 1, 0.8) if len(beside) <= _CLOSE_AMONG else []
        ways = (
            *(posixpath.join(folder, real) for real in same_stem),
            self._anywhere().get(fold(name)),
            *(posixpath.join(folder, beside[key][0]) for key in close),
        )
        return next((way for way in ways if way and exists(way)), None)

    def _by_folding(self, path: str) -> str | None:
        found = ""
        for part in posixpath.normpath(path).split("/"):
            if part in ("", ".."):
                return None
            names = self._folded(found).get(fold(part), ())
            exact = [name for name in names if name == part]
            if len(exact or names) != 1:
                return None
            found = posixpath.join(found, (exact or names)[0])
        return found

    def _list(self, folder: str) -> dict[str, tuple[str, ...]]:
        """Names in a folder by their folded form."""
        found: dict[str, tuple[str, ...]] = {}
        for name in self._files.names(folder):
            for key in {fold(name), fold(unquote(name))} if "%" in name else (fold(name),):
                found[key] = (*found.get(key, ()), name)
        return found

    def _anywhere(self) -> dict[str, str]:
        """The first path of each folded name below the folder."""
        if self._elsewhere is None:
            self._elsewhere = {}
            looked = 0
            for base, names in self._files.walk():
                for name in names:
                    self._elsewhere.setdefault(fold(name), posixpath.join(base, name))
                looked += len(names)
                if looked > _WALKED:
                    break
        return self._elsewhere


def fold(name: str) -> str:
    """``name`` without what systems differ in: the composition of accents, cases, blanks at its ends."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()
