"""Decides which sealed rows a corpus uses after a source was removed or ``corpus.images`` was lowered or raised again.

Shards stay sealed: no row moves and none is lost. A row that is not used any more gets the reason ``source_removed`` or
``beyond_limit``, so it is among the rejects, and is used again if the source or the limit comes back. If it was the first of
several equal pictures, the next of them becomes the image. Cost: a look at one column while nothing changes; otherwise one pass
over the manifest and some 150 bytes of memory per distinct picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret.ingest.shapes import parse_source
from mmret.lake import Lake
from mmret.schemas import CORPUS_MANIFEST
from mmret.settings import CorpusSettings

SOURCE_REMOVED, BEYOND_LIMIT = "source_removed", "beyond_limit"
_SELECTION_REASONS = (None, "duplicate", SOURCE_REMOVED, BEYOND_LIMIT)


def removal_test(corpus: CorpusSettings) -> Callable[[str], bool]:
    """A function that tells whether a row with a given ``root`` belongs to a source that was removed."""

    def seeds(sources: tuple[str, ...]) -> set[int]:
        return {parse_source(s)[1] for s in sources if s.startswith("shapes:")}

    gone, drawn = set(corpus.removed) - set(corpus.sources), seeds(corpus.removed) - seeds(corpus.sources)
    return lambda root: parse_source(root)[1] in drawn if root.startswith("shapes:") else root in gone


def rows_taken(known: pa.Table, corpus: CorpusSettings) -> int:
    """Sealed rows that count towards ``corpus.images``; ``known`` needs the column ``root``."""
    gone = removal_test(corpus)
    return sum(r["counts"] for r in known["root"].value_counts().to_pylist() if not gone(r["values"]))


def reselect(lake: Lake, corpus: CorpusSettings) -> Iterator[tuple[str, pa.Table]]:
    """Yield (shard, rows of CORPUS_MANIFEST) for every sealed shard in which a row is no longer used or is used again."""
    known = lake.read("corpus_manifest", columns=["root", "reason"])
    gone = removal_test(corpus)
    within = corpus.images is None or rows_taken(known, corpus) <= corpus.images
    left_out = pc.any(pc.is_in(known["reason"], pa.array([SOURCE_REMOVED, BEYOND_LIMIT]))).as_py()
    if within and not left_out and not any(gone(root) for root in known["root"].unique().to_pylist()):
        return
    taken: dict[str, str] = {}
    count = 0
    for shard in lake.shards():
        rows = lake.read("corpus_manifest", shard).to_pylist()
        changed = False
        for row in sorted(rows, key=lambda r: r["position"]):
            is_gone = gone(row["root"])
            count += not is_gone
            if row["reason"] not in _SELECTION_REASONS:
                continue
            reason, detail = _reason(row, is_gone, corpus.images is not None and count > corpus.images, taken)
            if reason != row["reason"]:
                row["reason"], row["detail"], changed = reason, detail, True
        if changed:
            yield shard, pa.Table.from_pylist(rows, schema=CORPUS_MANIFEST)


def _reason(row: dict[str, Any], is_gone: bool, beyond: bool, taken: dict[str, str]) -> tuple[str | None, str | None]:
    if is_gone:
        return SOURCE_REMOVED, f"{row['root']} was removed from the lake's sources"
    if beyond:
        return BEYOND_LIMIT, "more rows than corpus.images takes"
    if first := taken.get(row["image_id"]):
        return "duplicate", f"same content as {first}"
    taken[row["image_id"]] = row["path"]
    return None, None
