"""Which text files of a directory belong to which of its pictures, by their names: ``a.txt``, ``a.jpg.txt``, ``a.caption``, ...

Cost: one look at each name; memory two short strings a text file of the directory at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mmret.ingest.folders.captions import TextName, text_name, without_image_suffix
from mmret.ingest.folders.names import fold
from mmret.ingest.rows import IMAGE_SUFFIXES


class SideCars:
    """The text files among ``names``, the files of one directory."""

    def __init__(self, names: Iterable[str]):
        self._of: dict[str, str | list[str]] = {}
        for name in names:
            about = text_name(name)
            if about is None:
                continue
            owner = _key(about.owner)
            before = self._of.get(owner)
            if before is None:
                self._of[owner] = name
            else:
                self._of[owner] = [*([before] if isinstance(before, str) else before), name]

    def of(self, picture: str) -> list[tuple[str, TextName]]:
        """The texts of ``picture``, those of its whole name first, each with what its name says."""
        if not self._of:
            return []
        found = []
        for owner in dict.fromkeys((picture, without_image_suffix(picture))):
            names = self._of.get(_key(owner), ())
            about = [(name, text_name(name)) for name in ([names] if isinstance(names, str) else names)]
            # files that differ by case alone: each picture has its own
            exact = {a.label for _, a in about if a and a.owner == owner}
            found += [(name, a) for name, a in about if a and (a.owner == owner or a.label not in exact)]
        return found

    def without_picture(self, names: Iterable[str]) -> Iterator[str]:
        """The texts that belong to none of the pictures among ``names``."""
        owned = set()
        for name in names if self._of else ():
            if name.lower().endswith(IMAGE_SUFFIXES):
                owned |= {_key(name), _key(without_image_suffix(name))} & self._of.keys()
        for owner, found in self._of.items():
            if owner not in owned:
                yield from [found] if isinstance(found, str) else found


def _key(name: str) -> str:
    return name.lower() if name.isascii() else fold(name)
