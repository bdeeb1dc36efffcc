"""Invariants: a scene depends on its seed and number alone; equal attributes make distinct files; a caption names what
is drawn and the attributes can be seen in the pixels; of 8,000 scenes most have neighbours at one change."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace

import numpy as np
from PIL import Image

from mmret.ingest.shapes import ATTRIBUTES, caption, parse_source, scene, scene_of_path, scene_path
from mmret.ingest.shapes_render import render

MEANS = {
    "large": ("large", "big"),
    "small": ("small", "little"),
    "moon": ("moon", "crescent"),
    "circle": ("circle", "disc"),
    "ring": ("ring", "hoop"),
    "cross": ("cross", "plus"),
    "dotted": ("dotted", "spotted"),
    "sky blue": ("sky blue", "pale blue"),
    "centre": ("", "centre", "middle"),
    "striped": ("striped", "stripes"),
    "plain": ("", "plain"),
    "none": ("",),
}


def pixels(seed: int, i: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(render(scene(seed, i)))))


def test_scenes_are_the_same_whenever_and_in_whatever_order_they_are_made():
    first = [(scene(5, i), render(scene(5, i))) for i in range(20)]
    again = [(scene(5, i), render(scene(5, i))) for i in reversed(range(20))][::-1]
    assert first == again
    assert scene(5, 3) != scene(6, 3) and scene(5, 3) == scene_of_path(scene_path(5, 3))
    assert parse_source("shapes:20?seed=5") == (20, 5) and parse_source("shapes:20") == (20, 0)


def test_pictures_are_distinct_though_attributes_repeat():
    made = [scene(0, i) for i in range(3000)]
    assert len({render(s) for s in made}) == len(made)
    assert len({tuple(s.attributes.values()) for s in made}) < 0.75 * len(made)


def test_captions_are_varied_and_name_every_attribute():
    made = [scene(1, i) for i in range(500)]
    assert len({caption(s) for s in made}) > 450
    for s in made:
        text = caption(s).lower()
        for value in s.attributes.values():
            assert any(word in text for word in MEANS.get(value, (value,))), (text, value)
        assert caption(s)[0].isupper() and "  " not in text and " ," not in text


def test_every_value_occurs():
    for name, values in ATTRIBUTES.items():
        seen = Counter(getattr(scene(0, i), name) for i in range(1000))
        assert seen.keys() == values.keys() and min(seen.values()) > 30


def test_most_scenes_of_a_corpus_have_neighbours_at_one_change():
    made = Counter(tuple(scene(0, i).attributes.values()) for i in range(8000))
    values = list(ATTRIBUTES.values())
    having = 0
    for before in made:
        changed = ((*before[:k], v, *before[k + 1 :]) for k in range(len(values)) for v in values[k] if v != before[k])
        having += sum(c in made for c in changed) >= 3
    assert having > 0.9 * len(made)


def test_attributes_are_visible_at_48_pixels():
    """Changing one attribute alone changes the colour of enough pixels to be seen."""

    def small(s: object) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(render(s))).resize((48, 48), Image.Resampling.BICUBIC), float)

    base = [replace(scene(2, i), other="none") for i in range(40)]
    for name, values in ATTRIBUTES.items():
        changes = [
            np.abs(small(s) - small(replace(s, **{name: v}))).max(axis=2) for s in base for v in values if v != getattr(s, name)
        ]
        visible = np.mean([(change > 40).sum() >= 40 for change in changes])  # of 2,304 pixels, clearly another colour
        assert visible > 0.95, (name, visible)
