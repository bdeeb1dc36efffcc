"""Which rows of a shard want a caption: those whose source gives none, and those with a poor one where the settings say so.

Whether a shard has any costs a Parquet footer, and one small column where rows of it were refused.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmret.ingest.selection import NO_CAPTION
from mmret.lake import Lake
from mmret.settings import CaptionSettings, Profile
from mmret.storage import StorageUnreachable

TABLE = "written_captions"
MANIFEST_COLUMNS = ["position", "root", "path", "image_id", "size", "caption", "reason"]


class Wanting(NamedTuple):
    """Rows of a shard's manifest, in order."""

    missing: list[dict[str, Any]]
    poor: list[dict[str, Any]]


def rows_to_caption(lake: Lake, shard: str, settings: CaptionSettings) -> Wanting:
    """The rows of a shard that want a caption, with ``MANIFEST_COLUMNS``.

    >>> len(rows_to_caption(lake, "shard-00000", profile.captions).missing)
    """
    from mmret.captions.poor import is_poor  # Pillow: not for a survey

    rows = lake.read("corpus_manifest", shard, MANIFEST_COLUMNS).sort_by("position")
    missing, poor = [], []
    if settings.missing != "reject":
        missing = rows.filter(pc.and_(pc.equal(rows["reason"], NO_CAPTION), rows["image_id"].is_valid())).to_pylist()
    if settings.poor is not None:
        images = rows.filter(rows["reason"].is_null()).to_pylist()
        poor = [row for row in images if is_poor(row["caption"], row["path"], settings.poor)]
    return Wanting(missing, poor)


def has_rows_to_caption(lake: Lake, profile: Profile, shard: str) -> bool:
    """Whether the stage has anything to do with a shard: rows that want a caption, or rows of before that want none any more.

    With a setting for poor captions it has, since each has to be looked at.
    """
    facts = lake.facts(TABLE, shard)
    if facts is not None and facts.rows:
        return True
    settings = profile.captions
    if settings.poor is not None:
        return lake.exists("corpus_manifest", shard)
    return settings.missing != "reject" and _has_row_without_caption(lake, shard)


def _has_row_without_caption(lake: Lake, shard: str) -> bool:
    try:
        with lake.open_file("corpus_manifest", shard) as file:
            metadata = pq.read_metadata(file)
    except StorageUnreachable:
        raise
    except (OSError, pa.ArrowException):  # none, or damaged: whoever reads it says so
        return False
    column = metadata.schema.names.index("reason")
    groups = [metadata.row_group(n).column(column).statistics for n in range(metadata.num_row_groups)]
    refused = any(found is None or found.null_count is None or found.num_values for found in groups)
    if not refused:
        return False
    rows = lake.read("corpus_manifest", shard, ["image_id", "reason"])
    return NO_CAPTION in rows.filter(rows["image_id"].is_valid())["reason"].unique().to_pylist()
