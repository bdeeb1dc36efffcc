"""The part of `mmret run`'s summary on captions that no source gave: how many, where they are from, and an example of each."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from mmret.cli.terminal import printable

_ORIGINS = {
    "xmp": "XMP descriptions in the files",
    "iptc": "IPTC captions in the files",
    "exif": "EXIF descriptions in the files",
    "png": "texts in PNG files",
    "file_name": "file names",
    "folder_name": "folder names",
}


def summarise_captions(partitions: list[Any]) -> dict[str, dict[str, Any]]:
    """By origin ("" for pictures for which there is none): ``count``, and ``path`` and ``text`` of the first.

    ``partitions``: the facts of ``written_captions``."""
    found: dict[str, dict[str, Any]] = {}
    for facts in partitions:
        for origin, (count, path, text) in facts.notes.get("origins", {}).items():
            entry = found.setdefault(origin, {"count": 0, "path": path, "text": text})
            entry["count"] += count
    return dict(sorted(found.items(), key=lambda item: (not item[0], -item[1]["count"])))


def print_captions(summary: dict[str, Any], console: Console) -> None:
    """A line an origin; names and texts are data."""
    for origin, found in summary["written_captions"].items():
        path = printable(found["path"]).plain
        if origin:
            where = _ORIGINS.get(origin, origin.removeprefix("model:"))
            example = f"{path}: “{printable(found['text']).plain:.100}”"
            verb = "written by" if origin.startswith("model:") else "from"
            console.print(Text(f"{found['count']:,} captions {verb} {where}, for example {example}"))
        else:
            why = "the reasons are in rejects and written_captions; a model writes them with --set captions.missing=model"
            console.print(
                Text(f"{found['count']:,} pictures without a caption that is found or written, for example {path}; {why}")
            )
