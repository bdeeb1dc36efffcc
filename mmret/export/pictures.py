"""Pictures of an export: their names, made of nothing but their ids and formats, and their files in batches.

No text of the corpus becomes part of a path, so a caption or file name cannot lead out of the folder. Cost: 33 bytes per name,
one look-up in Lance per ``BATCH`` pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret.errors import UserError
from mmret.lake import Lake

BATCH = 128
"""Pictures held at once."""
COLUMNS = ("image_id", "path", "caption", "width", "height", "format", "licence", "source")
"""What is told of a picture beside its file."""
_SUFFIX = {"jpeg": "jpg", "mpo": "jpg", "tiff": "tif"}


def suffix(format_: str | None) -> str:
    """File extension of a Pillow format: ``jpg``, ``png``, ...; letters and digits only."""
    plain = re.sub(r"[^a-z0-9]", "", (format_ or "").lower())
    return _SUFFIX.get(plain, plain or "bin")


class PictureNames:
    """File names of pictures by id: ``<id>.<extension>``; folders of two digits are for the format to add."""

    def __init__(self, lake: Lake):
        rows = lake.read("images", columns=["image_id", "format"])
        self._ids = rows["image_id"].combine_chunks()
        formats = rows["format"].unique().to_pylist()
        self._suffixes = pa.array([suffix(f) for f in formats], pa.string())
        self._codes = pc.index_in(rows["format"].combine_chunks(), pa.array(formats, pa.string()))

    def of(self, ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> dict[str, str]:
        """Name of every id. Raises UserError for one that the lake does not hold."""
        unique = pc.unique(ids) if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(dict.fromkeys(ids), pa.string())
        at = pc.index_in(unique, self._ids)
        if at.null_count:
            missing = unique.filter(pc.is_null(at))[0].as_py()
            raise UserError(f"picture {missing} of a triplet is not in table images; run `mmret run` again")
        suffixes = self._suffixes.take(self._codes.take(at)).to_pylist()
        return {i: f"{i}.{s}" for i, s in zip(unique.to_pylist(), suffixes, strict=True)}


def pictures(lake: Lake, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows (``COLUMNS`` and ``data``, the file) of distinct ``ids``, by id. Raises UserError for one that is not there."""
    wanted = list(dict.fromkeys(ids))
    found: dict[str, dict[str, Any]] = {}
    table = lake.lance("images")
    for start in range(0, len(wanted), BATCH):
        listed = ", ".join(f"'{i}'" for i in wanted[start : start + BATCH] if i.isalnum())
        rows = table.search().where(f"image_id IN ({listed})").select([*COLUMNS, "data"]).to_arrow()
        found.update((row["image_id"], row) for row in rows.select([*COLUMNS, "data"]).to_pylist())
    if missing := [i for i in wanted if i not in found]:
        raise UserError(f"picture {missing[0]} of a triplet is not in the lake; run `mmret run` again")
    return found


def batches(lake: Lake, ids: Sequence[str] | pa.Array) -> Iterator[list[dict[str, Any]]]:
    """Rows of ``ids`` in their order, ``BATCH`` at a time."""
    for start in range(0, len(ids), BATCH):
        some = ids[start : start + BATCH]
        wanted = some.to_pylist() if isinstance(some, pa.Array) else list(some)
        rows = pictures(lake, wanted)
        yield [rows[i] for i in wanted]


def mean_bytes(lake: Lake) -> int:
    """Mean size of the corpus' files in bytes, for dividing an export into files; at least 1."""
    sizes = lake.read("corpus_manifest", columns=["size", "image_id"])
    return max(1, int(pc.mean(sizes["size"]).as_py() or 1))
