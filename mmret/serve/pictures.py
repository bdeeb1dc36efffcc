"""Pictures that clients send: how many pixels they have is read from the header before anything is decoded.

What passes here decodes without an error later, so that a bad picture costs no place in the queue. Cost: a JPEG is decoded at an
eighth of its size, anything else once.
"""

from __future__ import annotations

import base64
import binascii

from mmret.ingest.pictures.decode import Unreadable, open_rgb
from mmret.serve.limits import Limits
from mmret.serve.refusal import Refusal
from mmret.settings import IngestSettings

_STATUS = {"too_many_pixels": 413, "too_many_bytes": 413, "not_an_image": 415, "unsupported_format": 415}


def from_base64(text: str) -> bytes:
    """The file in ``text``, base64 with or without the beginning of a data address. Raises Refusal where it is none."""
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise Refusal(422, "image: write `data:image/png;base64,` before the base64, or nothing")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(422, "image: this is not base64") from None


def check_picture(data: bytes, limits: Limits) -> bytes:
    """``data``, a file that can be decoded. Raises Refusal: 413 too many pixels, 415 no picture, 400 a broken one."""
    try:
        open_rgb(data, IngestSettings(max_pixels=limits.pixels, max_bytes=limits.body_bytes), draft=(64, 64))
    except Unreadable as why:
        raise Refusal(_STATUS.get(why.reason, 400), f"the picture cannot be used: {why}"[:300]) from None
    except MemoryError:
        raise Refusal(413, "the picture needs more memory than there is") from None
    return data
