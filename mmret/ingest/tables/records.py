"""What the readers of tables have in common: a record, what makes records a table of pictures, and several for one picture.

Memory: a sample of records, or those that follow each other for one picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mmret.ingest.addresses import is_address
from mmret.ingest.rows import IMAGE_SUFFIXES
from mmret.ingest.tables.columns import ON_THE_WEB, meaning, weak_image_columns, why_none

Record = tuple[int, dict[str, Any] | str]
"""Number of the line or row, counted from 1, and its columns, or what is wrong with it as text."""

Note = Callable[[str, str, str], None]
"""What notices something takes a remark's slug, where it was seen and a detail: ``Remarks.add`` of the source."""

SAMPLE = 100
"""Records looked at to learn the columns of a table."""
ENOUGH = 0.9
"""Share of a sample that must agree."""
_MOST_CAPTIONS = 1000  # of one picture in records that follow each other


def ignore(remark: str, path: str, detail: str) -> None:
    """A :data:`Note` for who does not want to know."""


def is_picture_name(text: Any) -> bool:
    """Whether ``text`` is a file name with a suffix of pictures."""
    return isinstance(text, str) and text.strip(" \"'").lower().endswith(IMAGE_SUFFIXES) and not is_address(text)


def share(values: Iterable[Any], test: Callable[[Any], bool]) -> float:
    """The share of ``values`` that pass; 0 where there are none."""
    passed = [bool(test(value)) for value in values]
    return sum(passed) / len(passed) if passed else 0.0


def image_column(records: Iterable[Record]) -> tuple[str | None, str | None]:
    """The column of a sample of records that must be renamed to ``image`` (``image_id`` where it holds file names), and why they
    are no table of pictures: at most one of the two is given."""
    sample = [record for _, record in records if isinstance(record, dict)]
    columns = tuple(dict.fromkeys(name for record in sample for name in record))
    if not columns:
        return None, None
    renamed = None
    if not meaning(columns).image:
        weak = weak_image_columns(columns)
        renamed = next((name for name in weak if share([_only(r.get(name)) for r in sample], is_picture_name) >= ENOUGH), None)
    known = tuple("image" if name == renamed else name for name in columns)
    if sentence := why_none(known):
        return None, sentence
    named = meaning(columns).image or (renamed,)
    given = [values for name in named if (values := [r[name] for r in sample if r.get(name) is not None])]
    if given and all(share(values, is_address) >= ENOUGH for values in given):
        return None, f"names no files: {ON_THE_WEB}"
    return renamed, None


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def rename(records: Iterable[Record], column: str | None) -> Iterator[Record]:
    """``records`` with ``column`` called ``image``."""
    for number, record in records:
        if column is not None and isinstance(record, dict) and column in record:
            record = {"image" if name == column else name: value for name, value in record.items()}
        yield number, record


def together(records: Iterable[Record], name: str, note: Note) -> Iterator[Record]:
    """Records that follow each other and name the same picture as one; a column whose values differ becomes a list of them.

    ``name`` is the file's, for remarks.
    """
    at, held = 0, list[dict[str, Any]]()
    for number, record in records:
        same = held and isinstance(record, dict) and len(held) < _MOST_CAPTIONS and _image(record) == _image(held[0]) is not None
        if same:
            held.append(record)  # type: ignore[arg-type]
            note("further_caption", f"{name}:{number}", "one more line for the same picture: its caption is kept in extra")
            continue
        if held:
            yield at, _joined(held)
        at, held = number, []
        if isinstance(record, dict):
            held.append(record)
        else:
            yield number, record
    if held:
        yield at, _joined(held)


def _image(record: Mapping[str, Any]) -> Any:
    return next((record[name] for name in meaning(tuple(record)).image if record[name] is not None), None)


def _joined(records: list[dict[str, Any]]) -> dict[str, Any]:
    if len(records) == 1:
        return records[0]
    columns = {name: [record.get(name) for record in records] for name in dict.fromkeys(n for r in records for n in r)}
    return {name: values[0] if all(value == values[0] for value in values) else values for name, values in columns.items()}
