"""Invariant of what every encoder sees of a transparent picture: under it lies white, in every mode that has transparency."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from mmret.ingest.pictures.decode import open_rgb


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode, colour", [("RGBA", (10, 200, 30)), ("LA", (90,))])
def test_a_transparent_picture_lies_on_white_and_a_half_transparent_one_half_so(mode, colour):
    for alpha, share in ((0, 0.0), (255, 1.0), (128, 128 / 255)):
        seen = open_rgb(png(Image.new(mode, (3, 2), (*colour, alpha)))).getpixel((1, 1))
        rgb = colour if len(colour) == 3 else colour * 3
        assert seen == pytest.approx(tuple(255 * (1 - share) + c * share for c in rgb), abs=1)


def test_a_transparent_colour_of_a_palette_or_of_a_plain_picture_is_white():
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([200, 0, 0, 0, 0, 200])
    palette.putpixel((1, 0), 1)
    seen = open_rgb(png(palette, transparency=0))
    assert [seen.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 200)]
    plain = Image.new("RGB", (2, 1), (200, 0, 0))
    plain.putpixel((1, 0), (0, 0, 200))
    seen = open_rgb(png(plain, transparency=(200, 0, 0)))
    assert [seen.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 200)]
