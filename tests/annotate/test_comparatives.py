"""Pins the comparatives of the captions back-end: a change along a scale is worded with one in about half of the texts and in the
right direction; synonyms, colours, skin and names never are; and what is written is English."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from mmret.annotate.backends.captions import comparatives, frames, parts_of_speech
from mmret.annotate.backends.captions.comparatives import SCALES
from mmret.annotate.backends.captions.frames import instructions
from mmret.ingest.shapes import caption, scene
from mmret.towers.tokenizer import EDIT_VOCABULARY

COMPARATIVES = {word for s in SCALES for word in (*s.lower, *s.higher)}
SEEDS = 40
STEPS = [
    (old, new, set(towards), set(away))
    for s in SCALES
    for low in sorted(s.low)
    for high in sorted(s.high)
    for old, new, towards, away in ((low, high, s.higher, s.lower), (high, low, s.lower, s.higher))
]


def _all(source: str, target: str, seeds: int = SEEDS) -> list[str]:
    return [t for i in range(seeds) for t in instructions(source, target, 3, str(i)) or ()]


def _compared(texts: list[str]) -> list[set[str]]:
    """The comparatives of each text that has one."""
    return [found for t in texts if (found := COMPARATIVES & set(re.findall(r"\w+", t)))]


def _sized(size: str, word: float, i: int) -> str:
    """The caption of scene ``i`` of that size; ``word`` in [0, 1) picks the word for it."""
    drawn = scene(3, i)
    words = (drawn.words[0], word, *drawn.words[2:])
    return caption(replace(drawn, size=size, words=words))


LARGE, SMALL = [("large", 0.0), ("large", 0.5)], [("small", 0.0), ("small", 0.5)]  # large and big, small and little


@pytest.mark.parametrize("i", range(6))
def test_a_change_of_size_is_a_comparative_in_the_right_direction_in_half_of_the_texts(i: int) -> None:
    for olds, news, wanted in ((LARGE, SMALL, {"smaller"}), (SMALL, LARGE, {"larger", "bigger"})):
        texts = [t for old in olds for new in news for t in _all(_sized(*old, i), _sized(*new, i))]
        found = _compared(texts)
        assert set().union(*found) == wanted and all(len(words) == 1 for words in found)
        assert 0.35 < len(found) / len(texts) < 0.65


@pytest.mark.parametrize("words", [LARGE, SMALL])
def test_synonyms_of_a_size_are_no_change(words: list[tuple[str, float]]) -> None:
    for i in range(6):
        one, other = (_sized(*word, i) for word in words)
        assert one != other and not _all(one, other, 3)
        moved = other.replace(scene(3, i).colour, "brown")  # changes with the word for the size
        assert moved != other and _all(one, moved) and not _compared(_all(one, moved))


@pytest.mark.parametrize("old, new, towards, away", STEPS)
def test_every_step_along_a_scale_is_worded_in_its_direction(old: str, new: str, towards: set[str], away: set[str]) -> None:
    for source, target in ((f"a {old} box", f"a {new} box"), (f"a cat with an {old} box", f"a cat with a {new} box")):
        found = _compared(_all(source, target, 12))
        assert found and set().union(*found) <= towards and not set().union(*found) & away


@pytest.mark.parametrize(
    "source, target",
    [
        ("a small box", "a tiny box"),  # one end
        ("a large box", "a red box"),
        ("a large box", "a short box"),  # two scales
        ("a large red star", "a small blue circle"),  # another thing
        ("a mouse", "a large mouse"),
        ("dark blue car", "light blue car"),  # colours
        ("a light blue coat", "a heavy blue coat"),
        ("a cat on a dark blue background", "a cat on a light green background"),
        ("a dark striped red ball", "a light striped red ball"),
        ("person walking: dark skin tone", "person walking: light skin tone"),  # skin
        ("person walking: medium-dark skin tone", "person walking: medium-light skin tone"),
        ("a dark man", "a light man"),
        ("a face with dark skin", "a face with light skin"),
        ("large intestine", "small intestine"),  # terms and names
        ("high speed train", "low speed train"),
        ("the Old Town hall", "the New Town hall"),
        ("LARGE star", "SMALL star"),
        ("less tall tree", "less short tree"),  # denied
        ("a not large dog", "a not small dog"),
        ("a large dog and cat", "a small dog and cat"),  # "it" would be two
        ("a cat with a large box and a red box", "a cat with a small box and a red box"),  # "the box" would be one of two
        ("a man with a large bowl of soup", "a man with a small bowl of soup"),
        ("a person in front of a large building lined with columns", "a person in front of a small building lined with columns"),
        ("a man in a coat in large boat", "a man in a coat in small boat"),  # without an article, as in the caption
        ("a man, large turban", "a man, small turban"),
        ("a dog waits because a large cat sits", "a dog waits because a small cat sits"),
        ("a small tiny box", "a large huge box"),  # "larger and larger"
        ("a short haired cat", "a long haired cat"),
        ("a short sleeved shirt", "a long sleeved shirt"),
    ],
)
def test_what_is_no_step_along_a_scale_has_no_comparative(source: str, target: str) -> None:
    for pair in ((source, target), (target, source)):
        assert _all(*pair) and not _compared(_all(*pair)), _compared(_all(*pair))


@pytest.mark.parametrize(
    "source, target, wanted, never",
    [
        (
            "a large red star",
            "a small red star",
            {"make it smaller", "a smaller one", "smaller, please", "the same but smaller", "find one that is smaller"},
            r"to smaller|smaller instead of|more small",
        ),
        (
            "small blue diamond",
            "large blue diamond",
            {"make it larger", "make it bigger", "the same but larger", "a bigger one"},
            "larger and bigger",
        ),
        (
            "a large red star on black",
            "a small red star on white",
            {"make it smaller and make the background white", "the same but smaller and on a white background"},
            "please",
        ),
        (
            "a large striped star",
            "a small dotted star",
            {"make it smaller and dotted", "the same but smaller and dotted"},
            "a smaller",
        ),
        ("large cups", "small cups", {"make them smaller", "smaller ones"}, r"a smaller|make it smaller"),
        ("thick fog", "thin fog", {"make it thinner", "thinner instead"}, r"a thinner|ones"),
        ("a young man", "an old man", {"make it older", "an older one"}, r"a older"),
        (
            "a woman with long hair",
            "a woman with short hair",
            {"make the hair shorter", "with shorter hair", "the same but with shorter hair"},
            r"a shorter|hair to shorter",
        ),
        ("a man in a large boat", "a man in the small boat", {"in a smaller boat", "make the boat smaller"}, "the smaller boat"),
        ("a man in his large boat", "a man in his small boat", {"in his smaller boat"}, "a smaller boat"),
        (
            "a man wearing a large hat",
            "a man wearing a small hat",
            {"have it wearing a smaller hat", "the same but wearing a smaller hat"},
            "large to smaller",
        ),
        ("speaker low volume", "speaker high volume", {"make the volume higher", "with higher volume"}, r"it higher|a higher"),
        (
            "a cat on a dark background",
            "a cat on a light background",
            {"on a lighter background", "make the background lighter"},
            "with a",
        ),
        ("a dim room", "a bright room", {"make it brighter", "a brighter one"}, "lighter"),
        ("a small soccer ball", "a large soccer ball", {"make it larger"}, "larger soccer"),
        ("a long narrow street", "a short wide street", {"make it shorter and wider"}, "taller"),
        ("a very old car", "a new car", {"make it newer"}, "younger"),
    ],
)
def test_comparatives_are_put_as_people_put_them(source: str, target: str, wanted: set[str], never: str) -> None:
    texts = set(_all(source, target, 200))
    assert wanted <= texts, wanted - texts
    assert not {t for t in texts if re.search(never, t)}


def test_a_text_without_a_step_along_a_scale_is_as_it_would_be_without_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [scene(1, i) for i in range(50)]
    pairs = [(caption(a), caption(b)) for a in scenes for b in scenes if a != b and a.size == b.size]
    before = [_all(a, b, 1) for a, b in pairs]
    assert len(pairs) > 500 and not any(map(_compared, before))
    monkeypatch.setattr(comparatives, "STEPS", {})
    monkeypatch.setattr(frames, "_worded", frames._worded.__wrapped__)  # else those of before are kept
    assert [_all(a, b, 1) for a, b in pairs] == before


def test_comparatives_are_those_of_the_dictionary_and_fit_the_caption_s_article() -> None:
    assert not {c for c in COMPARATIVES if (uses := parts_of_speech.uses(c)) and not uses.keys() & {"AJC", "AV0", "AJ0"}}
    for s in SCALES:
        for words, towards in ((s.low, s.lower), (s.high, s.higher)):
            assert len({w[0] in "aeiou" for w in (*words, *towards)}) == 1, words
        assert not s.low & s.high


def test_the_comparatives_that_the_tokenizer_has_words_for_are_written() -> None:
    assert {"bigger", "smaller", "larger", "brighter", "darker"} <= COMPARATIVES & set(EDIT_VOCABULARY.split())
