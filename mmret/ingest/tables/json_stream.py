"""Reads one JSON value of any size piece by piece: the members of an object and the elements of an array as they come.

Every piece is parsed by the standard library (so ``NaN`` and its like are read as elsewhere). Memory: one piece, at most
``LONGEST_PIECE`` characters, whatever the size of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

LONGEST_PIECE = 64 * 2**20
_CHUNK = 2**18


class JsonStream:
    """A place in a JSON text. Every method raises ValueError where the text is no JSON from here on, or a piece is too long.

    >>> stream = JsonStream(io.StringIO('{"images": [1, 2], "info": {}}'))
    >>> {name: stream.value() for name in stream.members()}
    {'images': [1, 2], 'info': {}}
    """

    def __init__(self, file: TextIO):
        self._file = file
        self._text, self._at, self._ended = "", 0, False
        self.garbled = False
        """Whether the last value has bytes in it that are no text in the file's encoding."""
        self._decoder = json.JSONDecoder()

    def next_sign(self) -> str:
        """The next character that is no blank, not taken; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n\ufeff":
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def value(self) -> Any:
        """The value that begins here, whole."""
        if not self.next_sign():
            raise ValueError("it ends early")
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except RecursionError:
                raise ValueError("nested too deeply") from None
            except ValueError:
                if not self._more():
                    raise
            else:
                if end < len(self._text) or not self._more():  # a number at the end may go on
                    self.garbled = _is_garbled(self._text[self._at : end])
                    self._at = end
                    return value

    def elements(self) -> Iterator[Any]:
        """The values of the array that begins here."""
        self._take("[")
        while self.next_sign() != "]":
            yield self.value()
            if self.next_sign() != "]":
                self._take(",")
        self._take("]")

    def members(self) -> Iterator[str]:
        """The names in the object that begins here; the caller takes the value of each before the next."""
        self._take("{")
        while self.next_sign() != "}":
            name = self.value()
            if not isinstance(name, str):
                raise ValueError("a name is no text")
            self._take(":")
            yield name
            if self.next_sign() != "}":
                self._take(",")
        self._take("}")

    def skip(self) -> None:
        """Take the value that begins here, an array element by element."""
        if self.next_sign() == "[":
            for _ in self.elements():
                pass
        else:
            self.value()

    def _take(self, sign: str) -> None:
        found = self.next_sign()
        if found != sign:
            raise ValueError(f"{sign} expected, found {found!r}" if found else "it ends early")
        self._at += 1

    def _more(self) -> bool:
        """Read on; False at the end of the file."""
        if self._ended:
            return False
        kept = self._text[self._at :]
        if len(kept) > LONGEST_PIECE:
            raise ValueError(f"a value of more than {LONGEST_PIECE} characters")
        read = self._file.read(max(_CHUNK, len(kept)))
        self._ended = not read
        self._text, self._at = kept + read, 0
        return bool(read)


def _is_garbled(text: str) -> bool:
    """Whether bytes that could not be decoded were kept in ``text`` as lone surrogates."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
