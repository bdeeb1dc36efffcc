"""Whether `mmret run` has nothing to do, told from the lake alone: without Dagster, which takes a second to import.

The same questions as in a run, by the same functions: the sources are listed and compared with what is sealed, and every stage's
fingerprint with the recorded one. Whatever is not as the last run left it, or cannot be told for sure, is left to the run itself,
and so is a lake whose sources are larger or farther away than is worth listing twice. Costs a listing of the sources and a Parquet
footer a partition.
"""

from __future__ import annotations

import time
from pathlib import Path

from mmret.freshness.last_run import read_last_run
from mmret.freshness.outcome import Outcome
from mmret.freshness.survey import Snapshot
from mmret.freshness.turns import first_stale, turns_of
from mmret.lake import Lake
from mmret.lake.configuration import URL_LIST
from mmret.settings import Profile
from mmret.stages import RUNS, assets_of
from mmret.storage import is_object_address

ROWS_AT_MOST = 20_000
"""Of sealed rows: where there are more, listing them twice would cost a run that has something to do more than Dagster does."""


def nothing_to_do(lake: Lake, profile: Profile, record: Path, forget_missing: bool = False) -> Outcome | None:
    """The outcome of a run that finds everything current, where that is sure; None where a run has to see for itself.

    ``record``: of the lake's last run (:func:`mmret.freshness.last_run.record_path`). Only for the holder of the lake's lease,
    where the holder before it ended well. Writes nothing but sums of pictures that a run would keep too.

    >>> nothing_to_do(lease.lake, profile, record_path(lease.lake))
    """
    started = time.monotonic()
    last = read_last_run(record)
    if last is None or last.failed or not last.is_fresh or any(map(_far, profile.corpus.sources)):
        return None
    try:
        now = Snapshot(lake)
        if not last.knows(now, profile) or _rows(now) > ROWS_AT_MOST:
            return None
        if any(first_stale(now, profile, run, key) for run in RUNS for key in turns_of(now, profile, run[0])):
            return None
        listing = time.monotonic()
        from mmret.ingest.stage import is_sealed

        if not is_sealed(lake, profile, forget_missing):
            return None
    except Exception:  # noqa: BLE001 - whatever it is, the run meets it again and says it in its own words
        return None
    ended = time.monotonic()
    written = assets_of(["corpus_manifest"])
    return Outcome(rows_computed=dict.fromkeys(written, 0), seconds={"corpus_manifest": ended - listing}, total=ended - started)


def _far(source: str) -> bool:
    """Whether listing ``source`` means requests to wait for."""
    return source.startswith(URL_LIST) or is_object_address(source)


def _rows(lake: Lake) -> int:
    return sum(facts.rows for shard in lake.shards() if (facts := lake.facts("corpus_manifest", shard)))
