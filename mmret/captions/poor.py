"""Tells captions that say too little of a picture. Costs some 20 us a caption."""

from __future__ import annotations

from functools import lru_cache
from pathlib import PurePosixPath

import regex

from mmret.ingest.found_captions.names import words_of_name
from mmret.settings import PoorCaptions

_WORDS = regex.compile(r"[\p{L}\p{M}\p{N}'’-]+")
_WITHOUT_SPACES = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_NO_SIGNS = regex.compile(r"[^\p{L}\p{M}\p{N}]+")


def is_poor(caption: str, path: str, settings: PoorCaptions) -> bool:
    """Whether ``caption``, of the picture called ``path``, is to be written anew.

    >>> is_poor("IMG_0001", "IMG_0001.jpg", PoorCaptions(min_words=1))
    True
    """
    if count_words(caption) < settings.min_words:
        return True
    if settings.names and _same_as_name(caption, path):
        return True
    return any(pattern.search(caption) for pattern in _compiled(settings.patterns))


def count_words(text: str) -> int:
    """Words between blanks; two signs of a script that has none count as a word."""
    total = 0
    for word in _WORDS.findall(text):
        signs = len(_WITHOUT_SPACES.findall(word))
        total += max(1, signs // 2) if signs else 1
    return total


def _same_as_name(caption: str, path: str) -> bool:
    name = PurePosixPath(path).name
    given = _NO_SIGNS.sub("", caption.casefold())
    spellings = (name, PurePosixPath(name).stem, words_of_name(name) or "")
    return given in {_NO_SIGNS.sub("", each.casefold()) for each in spellings} or words_of_name(caption) is None


@lru_cache(maxsize=16)
def _compiled(patterns: tuple[str, ...]) -> tuple[regex.Pattern[str], ...]:
    return tuple(regex.compile(pattern, regex.I) for pattern in patterns)
