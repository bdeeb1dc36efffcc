"""Decides which sealed rows a corpus uses: of equal pictures the first whose source and file are there, up to ``corpus.images``,
and none of a picture that has opted out.

Shards stay sealed: no row moves and none is lost. A row that is not used any more gets a reason (``opted_out``,
``source_removed``, ``beyond_limit``, ``deleted``, ``replaced`` or ``caption_removed``), so it is among the rejects, and is used
again if what it lacks comes back. A picture whose file is gone or has changed can opt out as well. If a row was the first of
several equal pictures, the next of them becomes the image. One with a caption goes before those without. Cost: a look at four
columns while nothing changes; otherwise one pass over the manifest and some 150 bytes of memory per distinct picture.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret.curation.opted_out import OPTED_OUT
from mmret.ingest.shapes import parse_source
from mmret.lake import IMPORT_PREFIX, Lake
from mmret.schemas import CORPUS_MANIFEST
from mmret.settings import CorpusSettings

SOURCE_REMOVED, BEYOND_LIMIT = "source_removed", "beyond_limit"
NO_CAPTION = "no_caption"
"""Reason of rows whose source gives the picture no caption: one may be written for it (stage ``written_captions``)."""
NONE_GIVEN = "the caption is missing or empty (words for none, such as NULL and nan, count as missing)"
SELECTION_REASONS = (None, NO_CAPTION, "duplicate", OPTED_OUT, SOURCE_REMOVED, BEYOND_LIMIT)
"""Reasons of rows that have a picture and a place in a source."""
DELETED, REPLACED, CAPTION_REMOVED = "deleted", "replaced", "caption_removed"
LEFT_OUT = (DELETED, REPLACED, CAPTION_REMOVED)
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
    reasons = set(known["reason"].unique().to_pylist())
    captionless = NO_CAPTION in reasons
    gone = removal_test(corpus)
    within = corpus.images is None or rows_taken(known, corpus) <= corpus.images
    left_out = not reasons.isdisjoint((SOURCE_REMOVED, BEYOND_LIMIT))
    roots = known["root"].unique().to_pylist()
    as_it_was = within and not left_out and not any(gone(root) for root in roots) and _each_picture_once(known, reasons)
    as_opted = _as_opted(known, opted_out) if opted_out or OPTED_OUT in reasons else True
    if as_it_was and as_opted and not (captionless and _has_captioned_copies(lake, known)):
        return
    imported = [p for p in lake.partitions("corpus_manifest") if p.startswith(IMPORT_PREFIX)]
    images = lake.read("corpus_manifest", imported, ["image_id", "path"], pc.field("reason").is_null())
    taken: dict[str, str] = dict(zip(images["image_id"].to_pylist(), images["path"].to_pylist(), strict=True))
    captioned = _captioned(lake, gone) if captionless or left_out else {}
    with_a_row = _with_a_row(known, opted_out)
    count = 0
    for shard in lake.shards():
        rows = lake.read("corpus_manifest", shard).to_pylist()
        changed = False
        for row in sorted(rows, key=lambda r: r["position"]):
            is_gone = gone(row["root"])
            count += not is_gone and row["reason"] not in (DELETED, REPLACED)
            if row["reason"] in LEFT_OUT and (row["image_id"] not in opted_out or row["image_id"] in with_a_row):
                continue
            if row["reason"] not in (*SELECTION_REASONS, *LEFT_OUT) or row["image_id"] is None:
                continue
            if entry := opted_out.get(row["image_id"]):
                reason, detail = OPTED_OUT, entry
            else:
                beyond = corpus.images is not None and count > corpus.images
                reason, detail = _reason(row, is_gone, beyond, taken, captioned)
            if reason != row["reason"]:
                row["reason"], row["detail"], changed = reason, detail, True
        if changed:
            yield shard, pa.Table.from_pylist(rows, schema=CORPUS_MANIFEST)


def _as_opted(known: pa.Table, opted_out: Mapping[str, str]) -> bool:
    """Whether the rows with reason ``opted_out`` are those of the pictures that are."""
    noted = pc.and_(_is(known, OPTED_OUT), known["image_id"].is_valid())  # without an id: by its address, never fetched
    own = pc.invert(pc.starts_with(known["shard"], IMPORT_PREFIX))
    live = pc.is_in(known["reason"], value_set=pa.array(SELECTION_REASONS, pa.string()))
    alone = set(opted_out) - _with_a_row(known, opted_out)
    lone = pc.and_(pc.is_in(known["reason"], value_set=pa.array(LEFT_OUT)), _of(known, alone))
    out = pc.and_(own, pc.or_(pc.and_(live, _of(known, opted_out)), lone))
    return pc.all(pc.equal(pc.and_(own, noted), out)).as_py() is not False


def _with_a_row(known: pa.Table, opted_out: Mapping[str, str]) -> set[str]:
    """Those of the pictures ``opted_out`` that a row still has, so that it can say so. Of the others a row that was left out
    becomes one: nothing else would know that the picture is out, and history may hold it."""
    live = pc.is_in(known["reason"], value_set=pa.array(SELECTION_REASONS, pa.string()))
    return set(known.filter(pc.and_(live, _of(known, opted_out)))["image_id"].to_pylist())


def _of(known: pa.Table, pictures: Iterable[str]) -> pa.ChunkedArray:
    return pc.is_in(known["image_id"], value_set=pa.array(list(pictures), pa.string()))


def _each_picture_once(known: pa.Table, reasons: Collection[str | None]) -> bool:
    """Whether each picture that has a row to be used is the image of exactly one, be it one without a caption. ``reasons``: those
    that occur; a value that is compared with costs the import of pandas where that is installed, which most lakes are spared.
    """
    used = known["reason"].is_null()
    if NO_CAPTION in reasons:
        used = pc.or_kleene(used, _is(known, NO_CAPTION))
    images = known.filter(used)["image_id"].drop_null()
    if pc.count_distinct(images).as_py() != len(images):
        return False
    if "duplicate" not in reasons:
        return True
    own = pc.invert(pc.starts_with(known["shard"], IMPORT_PREFIX))
    copies = known.filter(pc.and_(own, _is(known, "duplicate")))["image_id"]
    return pc.all(pc.is_in(copies, value_set=images.combine_chunks())).as_py() is not False


def _is(known: pa.Table, reason: str) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(known["reason"], reason), False)


def _has_captioned_copies(lake: Lake, known: pa.Table) -> bool:
    """Whether a row with a caption is the duplicate of one without, to which the caption came later."""
    without = known.filter(_is(known, NO_CAPTION))["image_id"].combine_chunks()
    if not len(without) or not pc.any(_is(known, "duplicate")).as_py():
        return False
    copies = (pc.field("reason") == "duplicate") & pc.field("caption").is_valid() & pc.field("image_id").isin(without)
    return lake.read("corpus_manifest", columns=["image_id"], filters=copies).num_rows > 0


def _captioned(lake: Lake, gone: Callable[[str], bool]) -> dict[str, str]:
    """Path by image id of rows with a caption that have the content of a row without."""
    usable = pc.field("reason").is_null() | pc.field("reason").isin(["duplicate", SOURCE_REMOVED])
    lacking = pc.field("caption").is_null() & pc.field("reason").isin([NO_CAPTION, "duplicate", SOURCE_REMOVED, BEYOND_LIMIT])
    ids = lake.read("corpus_manifest", columns=["image_id"], filters=lacking)["image_id"].unique()
    same = usable & pc.field("caption").is_valid() & pc.field("image_id").isin(ids)
    rows = lake.read("corpus_manifest", columns=["root", "path", "image_id"], filters=same).to_pylist()
    return {row["image_id"]: row["path"] for row in rows if not gone(row["root"])}


def _reason(
    row: dict[str, Any], is_gone: bool, beyond: bool, taken: dict[str, str], captioned: dict[str, str]
) -> tuple[str | None, str | None]:
    """Reason and detail of a row. ``taken``: path by image id of the images so far; ``captioned``: see :func:`_captioned`."""
    lacks_caption = row["caption"] is None
    if is_gone:
        return SOURCE_REMOVED, f"{row['root']} was removed from the lake's sources"
    if beyond:
        return BEYOND_LIMIT, "more rows than corpus.images takes"
    if lacks_caption and captioned.get(row["image_id"]) == row["path"]:
        return REPLACED, "sealed again with a caption"
    if first := taken.get(row["image_id"]) or (captioned.get(row["image_id"]) if lacks_caption else None):
        return "duplicate", f"same content as {first}"
    taken[row["image_id"]] = row["path"]
    return (NO_CAPTION, NONE_GIVEN) if lacks_caption else (None, None)
