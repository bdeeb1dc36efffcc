"""Serves pictures to the browser by id, decoded and encoded again, so that a file that is not a picture is never served.

A page's pictures are fetched in one look-up (about 30 ms for 500); the last ``MAX_THUMBNAILS`` stay in memory as thumbnails.
"""

from __future__ import annotations

import io
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence

from PIL import Image

from mmret.ingest.pictures.decode import Unreadable, open_rgb
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake

SIDES = (160, 512)
"""The two sizes in pixels: in a list, and of a single picture."""
MAX_THUMBNAILS = 2000
ID = re.compile(r"[0-9a-f]{32}")


class Thumbnails:
    """JPEG thumbnails by (image id, side); the last ``most`` stay in memory."""

    def __init__(self, lake: Lake, most: int = MAX_THUMBNAILS):
        self.lake, self.most = lake, most
        self._lock = threading.Lock()
        self._thumbnails: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def prepare(self, ids: Sequence[str], side: int = SIDES[0]) -> None:
        """Make those of ``ids`` that are not there, in one look-up."""
        with self._lock:
            missing = [i for i in dict.fromkeys(ids) if (i, side) not in self._thumbnails and ID.fullmatch(i)]
        if not missing:
            return
        files = images_by_id(self.lake, missing)
        new = {i: made for i in missing if (made := thumbnail(files.get(i), side)) is not None}  # a missing one may come yet
        with self._lock:
            self._thumbnails.update(((i, side), data) for i, data in new.items())
            while len(self._thumbnails) > self.most:
                self._thumbnails.popitem(last=False)

    def get(self, image_id: str, side: int) -> bytes | None:
        """The JPEG, or None where the lake has no such picture."""
        if side not in SIDES or not ID.fullmatch(image_id):
            return None
        self.prepare([image_id], side)
        with self._lock:
            return self._thumbnails.get((image_id, side))


def thumbnail(data: bytes | None, side: int) -> bytes | None:
    """JPEG of at most ``side`` pixels of a picture's file; None for none, and for what is no picture."""
    if data is None:
        return None
    try:
        picture = open_rgb(data)
    except Unreadable:
        return None
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88)
    return out.getvalue()


def url(image_id: str, side: int = SIDES[0]) -> str:
    """Address of a picture, on the page's own host."""
    return f"/pictures/{image_id if ID.fullmatch(image_id) else 'none'}/{side}"
