"""The shortcuts by which captions are read and compared change no text."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmret.annotate.backends.captions import analyse, lexicon, tokens
from mmret.annotate.backends.captions.analyse import read
from mmret.annotate.backends.captions.frames import description, instructions

OPENINGS = (
    "",
    "A PHOTO of ",
    "In this image, ",
    "There are ",
    "An oil painting Of ",
    "This is a close-up picture showing ",
    "A drawing ſhows ",
)
MIDDLES = ("a red dog (left) in front of St. Mary", "two men, a U.S. No. 5 bus; and 3.5 cats", "it is Seen in the Picture: A, B")
ENDS = ("", ".", " is shown in the photo.", " Mr.", "!", "…", ". The sky is blue", " \u212aelvin")
CAPTIONS = ["".join(parts) for parts in product(OPENINGS, MIDDLES, ENDS)]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="abS tT.,:;()!?'-U Mr.No 5\"", max_size=60))
def test_ascii_captions_have_the_words_of_any_other_caption(text: str) -> None:
    text = tokens.clean(text)
    assert tokens._tokens(text) == tokens._TOKEN.findall(text)


@pytest.mark.parametrize("caption", CAPTIONS)
def test_a_pattern_is_left_out_only_where_it_finds_nothing(caption: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = read.__wrapped__(caption)
    monkeypatch.setattr(tokens, "_may_have", lambda lower, words: True)
    assert read.__wrapped__(caption) == quick


@pytest.mark.parametrize("word", ["dog", "stands", "sit", "emits", "running", "is", "turkey", "wears", "ida", "and"])
def test_a_word_that_no_rule_takes_for_a_verb_is_the_verb_of_no_subject(word: str) -> None:
    if not lexicon.may_be_finite(word):
        before = ["man", "men", "people", "dogs", "two"]
        after = ["", "a", "on", "the"]
        saved, lexicon.may_be_finite = lexicon.may_be_finite, lambda word: True
        try:
            assert not any(analyse._is_finite(word, [b], f, s) for b in before for f in after for s in (False, True))
        finally:
            lexicon.may_be_finite = saved


def test_what_was_compared_before_is_worded_the_same_again() -> None:
    pairs = [(a, b) for a in CAPTIONS[::7] for b in CAPTIONS[::11]]
    first = [(description(a, b), instructions(a, b, 3, "k")) for a, b in pairs]
    assert [(description(a, b), instructions(a, b, 3, "k")) for a, b in reversed(pairs)] == first[::-1]
