"""What a visitor of the search page asks, as the page's address holds it: whoever opens the address gets the same answer.

An address is typed, cut and mangled on its way through chats and mails, so what cannot be is passed over, never an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from urllib.parse import urlencode

from mmret.web.pictures import ID

LAST_FIRST = 1_000_000
"""Largest place that an address may begin with."""


@dataclass(frozen=True)
class Question:
    """``image``: id of a picture of the corpus, ``upload``: of one that was given to the page (:class:`mmret.web.uploads.Uploads`);
    ``target``: id of the picture whose rank is of interest; ``left``, ``right``: recipes that answer; ``where``: a condition
    over table ``images``; ``first``: place of the first result shown, from 1.

    >>> Question(text="the same in blue", first=25).address()
    '/search?text=the+same+in+blue&first=25'
    """

    text: str = ""
    image: str = ""
    upload: str = ""
    target: str = ""
    left: str = ""
    right: str = ""
    where: str = ""
    first: int = 1

    @classmethod
    def read(cls, parameters: Mapping[str, str]) -> Question:
        """The question of an address's ``parameters``; ids and places that are none are passed over."""
        found = {name: str(parameters[name]) for name in ("text", "left", "right", "where") if name in parameters}
        ids = {name: value for name in ("image", "upload", "target") if ID.fullmatch(value := str(parameters.get(name, "")))}
        if "image" in ids:
            ids.pop("upload", None)
        first = str(parameters.get("first", ""))
        place = int(first) if first.isascii() and first.isdigit() and len(first) < 10 else 1
        return cls(**found, **ids, first=min(max(place, 1), LAST_FIRST))

    def address(self) -> str:
        """Path and parameters that :meth:`read` reads as this question."""
        said = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}
        return "/search" + ("?" + urlencode(said) if said else "")

    @property
    def picture(self) -> bool:
        """Whether it has a query picture."""
        return bool(self.image or self.upload)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to search for."""
        return not self.picture and not self.text.strip()
