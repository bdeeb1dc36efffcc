"""Text files as people have them: gzipped or not, UTF-8 with or without a byte-order mark, UTF-16, windows-1252, Shift-JIS.

The encoding is told from the head of the file. Latin text in windows-1252 is told line by line, so that one stray byte in a
file of UTF-8 damages one line only; what is guessed is always said. Cost: one read of 256 KiB, then the file as a stream.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mmret.ingest.object_store.path import ObjectPath
from mmret.ingest.tables.encodings import MARKS, utf16_without_mark

LONGEST_LINE = 16 * 2**20
"""Characters; a longer line is a bad record, not a reason to fill the memory."""
CERTAIN = ("utf-8", "utf-8-sig", "utf-16", "utf-32")
"""Encodings that are not guessed: UTF-8, and what has a byte-order mark."""
UNREADABLE = (OSError, EOFError, zlib.error)
"""What reading a file raises where it, or its gzip, is damaged."""
HEAD_BYTES = 256 * 2**10

_OTHER = ("shift_jis", "euc_jp", "gb18030", "big5", "euc_kr", "cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp1250")
_FEWEST_BYTES = 40  # of a script other than Latin, before its encoding is guessed
_LATIN = re.compile("[\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u00fe\u0152\u0153\u0160\u0161\u0178\u017d\u017e]")
_SIGNS = frozenset("€‚„…‘’“”•–—™\u00a0£§©«®°±²³´µ·»¼½¾¿¡×ßªº")
"""Signs of windows-1252 above ASCII that stand beside words, not in them."""


def plain_suffix(path: Path | ObjectPath) -> str:
    """Suffix in lower case, that before ``.gz`` where there is one: ``captions.CSV.gz`` is ``.csv``."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def open_bytes(path: Path | ObjectPath) -> BinaryIO:
    """The file as bytes, unpacked if its name ends in ``.gz``. Reading may raise what is in ``UNREADABLE``."""
    if not path.name.lower().endswith(".gz"):
        return path.open("rb")
    return gzip.open(path if isinstance(path, Path) else path.open("rb"), "rb")  # type: ignore[return-value]


def read_head(path: Path | ObjectPath, size: int = HEAD_BYTES) -> bytes:
    """The first bytes of a file, fewer where it breaks off. Raises what is in ``UNREADABLE`` where not one can be read."""
    head = b""
    with open_bytes(path) as file:
        try:
            while len(head) < size and (more := file.read1(size - len(head))):  # type: ignore[attr-defined]
                head += more
        except UNREADABLE:
            if not head:
                raise
    return head


def encoding_of(head: bytes) -> str:
    """The encoding of a file that begins with ``head``, as Python calls it; ``utf-8`` where nothing speaks against it."""
    for mark, name in MARKS:
        if head.startswith(mark):
            return name
    if wide := utf16_without_mark(head[: len(head) // 2 * 2]):
        return wide
    high = len(head) - len(head.translate(None, bytes(range(128, 256))))
    if high < _FEWEST_BYTES or _is_utf8(head):
        return "utf-8"
    lines = head.splitlines()[:200]
    if sum(from_latin(line) is not None for line in lines) >= 0.9 * len(lines):
        return "utf-8"  # windows-1252, told line by line
    if sum(_is_utf8(line) for line in lines) >= 0.9 * len(lines):
        return "utf-8"
    return _guess(head) or "utf-8"


def open_text(path: Path | ObjectPath, encoding: str) -> io.TextIOWrapper:
    """Lines with their ends; a byte that is no text is kept as a lone surrogate (see :func:`mend_line`)."""
    errors = "replace" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig" if encoding == "utf-8" else encoding, errors=errors, newline="")


def numbered_lines(file: io.TextIOWrapper) -> Iterator[tuple[int, str | None]]:
    """(number from 1, line), or None for a line of more than ``LONGEST_LINE`` characters.

    A file that is damaged ends with an exception that is in ``UNREADABLE``.
    """
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith(("\n", "\r")):
            while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(("\n", "\r")):
                pass
            yield number, None
        else:
            yield number, line


def mend_line(line: str, encoding: str) -> tuple[str | None, bool]:
    """``line`` as text and whether its encoding had to be guessed; None where it is no text in any likely encoding."""
    if line.isascii():
        return line, False
    try:
        line.encode()
    except UnicodeEncodeError:
        if encoding not in ("utf-8", "utf-8-sig"):
            return None, False
        return from_latin(line.encode("utf-8", "surrogateescape")), True
    return line, False


def from_latin(data: bytes) -> str | None:
    """``data`` read as windows-1252, if that makes words: no code without a sign, and letters with accents within words."""
    if data.isascii():
        return data.decode()
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return None
    for at, sign in enumerate(text):
        if sign < "\x80" or sign in _SIGNS:
            continue
        near = text[max(0, at - 1) : at] + text[at + 1 : at + 2]
        if not _LATIN.match(sign) or not any(c.isalpha() and (c < "\x80" or _LATIN.match(c) or c == "ß") for c in near):
            return None
        if at >= 2 and text[at - 1] >= "\x80" and text[at - 2] >= "\x80":
            return None  # three in a row: another script
    return text


def _is_utf8(data: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)  # a character cut at the end is no error
    except UnicodeDecodeError:
        return False
    return True


def _guess(head: bytes) -> str | None:
    from charset_normalizer import from_bytes

    best = from_bytes(head[: 64 * 2**10].rpartition(b"\n")[0] or head, cp_isolation=list(_OTHER)).best()
    return None if best is None or best.chaos > 0.2 else best.encoding
