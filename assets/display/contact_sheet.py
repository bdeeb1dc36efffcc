"""Draws a few triplets as one small picture (source, instruction, target), to look at before one trusts a shard.

Costs a look-up and a decode per picture; the JPEG stays under 60 kB, so that it fits into an event log.
"""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from mmret.ingest.pictures.decode import open_rgb

_SIDE, _GAP, _TEXT, _WORDS = 96, 10, 300, 44


def contact_sheet(triplets: Sequence[Mapping[str, Any]], load_images: Callable[[Sequence[str]], Mapping[str, bytes]]) -> bytes:
    """JPEG with one line per triplet (keys ``query_id, target_id, texts``): the source, up to three texts, the target."""
    files = load_images(sorted({i for t in triplets for i in (t["query_id"], t["target_id"])}))
    sheet = Image.new("RGB", (2 * _SIDE + _TEXT + 4 * _GAP, len(triplets) * (_SIDE + _GAP) + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, triplet in enumerate(triplets):
        top = _GAP + row * (_SIDE + _GAP)
        for image_id, left in ((triplet["query_id"], _GAP), (triplet["target_id"], _SIDE + _TEXT + 3 * _GAP)):
            picture = open_rgb(files[image_id])
            picture.thumbnail((_SIDE, _SIDE))
            sheet.paste(picture, (left + (_SIDE - picture.width) // 2, top + (_SIDE - picture.height) // 2))
            draw.rectangle((left, top, left + _SIDE - 1, top + _SIDE - 1), outline="#cccccc")
        lines = [
            line
            for text in triplet["texts"][:3]
            for line in textwrap.wrap(text, _WORDS, max_lines=2, initial_indent="- ", subsequent_indent="  ")
        ]
        draw.multiline_text((_SIDE + 2 * _GAP, top), "\n".join(lines[:6]), fill="#222222", font=font, spacing=3)
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=70)
    return out.getvalue()
