"""What became of sealed rows whose sources changed, in words, at the end of `mmret run`; what is gone is said at each run."""

from __future__ import annotations

import shlex
from typing import Any

from rich.console import Console
from rich.text import Text

from mmret.cli.terminal import printable

WORDS = {
    "caption_edited": "captions edited; what depends on them is computed again",
    "licence_edited": "licences edited",
    "columns_edited": "rows with another source or other columns",
    "caption_removed": "captions taken away: these pictures are rejects until they have one again",
    "renamed": "pictures renamed: they keep their place",
    "replaced": "pictures replaced by others of the same name: the new ones are sealed instead",
    "returned": "pictures that were left out are back",
    "deleted": "pictures gone: taken out; they come back if their files do",
    "kept_as_sealed": "rows that cannot be read now: kept as they were sealed",
    "missing": "pictures gone: they stay in the lake",
}
"""By remark (:mod:`mmret.ingest.changes`)."""


def print_changes(summary: dict[str, Any], console: Console) -> None:
    """One line a source and kind of change, and the command that takes out what is gone. Names of files are data."""
    for remark in summary["remarks"]:
        if words := WORDS.get(remark["remark"]):
            example = " · ".join(printable(remark[part]).plain for part in ("path", "detail") if remark[part])
            root = printable(remark["root"]).plain
            console.print(Text(f"{root}: {remark['count']:,} {words} ({example})"), soft_wrap=True)
    if any(remark["remark"] == "missing" for remark in summary["remarks"]):
        console.print(
            Text(f"  to take out what is gone: mmret run --lake {shlex.quote(summary['lake'])} --forget-missing"), soft_wrap=True
        )
