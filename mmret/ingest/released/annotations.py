"""Reads MegaPairs' released annotations line by line; a line that cannot be used does not stop it but is returned with a reason.

A line is ``{"q_img", "q_text": [...], "t_img", "hns": [...]}`` with paths relative to the folder of pictures; some third-party
files say ``q_texts``, and both may be one string. Memory: one line at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmret.errors import UserError
from mmret.ingest.rows import clean_text, encodable
from mmret.ingest.tables.manifest_files import read_manifest

TEXTS = ("q_text", "q_texts")


@dataclass(frozen=True, slots=True)
class Annotation:
    """One triplet as released. Paths as written; ``negatives`` without the query picture and the target."""

    line: int
    query: str
    target: str
    texts: tuple[str, ...]
    negatives: tuple[str, ...]

    def pictures(self) -> tuple[str, ...]:
        return (self.query, self.target, *self.negatives)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A line that is no triplet, and why."""

    line: int
    reason: str
    detail: str


def read_annotations(path: Path) -> Iterator[Annotation | Refusal]:
    """Every line that is not empty, in order. Raises UserError where the file cannot be read as JSON lines."""
    if not path.is_file():
        raise UserError(f"no annotation file at {path}")
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        raise UserError(f"{path}: annotations are JSON lines, in a file called .jsonl")
    for line, record in read_manifest(path):
        yield _check(line, record)


def _check(line: int, record: dict[str, Any] | str) -> Annotation | Refusal:
    if isinstance(record, str):
        return Refusal(line, "bad_annotation", record)
    named = {key: record.get(key) for key in ("q_img", "t_img")}
    for key, value in named.items():
        if not _is_path(value):
            return Refusal(line, "bad_annotation", f"{key} is not a path: {value!r:.100}")
    found = next((record[key] for key in TEXTS if record.get(key) is not None), None)
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        return Refusal(line, "bad_annotation", f"{' or '.join(TEXTS)} is not a list of texts: {found!r:.100}")
    cleaned = tuple(dict.fromkeys(text for t in texts if (text := clean_text(t))))
    if not cleaned:
        return Refusal(line, "no_text", "no text with something visible in it")
    negatives = record.get("hns") or []
    negatives = [negatives] if isinstance(negatives, str) else negatives
    if not isinstance(negatives, list) or not all(map(_is_path, negatives)):
        return Refusal(line, "bad_annotation", f"hns is not a list of paths: {negatives!r:.100}")
    query, target = named["q_img"], named["t_img"]
    others = tuple(dict.fromkeys(n for n in negatives if n not in (query, target)))
    return Annotation(line, query, target, cleaned, others)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and encodable(value)
