"""Invariants: other words leave what an instruction says of the pictures as it was; they are English, fit in, and differ from
text to text; the wordings that held-out queries are asked in are not among them."""

from __future__ import annotations

import random
import re
from functools import cache

import pytest

from mmret.annotate.backends.captions import frames, openings
from mmret.annotate.backends.captions.frames import MAX_INSTRUCTION_WORDS, instructions
from mmret.annotate.backends.captions.openings import Draft, reworded
from mmret.benchmarks import edits
from mmret.ingest.shapes import caption, scene

OTHERS = [
    ("man judge: dark skin tone", "woman judge: dark skin tone"),
    ("flag: France", "flag: Spain"),
    ("two hearts", "three hearts"),
    ("birthday cake", "cake"),
    ("a man with a hat", "a man"),
    ("a dog sitting on a sofa", "a dog running on the beach"),
    ("A man.", "A factory with chimneys emits smoke."),
    ("first a dog, then a cat", "first a cat, then a dog"),
]
PAIRS = [(caption(scene(0, i)), caption(scene(0, i + 1))) for i in range(400)] + OTHERS


@cache
def drafts():
    """What the frames write of many pairs."""
    found: list[Draft] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "reworded", lambda draft, below: found.append(draft) or draft.text)
        for n, (source, target) in enumerate(PAIRS):
            for turn in range(2 if n < 400 else 30):
                instructions(source, target, 3, f"{n}:{turn}", varied=True)
    return found


def test_other_words_keep_what_the_instruction_says_in_its_order():
    dice = random.Random(1)
    for draft in drafts():
        text = reworded(draft, dice.randrange)
        if draft.frame == "versus":
            sides = draft.text.split(" instead of ")
            assert all(side in text for side in sides), (draft, text)
        elif draft.frame == "do":
            said = draft.body.partition(" ")[2] if draft.text not in text else draft.text
            assert said.removeprefix("it ") in text, (draft, text)
        else:
            assert draft.body in text, (draft, text)


def test_other_words_double_no_word_and_neither_deny_nor_grade():
    dice = random.Random(2)
    for draft in drafts():
        text = reworded(draft, dice.randrange)
        assert not re.search(r"\b(\w+) \1\b", text) or re.search(r"\b(\w+) \1\b", draft.text), (draft, text)
        if draft.frame != "versus":
            assert len(re.findall(r"\b(?:not|no|longer|less|more|without)\b", text)) == len(
                re.findall(r"\b(?:not|no|longer|less|more|without)\b", draft.text)
            ), (draft, text)
        assert not text.startswith("just make it just") and " ," not in text and "  " not in text


def test_texts_of_a_pair_stay_distinct_and_no_longer_than_they_may_be():
    for n, (source, target) in enumerate(PAIRS):
        for count in (3, 8):
            texts = instructions(source, target, count, f"{n}", varied=True) or []
            assert len({t.casefold().rstrip("?.") for t in texts}) == len(texts) >= 3, texts
            assert all(len(t.split()) <= MAX_INSTRUCTION_WORDS for t in texts)
            assert instructions(source, target, count, f"{n}", varied=True) == texts


def test_every_opening_is_drawn_and_one_pair_does_not_always_get_the_same():
    dice = random.Random(3)
    for frame, options in openings._OPENINGS.items():
        body = "add a hat" if frame == "do" else "with a hat"
        drawn = {reworded(Draft(frame, "{}", body), dice.randrange) for _ in range(3000)}
        assert all(any(option.replace("{}", body) in text or frame == "do" for text in drawn) for option in options), frame
        assert len(drawn) >= len(set(options))
    assert len({instructions("a red star", "a blue star", 3, f"{n}", varied=True)[0] for n in range(60)}) > 30


def test_it_is_made_a_ball_and_never_had_one():
    dice = random.Random(6)
    ordered = {reworded(Draft("do", "{}", "make it a ball"), dice.randrange) for _ in range(400)}
    assert len(ordered) > 8 and not any("have it" in text for text in ordered)


def test_a_complete_exchange_keeps_no_rest():
    dice = random.Random(4)
    for body in ("turn it into a whale", "show a whale instead"):
        assert not any("rest" in reworded(Draft("do", "{}", body), dice.randrange) for _ in range(300))


HELD_OUT = [phrase.replace("{value}", "") for phrases in edits._PHRASES.values() for phrase in phrases]
OLD = {"", "make it ", "a  instead", "put it on ", "move it "}  # what the frames wrote before, or what is not a wording at all
NAMES = [" rather than ", "let it be a ", "turn the skin ", "the same person with ", "rather with ", " and not "]


def test_the_wordings_of_held_out_queries_are_not_among_the_other_words():
    dice = random.Random(5)
    texts = {reworded(draft, dice.randrange) for draft in drafts() for _ in range(3)} - {draft.text for draft in drafts()}
    wordings = [w for w in {*HELD_OUT, *NAMES} - OLD if w.strip()]
    assert len(wordings) >= 15 and not {(w, t) for w in wordings for t in texts if t.startswith(w) or w in NAMES and w in t}
