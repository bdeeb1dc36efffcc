"""What a text's first bytes say of its encoding: byte-order marks, and the zero bytes of UTF-16 without one."""

from __future__ import annotations

import codecs

MARKS = (  # the longer first: UTF-32's begins like UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def utf16_without_mark(start: bytes) -> str | None:
    """The byte order of text in UTF-16 without a mark, from its first bytes: every other one is zero in most scripts."""
    if len(start) < 4 or b"\0" not in start:
        return None
    even, odd = start[0::2].count(0) / len(start[0::2]), start[1::2].count(0) / len(start[1::2])
    if odd > 0.5 and even < 0.1:
        return "utf-16-le"
    return "utf-16-be" if even > 0.5 and odd < 0.1 else None
