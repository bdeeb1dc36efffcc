"""Draw a scene of the ``shapes`` corpus with Pillow, at twice the size and reduced, so that edges stay smooth.

Backgrounds and pattern masks are drawn once; a picture costs one mask, two pastes, a reduction and a PNG of about
2 KB. The bytes depend on the zlib that Pillow was built with, the pixels do not.
"""

from __future__ import annotations

import colorsys
import io
import math
from functools import cache

from PIL import Image, ImageChops, ImageDraw

from mmret.ingest.shapes import Scene

SIDE = 64
_BIG = 2 * SIDE  # everything below is in pixels of the doubled canvas
_SPARE = 32  # patterns are drawn larger than the canvas and shifted by the jitter

_HUES = {
    "red": (0.99, 0.85, 0.88),
    "orange": (0.075, 0.95, 1.0),
    "yellow": (0.15, 0.9, 0.98),
    "green": (0.36, 0.8, 0.62),
    "blue": (0.62, 0.85, 0.85),
    "purple": (0.78, 0.7, 0.7),
}  # hue, saturation, value
_FLAT = {"white": (252, 252, 252), "black": (12, 12, 12), "sky blue": (150, 210, 245)}
_INK = (25, 25, 25)
_RADII = {"large": 40, "small": 22}
_PLACES = {"centre": 0, "left": -1, "right": 1}


def render(scene: Scene) -> bytes:
    """The scene as a PNG file, 64 x 64, 8-bit RGB."""
    x, y, scale, tilt, hue, phase, corner, height = scene.jitter
    radius = _RADII[scene.size] * (0.94 + 0.12 * scale)
    side = _PLACES[scene.position]
    middle = (_BIG / 2 + side * (_BIG / 2 - 4 - radius) + 6 * (x - 0.5), _BIG / 2 + 8 * (y - 0.5))
    angle = math.radians(24 * (tilt - 0.5))
    shift = int(phase * _SPARE)

    canvas = _background(scene.background).crop((shift, shift, shift + _BIG, shift + _BIG))
    canvas.paste(_INK, mask=_mask(scene.shape, middle, radius, angle, grown=3))
    mask = _mask(scene.shape, middle, radius, angle)
    canvas.paste(_colour(scene.colour, hue), mask=mask)
    if scene.pattern != "plain":
        overlay = _pattern(scene.pattern).crop((shift, shift, shift + _BIG, shift + _BIG))
        canvas.paste((255, 255, 255), mask=ImageChops.darker(mask, overlay))
    if scene.other != "none":
        _second(ImageDraw.Draw(canvas), scene.other, _free_place(side, corner, height))
    out = io.BytesIO()
    canvas.reduce(2).save(out, "PNG", compress_level=3)
    return out.getvalue()


def _colour(name: str, draw: float) -> tuple[int, int, int]:
    hue, saturation, value = _HUES[name]
    rgb = colorsys.hsv_to_rgb((hue + 0.02 * (draw - 0.5)) % 1, saturation, value * (0.94 + 0.06 * draw))
    return tuple(round(255 * c) for c in rgb)


def _mask(shape: str, middle: tuple[float, float], radius: float, angle: float, grown: float = 0) -> Image.Image:
    mask = Image.new("L", (_BIG, _BIG))
    draw = ImageDraw.Draw(mask)
    _polygon(draw, _OUTLINES[shape], middle, radius + grown, angle, 255)
    if shape == "ring":
        _polygon(draw, _OUTLINES["circle"], middle, 0.55 * radius - grown, angle, 0)
    elif shape == "moon":
        away = (middle[0] + 0.5 * radius * math.cos(angle), middle[1] + 0.5 * radius * math.sin(angle))
        _polygon(draw, _OUTLINES["circle"], away, 0.75 * radius - grown, angle, 0)
    return mask


def _polygon(
    draw: ImageDraw.ImageDraw,
    outline: list[tuple[float, float]],
    middle: tuple[float, float],
    radius: float,
    angle: float,
    fill: object,
) -> None:
    c, s = radius * math.cos(angle), radius * math.sin(angle)
    draw.polygon([(middle[0] + c * x - s * y, middle[1] + s * x + c * y) for x, y in outline], fill=fill)


def _turned(corners: int, start: float = -math.pi / 2) -> list[tuple[float, float]]:
    turn = 2 * math.pi / corners
    return [(math.cos(start + k * turn), math.sin(start + k * turn)) for k in range(corners)]


def _heart() -> list[tuple[float, float]]:
    around = [2 * math.pi * k / 36 for k in range(36)]
    return [
        (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16) for t in around
    ]


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "circle": _turned(40),
    "ring": _turned(40),
    "moon": _turned(40),
    "triangle": _turned(3),
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "star": [(x * (0.42 if k % 2 else 1.05), y * (0.42 if k % 2 else 1.05)) for k, (x, y) in enumerate(_turned(10))],
    "heart": _heart(),
    "cross": [
        (-0.33, -1),
        (0.33, -1),
        (0.33, -0.33),
        (1, -0.33),
        (1, 0.33),
        (0.33, 0.33),
        (0.33, 1),
        (-0.33, 1),
        (-0.33, 0.33),
        (-1, 0.33),
        (-1, -0.33),
        (-0.33, -0.33),
    ],
}


def _free_place(side: int, corner: float, height: float) -> tuple[float, float]:
    """Where the second object goes: the free side, or a corner when the main object is central."""
    if side:
        return _BIG / 2 - side * (_BIG / 2 - 18), _BIG / 2 + 50 * (height - 0.5)
    return 18 if corner < 0.5 else _BIG - 18, 18 + 4 * height if int(4 * corner) % 2 else _BIG - 18 - 4 * height


def _second(draw: ImageDraw.ImageDraw, kind: str, middle: tuple[float, float]) -> None:
    x, y = middle
    if kind == "white ball":
        draw.ellipse((x - 13, y - 13, x + 13, y + 13), fill="white", outline=_INK, width=3)
    elif kind == "black box":
        draw.rectangle((x - 12, y - 12, x + 12, y + 12), fill="black", outline="white", width=3)
    else:
        for px, py in _turned(5):
            draw.ellipse((x + 8 * px - 7, y + 8 * py - 7, x + 8 * px + 7, y + 8 * py + 7), fill=(255, 130, 190))
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=(255, 225, 60))


@cache
def _background(name: str) -> Image.Image:
    side = _BIG + _SPARE
    if name in _FLAT:
        return Image.new("RGB", (side, side), _FLAT[name])
    image = Image.new("RGB", (side, side), (226, 226, 226))
    draw = ImageDraw.Draw(image)
    for at in range(0, side, 32):
        draw.rectangle((0, at, side, at + 15), fill=(150, 150, 150))
    return image


@cache
def _pattern(name: str) -> Image.Image:
    side = _BIG + _SPARE
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    if name == "striped":
        for at in range(-side, side, 16):
            draw.line((at, side, at + side, 0), fill=255, width=6)
    else:
        for row, down in enumerate(range(0, side, 12)):
            for at in range(-7 * (row % 2), side, 14):
                draw.ellipse((at - 3, down - 3, at + 4, down + 4), fill=255)
    return mask
