"""The built-in corpus: rendered scenes with captions, so that the whole graph runs without downloading anything.

Scene ``i`` of seed ``s`` depends on (s, i) alone: any size, any slice, no state. A scene has one main object with six
attributes and sometimes a second, smaller object; attributes are drawn with a preference for a plain, centred, single
object, which gives 3,456 single-object combinations and, among 8,000 pictures, several for most of them. So every
picture has neighbours that differ from it in one trait, as MegaPairs needs, and the exact attributes, kept in the
``extra`` column, are the ground truth of held-out edits. Each scene is jittered in place, size, tilt and hue: equal
attributes still make distinct files. Cost: about 3,000 pictures a second and core.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass

from mmret.errors import UserError

# Values and their weights. A value is the plain word for it; captions may use a synonym.
ATTRIBUTES: dict[str, dict[str, float]] = {
    "shape": dict.fromkeys(("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon"), 1),
    "colour": dict.fromkeys(("red", "orange", "yellow", "green", "blue", "purple"), 1),
    "size": {"large": 3, "small": 2},
    "pattern": {"plain": 2, "striped": 1, "dotted": 1},
    "background": dict.fromkeys(("white", "black", "sky blue", "striped"), 1),
    "position": {"centre": 2, "left": 1, "right": 1},
    "other": {"none": 12, "white ball": 1, "black box": 1, "pink flower": 1},
}

_OPENINGS = ("{object}", "A picture of {object}", "{object}", "There is {object}", "A drawing of {object}")
_WORDS = {
    "large": ("large", "big", "large"),
    "small": ("small", "little", "small"),
    "moon": ("crescent moon", "moon", "crescent"),
    "circle": ("circle", "disc", "circle"),
    "ring": ("ring", "ring", "hoop"),
    "cross": ("cross", "plus sign", "cross"),
}
_GROUNDS = {
    "white": ("a white background", "white"),
    "black": ("a black background", "black"),
    "sky blue": ("a sky blue background", "a pale blue background"),
    "striped": ("a striped background", "a background of grey stripes"),
}
_PLACES = {
    "left": ("on the left", "at the left edge"),
    "right": ("on the right", "at the right edge"),
    "centre": ("in the centre", "in the middle", "", ""),
}
_SECOND = (", with a {other} beside it", ", next to a {other}", ", and a {other}")


@dataclass(frozen=True)
class Scene:
    """Attributes of a picture, and the draws in [0, 1) that vary its caption (``words``) and its look (``jitter``)."""

    shape: str
    colour: str
    size: str
    pattern: str
    background: str
    position: str
    other: str
    words: tuple[float, ...]
    jitter: tuple[float, ...]

    @property
    def attributes(self) -> dict[str, str]:
        """The exact attributes, in the order of ``ATTRIBUTES``."""
        return {name: getattr(self, name) for name in ATTRIBUTES}


def scene(seed: int, i: int) -> Scene:
    """Scene ``i`` of the corpus with this seed; depends on nothing else."""
    digest = b"".join(hashlib.blake2b(f"scene:{seed}:{i}:{part}".encode()).digest() for part in range(2))
    draws = [n / 2**32 for n in struct.unpack("<32I", digest)]
    values = [_weighted(weights, draw) for weights, draw in zip(ATTRIBUTES.values(), draws, strict=False)]
    return Scene(*values, words=tuple(draws[8:16]), jitter=tuple(draws[16:24]))


def caption(scene: Scene) -> str:
    """One sentence that names what can be seen; a plain pattern or a central position is sometimes not mentioned."""
    opening, size, shape, pattern, ground, place, second, order = scene.words
    words = [_pick(_WORDS.get(scene.size, (scene.size,)), size)]
    if scene.pattern != "plain":
        words += [_pick({"striped": ("striped",), "dotted": ("dotted", "spotted")}[scene.pattern], pattern)]
    elif pattern < 0.4:
        words.append("plain")
    words += [scene.colour, _pick(_WORDS.get(scene.shape, (scene.shape,)), shape)]
    noun = " ".join(words)
    parts = [_pick(_OPENINGS, opening).format(object=f"{_article(noun)} {noun}")]
    where = [_pick(_PLACES[scene.position], place), "on " + _pick(_GROUNDS[scene.background], ground)]
    if order < 0.3 and where[0]:
        where = [where[1] + ",", where[0]]
    text = " ".join(part for part in parts + where if part)
    if scene.other != "none":
        text += _pick(_SECOND, second).format(other=scene.other)
    return text[0].upper() + text[1:]


def parse_source(source: str) -> tuple[int, int]:
    """``"shapes:<n>?seed=<s>"`` to (n, s); the seed may be left out and is then 0. Raises UserError."""
    found = re.fullmatch(r"shapes:(\d+)(?:\?seed=(\d+))?", source.strip())
    if not found or int(found[1]) == 0:
        raise UserError(f"'{source}' is not a shapes corpus: write shapes:<n>?seed=<s>, for example shapes:8000?seed=0")
    return int(found[1]), int(found[2] or 0)


def scene_path(seed: int, i: int) -> str:
    """The name of a scene in the corpus manifest: the same whatever the size of the corpus."""
    return f"shapes/{seed}/{i:07d}.png"


def scene_of_path(path: str) -> Scene:
    """The scene that :func:`scene_path` named."""
    _, seed, name = path.split("/")
    return scene(int(seed), int(name.removesuffix(".png")))


def _weighted(weights: dict[str, float], draw: float) -> str:
    left = draw * sum(weights.values())
    for value, weight in weights.items():
        left -= weight
        if left < 0:
            return value
    return value


def _pick(choices: tuple[str, ...], draw: float) -> str:
    return choices[int(draw * len(choices))]


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
