"""Held-out edits of a ``shapes`` corpus: composed-retrieval queries whose every right answer is known exactly.

An edit changes one or two attributes of a reference picture. It is used only if other pictures of the corpus have exactly
the changed attributes: all of those are its targets. Attributes are read from the ``extra`` column, which no other stage
may read, and the instructions have wordings of their own: of the demo's 1,000, one in six, the shortest ("add a pink
flower", "make it smaller"), is also a text that the annotator writes. Cost:
about 5,000 edits a second on 8,000 pictures; memory one id and one tuple a picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from mmret.hashing import uniform

ATTRIBUTES = ("shape", "colour", "size", "pattern", "background", "position", "other")
WORDINGS = 3
"""Texts of one edit, at most."""
TWO_CHANGES = 0.35
"""Share of the references for which an edit of two attributes is tried first."""

_PHRASES: dict[str, tuple[str, ...]] = {
    "shape": ("replace the shape by a {value}", "a {value} instead", "swap it for a {value}"),
    "colour": ("make it {value}", "the same thing but {value}", "paint it {value}"),
    "size": ("make it {value}", "let it be {value}", "the same, only {value}"),
    "pattern": ("{value}", "I want it {value}"),
    "background": ("put it on {value}", "use {value} behind it"),
    "position": ("move it {value}", "shift it {value}"),
    "other": ("{value}",),
}
_VALUES: dict[tuple[str, str], str] = {
    ("size", "large"): "larger",
    ("size", "small"): "smaller",
    ("pattern", "plain"): "without any pattern",
    ("pattern", "striped"): "with stripes",
    ("pattern", "dotted"): "with dots",
    ("background", "white"): "a white background",
    ("background", "black"): "a black background",
    ("background", "sky blue"): "a light blue background",
    ("background", "striped"): "a striped background",
    ("position", "centre"): "to the middle",
    ("position", "left"): "to the left",
    ("position", "right"): "to the right",
    ("other", "none"): "take the second object away",
}


def edits(extras: Sequence[tuple[str, Mapping[str, Any]]], n: int, seed: int = 0) -> list[dict[str, Any]]:
    """At most ``n`` edits, one a reference, each ``{"reference": image_id, "text": str, "targets": [image_id, ...], "wordings":
    [str, ...], "unchanged": [image_id, ...]}``.

    ``extras``: (image_id, attributes) of the corpus; rows without all of ``ATTRIBUTES`` are skipped. References are taken in
    the order of a seeded hash of their ids, so the same corpus and seed give the same edits, and most edits stay the same
    when pictures are added. Targets are sorted; the reference is never among them. ``wordings``: the same edit in at most
    ``WORDINGS`` different texts, ``text`` first; where no phrase of a change has another it is the only one. ``unchanged``: other
    pictures that show what the reference shows, so they are wrong however near.
    """
    having: dict[tuple[str, ...], list[str]] = defaultdict(list)
    scenes: dict[str, tuple[str, ...]] = {}
    for image_id, extra in extras:
        if all(isinstance(extra.get(name), str) for name in ATTRIBUTES):
            scenes[image_id] = tuple(extra[name] for name in ATTRIBUTES)
            having[scenes[image_id]].append(image_id)
    values = [sorted({scene[k] for scene in having}) for k in range(len(ATTRIBUTES))]

    made: list[dict[str, Any]] = []
    for reference in sorted(scenes, key=lambda image_id: (uniform("edit", seed, image_id), image_id)):
        if len(made) >= n:
            break
        before = scenes[reference]
        after = next((scene for scene in _changed(before, values, (seed, reference)) if scene in having), None)
        if after is not None:
            wordings = _wordings(before, after, (seed, reference))
            edit = {"reference": reference, "text": wordings[0], "targets": sorted(having[after])}
            unchanged = sorted(other for other in having[before] if other != reference)
            made.append(edit | {"wordings": wordings, "unchanged": unchanged})
    return made


def _changed(before: tuple[str, ...], values: list[list[str]], key: tuple[int, str]) -> Iterator[tuple[str, ...]]:
    """Attribute tuples at one or two changes from ``before``, in a seeded order: attributes first, then values."""
    single, double = [(k,) for k in range(len(before))], list(combinations(range(len(before)), 2))
    first, then = (double, single) if uniform("two", *key) < TWO_CHANGES else (single, double)
    for group in (first, then):
        for places in sorted(group, key=lambda places: uniform("places", *key, *places)):
            options = [before]
            for k in places:
                options = [(*o[:k], value, *o[k + 1 :]) for o in options for value in values[k] if value != before[k]]
            yield from sorted(options, key=lambda scene: uniform("values", *key, *scene))


def _wordings(before: tuple[str, ...], after: tuple[str, ...], key: tuple[int, str]) -> list[str]:
    """The change in words, each time by the next phrase of every attribute: it does not mention what stays the same, and names what
    is taken away by its kind only."""
    said: list[list[str]] = [[] for _ in range(WORDINGS)]
    for name, old, new in zip(ATTRIBUTES, before, after, strict=True):
        if old == new:
            continue
        phrases = _PHRASES[name]
        if name == "other" and new != "none":
            phrases = ("add a {value}",) if old == "none" else ("have a {value} as the second object",)
        first = int(uniform("phrase", *key, name) * len(phrases))
        for nth, parts in enumerate(said):
            parts.append(phrases[(first + nth) % len(phrases)].format(value=_VALUES.get((name, new), new)))
    return list(dict.fromkeys(" and ".join(parts) for parts in said))
