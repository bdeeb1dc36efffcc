"""What was measured, a line of JSON when it is known and a table at the end; and which promises were kept."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

_COLUMNS = {
    "part": "",
    "what": "",
    "requests": "d",
    "errors": "d",
    **dict.fromkeys(("per_s", "p50", "p90", "p99", "max", "late_p99"), ".1f"),
    "server_ms": ".2f",
    "sender_share": ".0%",
    "checked": "d",
    "wrong": "d",
}


@dataclass
class Report:
    """``promises``: words, and whether it was kept."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    promises: list[tuple[str, bool]] = field(default_factory=list)

    def add(self, part: str, what: str, **figures: Any) -> None:
        self.rows.append({"part": part, "what": what, **figures})
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in self.rows[-1].items()}), flush=True)

    def promise(self, words: str, kept: bool) -> None:
        self.promises.append((words, bool(kept)))

    def table(self) -> str:
        """A line for each row with latencies (ms), then one for each promise."""
        cells = [[format(row[c], f) if c in row else "" for c, f in _COLUMNS.items()] for row in self.rows if "p99" in row]
        lines = [list(_COLUMNS), *cells]
        widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
        said = [f"{'kept  ' if kept else 'MISSED'}  {words}" for words, kept in self.promises]
        return "\n".join([*("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines), "", *said])
