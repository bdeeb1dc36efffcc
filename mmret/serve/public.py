"""Keeps the server's paths out of what it answers: rows lose their root, sentences lose absolute paths.

A manifest may name pictures by absolute paths; of such a path a client sees the last part. Costs microseconds a row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmret.storage.addresses import SCHEMES

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_ABSOLUTE = re.compile(r"^(/|~|\\|[A-Za-z]:[\\/])")
_IN_SENTENCE = re.compile(
    r"""(?<![\w/.:~])(?:file:/{1,3}|~/|/|[A-Za-z]:\\)(?:[^\s/\\'"`,;()\[\]{}<>|]+[/\\])+[^\s/\\'"`,;()\[\]{}<>|]*"""
)
_OBJECT = re.compile(rf"""\b(?:{"|".join(SCHEMES)})://[^\s'"`,;()\[\]{{}}<>|]+""")
_MAYBE_PATH = re.compile(r'"(?:/|~|\\\\|[A-Za-z][A-Za-z0-9+.-]*:[/\\])')
"""A text in JSON that :func:`public_path` may shorten."""
HIDDEN = "(a path of this server)"


def public_path(path: Any) -> Any:
    """``path`` as a client may see it: relative paths and web addresses as they are, of any other the last part.

    >>> public_path("shapes/0/1.png"), public_path("/srv/pictures/1.png"), public_path("https://example.org/1.png")
    ('shapes/0/1.png', '1.png', 'https://example.org/1.png')
    """
    if not isinstance(path, str) or path.lower().startswith(("https://", "http://")):
        return path
    if _ADDRESS.match(path) or _ABSOLUTE.match(path):
        return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return path


def public_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """``row`` of table ``images`` without its root; no text of it that is a path of the server's stays whole, however deep."""
    return {name: _public(value) for name, value in row.items() if name not in ("root", "shard", "position")}


def public_rows(rows: pa.Table) -> pa.Table:
    """``rows`` of table ``images`` as filters may see them: like :func:`public_row`, so that none guesses what is hidden."""
    for column, clean in (("path", public_path), ("source", public_path), ("extra", _public_json)):
        values = pa.array([clean(value) for value in rows[column].to_pylist()], pa.string())
        rows = rows.set_column(rows.column_names.index(column), column, values)
    return rows


def _public_json(text: str | None) -> str | None:
    if text is None or not _MAYBE_PATH.search(text):
        return text
    try:
        return json.dumps(_public(json.loads(text)), ensure_ascii=False)
    except ValueError:
        return None


def _public(value: Any) -> Any:
    if isinstance(value, str):
        return public_path(value)
    if isinstance(value, Mapping):
        return {key: _public(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_public(inner) for inner in value]
    return value


def public_sentence(text: str, lake: Path | str) -> str:
    """``text`` (an error's message) without the path or address of the ``lake`` and without any other absolute path or address of
    an object store.

    >>> public_sentence("no checkpoint in /srv/lakes/a, see /etc/passwd", "/srv/lakes/a")
    'no checkpoint in the lake, see (a path of this server)'
    """
    roots = {str(lake), str(Path(lake).resolve())} if "://" not in str(lake) else {str(lake)}
    for root in sorted(roots - {".", "/"}, key=len, reverse=True):
        text = re.sub(re.escape(root) + r"(?![\w-])", "the lake", text)
    return _IN_SENTENCE.sub(HIDDEN, _OBJECT.sub(HIDDEN, text))
