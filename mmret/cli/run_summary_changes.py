"""What became of sealed rows whose sources changed, in words, at the end of `mmret run`; what is gone is said at each run."""

from __future__ import annotations

import shlex
from typing import Any

from rich.console import Console
from rich.text import Text

from mmret.cli.terminal import printable

WORDS = {
    "caption_added": ("captions added", "they stand for what was found or written"),
    "caption_edited": ("captions edited", "what depends on them is computed again"),
    "licence_edited": ("licences edited", ""),
    "columns_edited": ("rows with another source or other columns", ""),
    "caption_removed": ("captions taken away", "the pictures are rejects until they have one again"),
    "renamed": ("pictures renamed", "they keep their place"),
    "replaced": ("pictures replaced by another of their name", "the new one is sealed instead"),
    "returned": ("pictures that are back", ""),
    "deleted": ("pictures gone and taken out", "they come back if their files do"),
    "kept_as_sealed": ("rows that cannot be read now", "they are kept as they were sealed"),
    "missing": ("pictures gone", "they stay in the lake; to take them out: mmret run --lake {lake} --forget-missing"),
}
"""By remark (:mod:`mmret.ingest.changes`): what it counts, and what becomes of it."""


def print_changes(summary: dict[str, Any], console: Console) -> None:
    """One line a source and kind of change; each stays on one line, since a command may be in it. Names of files are data."""
    lake = shlex.quote(summary["lake"])
    for remark in summary["remarks"]:
        if remark["remark"] in WORDS:
            counted, becomes = WORDS[remark["remark"]]
            example = " · ".join(printable(remark[part]).plain for part in ("path", "detail") if remark[part])
            said = f"{printable(remark['root']).plain}: {counted} {remark['count']:,} ({example})"
            console.print(Text(f"{said}; {becomes.replace('{lake}', lake)}" if becomes else said), soft_wrap=True)
