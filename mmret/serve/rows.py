"""Rows and pictures of the corpus by id. Costs reading the index of the images, and one picture."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.compute as pc

from mmret.lake import Lake
from mmret.serve.public import public_row
from mmret.serve.refusal import Refusal
from mmret.web.pictures import ID, Thumbnails

_PICTURES = 500
"""Pictures that stay in memory, some 50 kB each."""


class Rows:
    """What one lake has. Safe for threads."""

    def __init__(self, lake: Lake):
        self._lake = lake
        self._pictures = Thumbnails(lake, _PICTURES)

    def row(self, image_id: str) -> dict[str, Any]:
        """An :class:`~mmret.serve.answers.ImageAnswer`. Raises Refusal (404) for an id that no picture has."""
        found = self._lake.read("images", filters=pc.field("image_id") == image_id).to_pylist() if ID.fullmatch(image_id) else []
        if not found:
            raise _unknown()
        row = found[0]
        try:
            row["extra"] = json.loads(row["extra"]) if row["extra"] else None
        except ValueError:
            row["extra"] = None
        return {**public_row(row), "picture": f"/images/{image_id}/picture"}

    def picture(self, image_id: str, side: int) -> bytes:
        """A JPEG of at most ``side`` pixels. Raises Refusal (404) for an id that no picture has."""
        data = self._pictures.get(image_id, side)
        if data is None:
            raise _unknown()
        return data


def _unknown() -> Refusal:
    return Refusal(404, "the corpus has no picture of this id")
