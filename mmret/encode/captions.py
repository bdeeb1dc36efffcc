"""Which stored vectors of captions are still those of the captions that the images have now, so that only edited ones are encoded.

A vector is kept with the hash of its text. Those of lakes from before captions could change have none: they count where the
version of ``images`` that they were computed from is still there and has the same caption. Cost: reading captions.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from mmret.hashing import content_id
from mmret.lake import Lake, history
from mmret.lake.inputs import read_inputs
from mmret.lake.partitions import read_files

_COLUMNS = ["image_id", "caption"]


def caption_ids(images: pa.Table) -> dict[str, str]:
    """``caption_id`` by image id, of a table with the columns image_id and caption."""
    captions = (caption or "" for caption in images["caption"].to_pylist())
    return {i: content_id(caption.encode()) for i, caption in zip(images["image_id"].to_pylist(), captions, strict=True)}


def same_captions(
    lake: Lake, shard: str, model: str, stored: dict[str, dict[str, Any]], images: pa.Table
) -> dict[str, dict[str, Any]]:
    """Those rows of ``stored``, by image id (columns of ``CAPTION_VECTORS_INDEX``), that are of the captions in ``images``."""
    now = caption_ids(images)
    unmarked = any(row["caption_id"] is None for row in stored.values())
    before = _encoded_before(lake, shard, model) if unmarked else {}
    return {i: row for i, row in stored.items() if i in now and now[i] == (row["caption_id"] or before.get(i))}


def _encoded_before(lake: Lake, shard: str, model: str) -> dict[str, str]:
    """``caption_id`` by image id of what the partition that is there was computed from; empty where that is not known."""
    facts = lake.facts("caption", shard)
    made = read_inputs(lake, facts.inputs) if facts is not None and facts.notes.get("model") == model else None
    digest = made and made["upstream"].get("images", {}).get(shard, [None])[0]
    if not digest:
        return {}
    now = lake.facts("images", shard)
    keys = [lake.key("images", shard)] if now is not None and now.of_columns(_COLUMNS).digest == digest else []
    keys += [version.key for version in history.versions(lake, "images", shard) if version.digest == digest]
    for key in keys:
        try:
            return caption_ids(read_files(lake.storage, "images", [key], _COLUMNS))
        except FileNotFoundError:  # dropped meanwhile
            continue
    return {}
