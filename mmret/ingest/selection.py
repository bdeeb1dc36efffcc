"""Decides which sealed rows a corpus uses: of equal pictures the first whose source and file are there, up to ``corpus.images``,
and none of a picture that has opted out.

Shards stay sealed: no row moves and none is lost. A row that is not used any more gets a reason (``opted_out``,
``source_removed``, ``beyond_limit``, ``deleted``, ``replaced`` or ``caption_removed``), so it is among the rejects, and is used
again if what it lacks comes back. If it was the first of several equal pictures, the next of them becomes the image. Cost: a look
at four columns while nothing changes; otherwise one pass over the manifest and some 150 bytes of memory per distinct picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret.curation.opted_out import OPTED_OUT
from mmret.ingest.shapes import parse_source
from mmret.lake import IMPORT_PREFIX, Lake
from mmret.schemas import CORPUS_MANIFEST
from mmret.settings import CorpusSettings

SOURCE_REMOVED, BEYOND_LIMIT = "source_removed", "beyond_limit"
SELECTION_REASONS = (None, "duplicate", OPTED_OUT, SOURCE_REMOVED, BEYOND_LIMIT)
"""Reasons of rows that have a picture, a caption and a place in a source."""
DELETED, REPLACED, CAPTION_REMOVED = "deleted", "replaced", "caption_removed"
"""Reasons of rows that had all that when they were sealed (:mod:`mmret.ingest.changes`)."""


def removal_test(corpus: CorpusSettings) -> Callable[[str], bool]:
    """A function that tells whether a row with a given ``root`` belongs to a source that was removed."""

    def seeds(sources: tuple[str, ...]) -> set[int]:
        return {parse_source(s)[1] for s in sources if s.startswith("shapes:")}

    gone, drawn = set(corpus.removed) - set(corpus.sources), seeds(corpus.removed) - seeds(corpus.sources)
    return lambda root: parse_source(root)[1] in drawn if root.startswith("shapes:") else root in gone


def rows_taken(known: pa.Table, corpus: CorpusSettings) -> int:
    """Sealed rows that count towards ``corpus.images``; ``known`` needs the columns ``root`` and ``reason``."""
    gone = removal_test(corpus)
    counted = known.filter(pc.invert(pc.is_in(known["reason"], pa.array([DELETED, REPLACED]))))
    return sum(r["counts"] for r in counted["root"].value_counts().to_pylist() if not gone(r["values"]))


def reselect(lake: Lake, corpus: CorpusSettings, opted_out: Mapping[str, str]) -> Iterator[tuple[str, pa.Table]]:
    """Yield (shard, rows of CORPUS_MANIFEST) for every sealed shard in which a row is no longer used or is used again.

    ``opted_out``: ids of the pictures that are not to be used, each with the entry of a list that says so.
    """
    known = lake.read("corpus_manifest", columns=["shard", "root", "reason", "image_id"])
    gone = removal_test(corpus)
    within = corpus.images is None or rows_taken(known, corpus) <= corpus.images
    left_out = pc.any(pc.is_in(known["reason"], pa.array([SOURCE_REMOVED, BEYOND_LIMIT]))).as_py()
    roots = known["root"].unique().to_pylist()
    if within and not left_out and not any(gone(r) for r in roots) and _as_opted(known, opted_out) and _each_picture_once(known):
        return
    imported = [p for p in lake.partitions("corpus_manifest") if p.startswith(IMPORT_PREFIX)]
    images = lake.read("corpus_manifest", imported, ["image_id", "path"], pc.field("reason").is_null())
    taken: dict[str, str] = dict(zip(images["image_id"].to_pylist(), images["path"].to_pylist(), strict=True))
    count = 0
    for shard in lake.shards():
        rows = lake.read("corpus_manifest", shard).to_pylist()
        changed = False
        for row in sorted(rows, key=lambda r: r["position"]):
            is_gone = gone(row["root"])
            count += not is_gone and row["reason"] not in (DELETED, REPLACED)
            if row["reason"] not in SELECTION_REASONS:
                continue
            if entry := opted_out.get(row["image_id"]):
                reason, detail = OPTED_OUT, entry
            else:
                reason, detail = _reason(row, is_gone, corpus.images is not None and count > corpus.images, taken)
            if reason != row["reason"]:
                row["reason"], row["detail"], changed = reason, detail, True
        if changed:
            yield shard, pa.Table.from_pylist(rows, schema=CORPUS_MANIFEST)


def _as_opted(known: pa.Table, opted_out: Mapping[str, str]) -> bool:
    """Whether the rows with reason ``opted_out`` are those of the pictures that are."""
    noted = pc.fill_null(pc.equal(known["reason"], OPTED_OUT), False)
    own = pc.invert(pc.starts_with(known["shard"], IMPORT_PREFIX))
    live = pc.and_(own, pc.is_in(known["reason"], value_set=pa.array(SELECTION_REASONS, pa.string())))
    out = pc.and_(live, pc.is_in(known["image_id"], value_set=pa.array(list(opted_out), pa.string())))
    return pc.all(pc.equal(pc.and_(own, noted), out)).as_py() is not False


def _each_picture_once(known: pa.Table) -> bool:
    """Whether each picture that has a row to be used is the image of exactly one."""
    images = known.filter(known["reason"].is_null())["image_id"]
    own = pc.invert(pc.starts_with(known["shard"], IMPORT_PREFIX))
    copies = known.filter(pc.and_(own, pc.fill_null(pc.equal(known["reason"], "duplicate"), False)))["image_id"]
    once = pc.count_distinct(images).as_py() == len(images)
    return once and pc.all(pc.is_in(copies, value_set=images.combine_chunks())).as_py() is not False


def _reason(row: dict[str, Any], is_gone: bool, beyond: bool, taken: dict[str, str]) -> tuple[str | None, str | None]:
    if is_gone:
        return SOURCE_REMOVED, f"{row['root']} was removed from the lake's sources"
    if beyond:
        return BEYOND_LIMIT, "more rows than corpus.images takes"
    if first := taken.get(row["image_id"]):
        return "duplicate", f"same content as {first}"
    taken[row["image_id"]] = row["path"]
    return None, None
