"""One entry of an opt-out list, and which rows of a corpus the entries of all lists mean.

Addresses are compared without scheme, fragment and default port, hosts in lower case. ``*`` in a path or an address stands for
anything, ``/`` included: a list errs on the side of whoever opts out. Cost: building is some microseconds an entry and about 300
bytes of memory; a row costs three look-ups, and one regular expression where the lists have patterns.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

Kind = Literal["image_id", "sha256", "md5", "digest", "url", "path", "place"]
"""``digest``: 32 hex digits, an image id or an MD5; ``place``: a path that may as well be an address (``example.org/a/*``)."""

_PORTS = {"http": ":80", "https": ":443", "ftp": ":21"}
_PATTERNS_AT_ONCE = 500


class Entry(NamedTuple):
    """What one line says; ``text`` is what is shown, and what a reject's detail holds."""

    kind: Kind
    text: str


@dataclass
class OptOuts:
    """The entries of all lists.

    >>> OptOuts.of([Entry("path", "drafts/*")]).match("photos", "drafts/old/1.png", None, None, None)
    'drafts/*'
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    md5: dict[str, str] = field(default_factory=dict)
    _urls: dict[str, str] = field(default_factory=dict)
    _hosts: dict[str, list[tuple[re.Pattern[str] | None, str]]] = field(default_factory=dict)
    _paths: dict[str, str] = field(default_factory=dict)
    _patterns: list[tuple[re.Pattern[str], list[tuple[re.Pattern[str], str]]]] = field(default_factory=list)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> OptOuts:
        """The entries, each once, ready to be matched."""
        found = cls()
        patterns: list[tuple[str, str]] = []
        for entry in entries:
            if found.entries.setdefault(entry.text, entry) is entry:
                patterns += found._add(entry)
        for at in range(0, len(patterns), _PATTERNS_AT_ONCE):
            some = patterns[at : at + _PATTERNS_AT_ONCE]
            each = [(re.compile(pattern, re.DOTALL), text) for pattern, text in some]
            found._patterns.append((re.compile("|".join(pattern for pattern, _ in some), re.DOTALL), each))
        return found

    def __bool__(self) -> bool:
        return bool(self.entries)

    def _add(self, entry: Entry) -> Iterator[tuple[str, str]]:
        """Enter ``entry``; yields its pattern of paths, if it has one."""
        kind, text = entry
        value = text.partition(":")[2].strip() if text.startswith(("md5:", "sha256:", "image_id:", "path:", "url:")) else text
        if kind in ("image_id", "sha256", "digest"):
            self.ids.setdefault(value.lower()[:32], text)
        if kind in ("md5", "digest"):
            self.md5.setdefault(value.lower(), text)
        if kind in ("url", "place"):
            self._add_address(value, text)
        if kind in ("path", "place"):
            path = plain_path(value)
            self._paths.setdefault(path, text)
            if path.endswith("/"):
                yield rf"{re.escape(path)}.*\Z", text
            elif "*" in path or "?" in path:
                yield _glob(path), text

    def _add_address(self, value: str, text: str) -> None:
        host, rest = address(value)
        host = host.removeprefix("*.")
        if rest in ("", "/*"):
            self._hosts.setdefault(host, []).append((None, text))
        elif "*" in rest:
            self._hosts.setdefault(host, []).append((re.compile(_glob(rest), re.DOTALL), text))
        else:
            self._urls.setdefault(host + rest, text)

    def match(self, root: str, path: str, source: str | None, extra: str | None, image_id: str | None) -> str | None:
        """The text of the entry that means a row with these columns of the manifest, or None; MD5 sums are not looked at."""
        if image_id is not None and (found := self.ids.get(image_id)):
            return found
        if self._urls or self._hosts:
            for given in _addresses(path, source, extra):
                if found := self._match_address(given):
                    return found
        if self._paths:
            place = plain_path(path)
            return self._match_path(place) or self._match_path(f"{plain_path(root)}/{place}")
        return None

    def _match_path(self, path: str) -> str | None:
        if found := self._paths.get(path):
            return found
        for any_of, each in self._patterns:
            if any_of.match(path):
                return next(text for pattern, text in each if pattern.match(path))
        return None

    def _match_address(self, given: str) -> str | None:
        host, rest = address(given)
        if found := self._urls.get(host + rest):
            return found
        name = host.partition(":")[0]
        while name:
            for pattern, text in self._hosts.get(name, ()):
                if pattern is None or pattern.match(rest or "/"):
                    return text
            name = name.partition(".")[2]
        return None


def plain_path(path: str) -> str:
    """``path`` with its accents composed, ``/`` between folders and without ``./`` in front."""
    path = unicodedata.normalize("NFC", path).replace("\\", "/")
    return path.removeprefix("./")


def address(text: str) -> tuple[str, str]:
    """Host (with a port that is not the scheme's own) in lower case, and the rest with its query, percent signs resolved.

    >>> address("HTTPS://Example.org:443/a%20b.jpg?x=1#top")
    ('example.org', '/a b.jpg?x=1')
    """
    parts = urlsplit(text.strip() if "://" in text else f"http://{text.strip()}")
    host = parts.netloc.rpartition("@")[2].lower().removesuffix(_PORTS.get(parts.scheme.lower(), ":"))
    rest = unquote(parts.path) + (f"?{unquote(parts.query)}" if parts.query else "")
    return host, "" if rest == "/" else rest


def _glob(pattern: str) -> str:
    """A regular expression for ``pattern``, in which ``*`` stands for anything and ``?`` for one sign."""
    return "".join(".*" if part in ("*", "**") else "." if part == "?" else re.escape(part) for part in _signs(pattern)) + r"\Z"


def _signs(pattern: str) -> list[str]:
    return re.split(r"(\*+|\?)", re.sub(r"\*+", "*", pattern))


def _addresses(path: str, source: str | None, extra: str | None) -> Iterator[str]:
    """What a row says of where it is from: its source, a path that is an address, and addresses among its other columns."""
    if source and ("://" in source or source.startswith("www.") or "/" in source):
        yield from (word for word in source.split() if "/" in word or "." in word)
    if "://" in path:
        yield path
    if extra and "://" in extra:
        try:
            yield from _texts_with_address(json.loads(extra))
        except ValueError:
            return


def _texts_with_address(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _texts_with_address(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts_with_address(each)
    elif isinstance(value, str) and "://" in value[:12] and " " not in value.strip():
        yield value
