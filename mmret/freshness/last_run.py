"""What the last whole run of a lake left with the Dagster instance that recorded it, as one small file in that instance's folder.

By it a run knows without asking Dagster that the instance has the lake's shards and recipes as partitions, that no run is left
unfinished there, and which checks failed. The file is taken away before anything is launched and written when all has ended well,
so a run that was killed leaves none; neither does a folder that was deleted or never used. Costs one small file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mmret.atomic import write_text
from mmret.hashing import fingerprint
from mmret.lake import Lake
from mmret.settings import Profile

KEPT_HOURS = 12.0
"""For so long the record stands for a look that Dagster has on record: its UI warns of sources that were not listed for days."""


@dataclass(frozen=True)
class LastRun:
    """``shards`` and ``recipes`` that the instance has as partitions; names of checks that ``failed``; when it ended (s); which
    file holds the instance's ``history`` (its inode; None: it is kept elsewhere)."""

    shards: list[str]
    recipes: list[str]
    failed: list[str]
    ended: float
    history: int | None

    @property
    def is_fresh(self) -> bool:
        """Whether it is not too old to stand for a look of now; a clock that was set back makes it none."""
        return 0 <= time.time() - self.ended < KEPT_HOURS * 3600

    def knows(self, lake: Lake, profile: Profile) -> bool:
        """Whether the instance has the partitions that the lake has now, no more and no fewer."""
        return self.shards == lake.shards() and self.recipes == sorted(profile.recipes)


def dagster_home(lake: Lake) -> Path:
    """The folder of the Dagster instance that keeps this lake's history: ``DAGSTER_HOME`` where it is set, else ``.dagster`` in the
    lake's folder on this machine."""
    return Path(os.environ.get("DAGSTER_HOME") or lake.scratch / ".dagster")


def record_path(lake: Lake) -> Path:
    """Where the record of ``lake`` lies. Ask before Dagster is opened, which may set ``DAGSTER_HOME``."""
    return dagster_home(lake) / "last_runs" / f"{fingerprint(lake.address)}.json"


def read_last_run(path: Path) -> LastRun | None:
    """The record at ``path``; None where there is none that can be read, or where it is not for sure of the instance as it is
    now: its history was deleted since, or another lake had a run there, which registered its own partitions.
    """
    try:
        last = LastRun(**json.loads(path.read_text()))
        written = path.stat().st_mtime_ns
        later = any(other.stat().st_mtime_ns > written for other in path.parent.glob("*.json") if other != path)
    except (OSError, ValueError, TypeError):
        return None
    return None if later or last.history != _history(path) else last


def _history(path: Path) -> int | None:
    try:
        return (path.parent.parent / "history" / "runs.db").stat().st_ino
    except OSError:
        return None


def forget_last_run(path: Path) -> None:
    """Before anything is launched. Raises OSError where the record is there and cannot be taken away."""
    path.unlink(missing_ok=True)


def note_last_run(path: Path, lake: Lake, profile: Profile, failed: Sequence[str]) -> None:
    """After a whole run that ended well. A disk that takes no more fails no run: the next one has no record then."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(
            path, json.dumps(asdict(LastRun(lake.shards(), sorted(profile.recipes), sorted(failed), time.time(), _history(path))))
        )
