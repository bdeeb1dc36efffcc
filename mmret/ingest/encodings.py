"""The text of a file that somebody else wrote: UTF-8 first, then what can be told from its bytes, and never a blind guess.

UTF-8 and everything with a byte-order mark are certain. UTF-16 without one shows by its zero bytes. What is left is taken for
Windows' Western alphabet only where nearly all of it is ASCII and the rest Latin letters: the alphabets of other languages look
alike byte by byte, and short texts in them are told wrongly more often than rightly.
"""

from __future__ import annotations

import codecs
import unicodedata

MARKS = (  # the longer first: UTF-32's begins like UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FOREIGN = 0.2
"""Largest share of letters beyond ASCII in a text that is taken for Western."""
_PUNCTUATION = frozenset("‘’‚“”„–—…•«»·€£§°©®™ \u00a0")


def decode(data: bytes) -> tuple[str, str | None]:
    """The text, and the name of its encoding where that was guessed. Raises UnicodeDecodeError (as UTF-8) where it cannot be told.

    >>> decode("a café at night".encode("cp1252"))
    ('a café at night', 'cp1252')
    """
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data.decode(encoding), None
    if guess := utf16_without_mark(data):
        return data.decode(guess), guess
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
        if not is_western(text):
            raise
        return text, "cp1252"


def utf16_without_mark(start: bytes) -> str | None:
    """The byte order of text in UTF-16 without a mark, from its first bytes: every other one is zero in most scripts."""
    if len(start) < 4 or b"\0" not in start:
        return None
    even, odd = start[0::2].count(0) / len(start[0::2]), start[1::2].count(0) / len(start[1::2])
    if odd > 0.5 and even < 0.1:
        return "utf-16-le"
    return "utf-16-be" if even > 0.5 and odd < 0.1 else None


def is_western(text: str) -> bool:
    """Whether ``text``, bytes read as cp1252, makes sense so: mostly ASCII, the rest Latin letters and typographic signs."""
    letters = [c for c in text if unicodedata.category(c)[0] == "L"]
    foreign = [c for c in text if not c.isascii()]
    known = all(c in _PUNCTUATION or "LATIN" in unicodedata.name(c, "") for c in foreign)
    return known and len(letters) >= 3 and sum(not c.isascii() for c in letters) <= _FOREIGN * len(letters)
