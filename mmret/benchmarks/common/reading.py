"""Reads other people's JSON strictly, so that a malformed file is refused with a reason and never scored by luck.

Official scorers accept much that is wrong (CIRCO's passes a file that holds only its first 100 queries); this reader
refuses duplicate keys, NaN, truncated text and truncated gzip. Plain and gzip files are told apart by their content,
not by their name. Cost: one pass over the file and one over every list.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from mmret.benchmarks.common.image_folder import files_below, still_packed
from mmret.errors import UserError

MAX_LISTED = 5
"""Problems of one kind that are listed before they are only counted."""


def read_json(path: str | Path) -> Any:
    """The JSON document at ``path``, plain or gzip. Raises UserError for whatever is not exactly one such document."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if raw[:4] == b"PK\x03\x04":
        raise UserError(f"{path} is a zip archive: unpack it and give the JSON file or its folder")
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is a damaged or truncated gzip file: {error}") from None
    try:
        return json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg}); is it complete?"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; a JSON file, plain or gzip, is expected") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be a prediction or annotation file") from None
    except ValueError as error:  # from the two hooks, and integers of absurd length
        raise UserError(f"{path}: {error}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"holds {name}, which is not JSON and cannot be ranked")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return found


def annotation_file(path: Path, *patterns: str) -> Path | None:
    """``path`` if it is a file, else the first file in that folder that bears one of the names (plain or .gz), or None."""
    if path.is_file():
        return path
    for pattern in patterns:
        wanted = {pattern.casefold(), f"{pattern}.gz".casefold()}
        found = [p for p in files_below(path) if p.name.casefold() in wanted]
        if found:
            return min(found, key=lambda p: (len(p.parts), str(p)))
    return None


def companion_file(file: Path, *names: str) -> Path | None:
    """The first file of ``names`` in the folder of ``file``, the one above, or a folder ``image_splits`` in either of them or in
    the one above both; None if there is none."""
    near = (file.parent, file.parent.parent)
    for folder in (*near, *(above / "image_splits" for above in (*near, file.parent.parent.parent))):
        for name in names:
            for candidate in (folder / name, folder / f"{name}.gz"):
                if candidate.is_file():
                    return candidate
    return None


def require_annotations(path: Path, benchmark: str, *patterns: str) -> Path:
    """As :func:`annotation_file`, or a UserError that names what was looked for."""
    if not path.exists():
        raise UserError(f"no annotations at {path}: give the {benchmark} annotation file, or a folder that holds it")
    found = annotation_file(path, *patterns)
    if found is None:
        packed = still_packed(path)
        raise UserError(
            f"{path} holds no {benchmark} annotations: looked for {', '.join(patterns)} (plain or .gz) in it and in every folder "
            "below" + (f"; {packed}" if packed else "")
        )
    return found


class Entry(BaseModel):
    """Base of an annotation file's entries: exact types, further fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def read_as(path: Path, kind: Any, what: str) -> Any:
    """The document at ``path`` as ``kind`` (a type for pydantic, such as ``list[SomeEntry]``).

    Raises UserError naming the first place that does not fit ``what``.
    """
    data = read_json(path)
    if not data:
        raise UserError(f"{path} is empty; {what} is expected")
    try:
        return TypeAdapter(kind).validate_python(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "as a whole"
        raise UserError(f"{path} is not {what} (at {place}: {first['msg']}); is it another benchmark's or split's file?") from None


_LOOKS: tuple[tuple[str, Callable[[dict[str, Any]], bool]], ...] = (
    ("a FashionIQ file", lambda data: any(re.fullmatch(r"dress|shirt|toptee", key) for key in data)),
    ("a GeneCIS file", lambda data: any(re.fullmatch(r"(focus|change)_(attribute|object)", key) for key in data)),
    ("a CIRCO file", lambda data: _first_entries(data) == {int} and all(key.isdecimal() for key in data)),
    ("an MMEB file", lambda data: _first_entries(data) == {list}),
)
"""What prediction files look like, the surest sign first."""


def recognise(data: Any) -> str:
    """What a prediction file looks like, for the message of a scorer that was given another benchmark's."""
    if isinstance(data, list):
        return "a list; predictions are one JSON object"
    if not isinstance(data, dict) or not data:
        return "empty" if data == {} else "no JSON object"
    if "metric" in data or "version" in data:
        return f"a CIRR submission (metric {data.get('metric')!r})"
    found = (name for name, looks in _LOOKS if looks(data))
    return next(found, f"an object with the keys {', '.join(list(data)[:MAX_LISTED])}")


def _first_entries(data: dict[str, Any]) -> set[type | None]:
    """Types of the lists' first entries."""
    return {type(value[0]) if isinstance(value, list) and value else None for value in data.values()}


def predictions_object(path: Path, data: Any, expected: str) -> dict[str, Any]:
    """``data`` as a non-empty object; ``expected`` completes the message of the UserError."""
    if not isinstance(data, dict) or not data:
        raise UserError(f"{path} is {recognise(data)}; expected {expected}")
    return data


@dataclass(frozen=True)
class ListRule:
    """What a ranked list must hold: ``length`` distinct ids of type ``kind``, all in ``allowed_ids`` (None: not checked).

    ``noun``: what messages call an id.
    """

    kind: type
    noun: str
    length: int
    allowed_ids: Collection[Any] | None = None


@dataclass
class Findings:
    """Problems of one file, collected so that the first five of every kind are reported at once.

    ``lenient``: a short list or a missing query is noted instead of refused (``--partial``).
    """

    path: Path
    lenient: bool = False
    errors: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    short_lists: int = 0

    def error(self, kind: str, detail: str) -> None:
        self.errors.setdefault(kind, []).append(detail)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def incomplete(self, kind: str, detail: str) -> None:
        """Record a missing part of the file: an error, or only a note when lenient."""
        if self.lenient:
            self.note(f"{kind}: {detail}")
        else:
            self.error(kind, detail)

    def check_list(self, where: str, ranking: Any, rule: ListRule) -> bool:
        """Check one ranked list; returns whether its entries can be used."""
        if not isinstance(ranking, list) or not ranking:
            self.error("not a list of predictions", f"{where}: {_short(ranking)}")
            return False
        if wrong := [x for x in ranking if type(x) is not rule.kind]:
            wanted = "JSON integers" if rule.kind is int else "strings"
            self.error(f"{rule.noun}s must be {wanted}", f"{where}: {_short(wrong[0])}")
            return False
        if len(set(ranking)) < len(ranking):
            twice = next(x for i, x in enumerate(ranking) if x in ranking[:i])
            self.error(f"the same {rule.noun} more than once in a list", f"{where}: {_short(twice)}")
        if rule.allowed_ids is not None and (unknown := [x for x in ranking if x not in rule.allowed_ids]):
            self.error(
                f"{rule.noun}s that do not exist in the gallery",
                f"{where}: {', '.join(map(_short, unknown[:3]))}" + (" ..." if len(unknown) > 3 else ""),
            )
        if len(ranking) < rule.length:
            self.short_lists += 1
            if not self.lenient:
                self.error(
                    f"too few predictions (at least {rule.length} {rule.noun}s a query are needed)",
                    f"{where}: {len(ranking)}",
                )
        return True

    def check_keys(self, data: dict[str, Any], expected: Sequence[str], noun: str = "query") -> None:
        """Check that ``data`` has every expected key and no other."""
        given = set(data)
        wanted = set(expected)
        if given.isdisjoint(wanted):
            raise UserError(
                f"{self.path} has none of the annotations' {len(wanted)} {noun} ids ({_few(expected)}); "
                f"is it another split's or another benchmark's file? It looks like {recognise(data)}"
            )
        if unknown := sorted(given - wanted):
            self.error(f"unknown {noun} ids (the annotations have {_few(expected)})", _few(unknown))
        if missing := [key for key in expected if key not in given]:
            self.incomplete(f"no predictions for {len(missing)} of {len(wanted)} queries", _few(missing))

    def check_count(self, lists: Any, expected: int, name: str, file: str) -> None:
        """Check that ``lists`` has ``expected`` rankings, one for each query of ``name`` in the order of ``file``."""
        if not isinstance(lists, list):
            raise UserError(f"{self.path}: {name} must be a list with one ranking a query, in the order of {file}")
        kind = f"{name} has {len(lists)} rankings for the {expected} queries of {file}"
        if len(lists) > expected:
            self.error(kind, "one a query, in file order, is expected")
        elif len(lists) < expected:
            self.incomplete(kind, f"query {len(lists)} is the first without one")

    def finish(self) -> list[str]:
        """Raise UserError with everything found, or return the notes."""
        if self.errors:
            lines = []
            for kind, details in self.errors.items():
                more = f"; and {len(details) - MAX_LISTED} more" if len(details) > MAX_LISTED else ""
                lines.append(f"  {kind}: {'; '.join(details[:MAX_LISTED])}{more}")
            raise UserError(f"{self.path} cannot be scored:\n" + "\n".join(lines))
        if self.short_lists:
            self.note(f"{self.short_lists} lists are shorter than the benchmark asks for")
        return self.notes


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_LISTED]) + (f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
