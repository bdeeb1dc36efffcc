"""Reads a caption: words, sentences, and segments that an edit can replace, add or remove as a whole.

A segment is a noun phrase, a prepositional phrase ("on a green background"), an action ("holding hands"), an item of a
list after a colon or comma, or a clause behind a conjunction. Costs about 20 us for ten words, ``tokens`` included; parsed
captions are kept, since a query image occurs in several pairs in a row.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from mmret.annotate.backends.captions import lexicon as lx
from mmret.annotate.backends.captions.tokens import BREAKS, HAS_ARTICLE, clean, join, key_of, keys_of, split

MAX_WORDS = 48
"""Number of words of each sentence that are read."""
BARE = "-"
"""Determiner of a phrase without an article in a caption that has articles elsewhere: it gets none ("in bed")."""


class Segment(NamedTuple):
    """A part of a caption that an edit can replace. ``joint`` is how it is joined to what stands before it: ``""`` for the main
    phrase, a preposition, ``act`` (a participle), ``:`` or ``,`` (an item of a list), ``(``, or a conjunction. ``determiner`` is
    the word in the caption, ``BARE``, or empty where the caption does not tell. ``keys``: the words in the form in which they are
    compared."""

    joint: str
    determiner: str
    words: tuple[str, ...]
    keys: tuple[str, ...]  # compared: case-folded, without quotes
    and_before: bool = False  # an action behind "and": sitting and reading

    @property
    def text(self) -> str:
        return join(self.words)


class Caption(NamedTuple):
    sentences: tuple[tuple[Segment, ...], ...]
    keys: tuple[str, ...]  # of all words in order: two captions are identical where these are
    medium: str = ""  # "oil painting", where the caption begins with it


@lru_cache(maxsize=16_384)
def read(text: str) -> Caption:
    """Parse one caption. Never fails; an empty text has no sentences."""
    text = clean(text)
    articles = HAS_ARTICLE.search(text) is not None
    medium, parts = split(text)
    keys = keys_of(parts)
    sentences = [segments for sentence in parts if (segments := tuple(_segments(sentence, articles)))]
    return Caption(tuple(sentences), (medium, *keys) if medium else tuple(keys), medium)


def _segments(tokens: list[str], articles: bool) -> list[Segment]:
    """The segments of one sentence; ``articles``: whether its caption has articles, so that a phrase without one gets none."""
    listed = _starts_list(tokens)
    segments: list[Segment] = []
    joint, words, skip = "", [], 0
    and_before = False

    lows = [token.casefold() for token in tokens[: MAX_WORDS + 1]] + [""]
    for i, token in enumerate(tokens[:MAX_WORDS]):
        if skip:
            skip -= 1
            continue
        low, following = lows[i], lows[i + 1]
        if _is_plain(low) and (words or joint or not segments):
            words.append(token)  # none of the rules below has to do with it
            continue
        if token in BREAKS:
            and_before = _close(segments, joint, words, articles, and_before)
            joint, words = (":" if listed and ":" in tokens[: i + 1] else "(" if token in "(（" else ","), []
        elif words == [] and joint == "," and low in ("and", "or") and following:
            joint = "and"
        elif words == [] and joint == "," and low in lx.CONJUNCTIONS and following:
            joint = "" if lx.is_participle(following) else low
        elif following in lx.PRONOUNS and low in lx.LOCATIVE and words and i + 2 >= len(tokens[:MAX_WORDS]):
            words.append(token)  # "a ball beside it"
        elif low in lx.COMPOUND_STARTS and (place := _compound_place(tokens, i)):
            and_before = _close(segments, joint, words, articles, and_before)
            joint, words, skip = " ".join(place), [], len(place) - 1
        elif low in lx.PREPOSITIONS:
            if not words and joint in ("", ",", "and"):
                joint = low
            elif words and following and following not in BREAKS and _ends_before_place(words, low, joint):
                and_before = _close(segments, joint, words, articles, and_before)
                joint, words = low, []
            else:
                words.append(token)
        elif (
            words
            and (lx.is_participle(low) or joint not in lx.CONJUNCTIONS and _is_finite(low, words, following, joint == "and"))
            and _ends_noun(words)
        ):
            if words[-1].casefold() in lx.AUXILIARIES and len(words) > 1:
                words.pop()
            and_before = _close(segments, joint, words, articles, and_before)
            joint, words = "act", [token if lx.is_participle(low) else lx.participle_of(low)]
        elif not words and joint == "," and segments and _is_late_verb(low, following):
            joint, words = "act", [lx.participle_of(low)]  # a bear, wearing a hat, stands ...
        elif low in ("and", "while") and words and (lx.is_participle(following) or _second_verb(joint, words, following)):
            and_before = _close(segments, joint, words, articles, and_before)
            joint, words, and_before = "", [], low == "and"
        elif low in lx.CONJUNCTIONS and words and len(tokens) > 6:
            and_before = _close(segments, joint, words, articles, and_before)
            joint, words = low, []
        elif low == "and" and words and following in lx.DETERMINERS:
            and_before = _close(segments, joint, words, articles, and_before)
            joint, words = "and", []
        elif not words and joint == "" and segments:
            verb = segments[-1].joint == "act" and and_before and not lx.is_participle(low)
            joint, words = ("act" if verb or lx.is_participle(low) else "and"), [lx.participle_of(low) if verb else token]
        else:
            words.append(token)
    _close(segments, joint, words, articles, and_before)
    return segments


def _close(segments: list[Segment], joint: str, words: list[str], articles: bool, and_before: bool) -> bool:
    """Add a segment of ``words``, if any; returns whether a later one still stands behind that "and"."""
    if not words:
        return and_before
    segments.append(_segment(joint, words, articles, and_before))
    return False


@lru_cache(maxsize=65_536)
def _is_plain(low: str) -> bool:
    """Whether ``low`` neither begins nor ends a segment by any rule, as most nouns and adjectives do not."""
    return not (
        low in BREAKS
        or low in lx.PREPOSITIONS
        or low in lx.COMPOUND_STARTS
        or low in lx.CONJUNCTIONS
        or low in ("and", "or", "while")
        or lx.is_participle(low)
        or lx.may_be_finite(low)
    )


def _compound_place(tokens: list[str], i: int) -> tuple[str, ...]:
    """The preposition of several words that stands at ``i`` with something behind it: in front of; empty if none does."""
    start = tokens[i].casefold()
    for place in lx.COMPOUND_PLACES:
        size = len(place)
        if start == place[0] and [t.casefold() for t in tokens[i : i + size]] == [*place]:
            return place if i + size < len(tokens) and tokens[i + size] not in BREAKS else ()
    return ()


def _ends_before_place(words: list[str], low: str, joint: str) -> bool:
    """Whether a phrase of ``words`` ends before preposition ``low``, instead of taking it in: the inside, covered with."""
    last = words[-1].casefold()
    if last in lx.BINDING or last in lx.AUXILIARIES or last in lx.DETERMINERS:
        return False
    return not (low == "with" and len(words) > 1 and joint != "act" and last.endswith("ed") and lx.is_adjective(last))


def _second_verb(joint: str, words: list[str], following: str) -> bool:
    """Whether ``following``, behind "and", is another verb of what ``words`` do: sits and talks."""
    return joint == "act" and (
        lx.is_only_a_verb(following) or len(words) == 1 and (following in lx.VERBS or following in lx.GERUNDS)
    )


def _is_late_verb(low: str, following: str) -> bool:
    """Whether ``low`` behind a comma is the verb of the sentence's subject."""
    if low.endswith("s") and following and following not in BREAKS and lx.is_only_a_verb(low):
        return True
    return low in lx.GERUNDS and (following in lx.DETERMINERS or following in lx.LOCATIVE or following in lx.ACCOMPANYING)


def _segment(joint: str, words: list[str], articles: bool, and_before: bool) -> Segment:
    if (
        joint in (",", ":", "(", "and")
        and lx.is_participle(words[0].casefold())
        and (len(words) == 1 or words[1].casefold() in lx.DIRECTIONS | lx.DETERMINERS)
    ):
        joint = "act"
    determiner = ""
    if len(words) > 1 and (words[0] == "A" or words[0] in lx.DETERMINERS):
        determiner, words = words[0], words[1:]
    if joint in ("on", "against") and all(w.casefold() in lx.COLOURS or w.casefold() in lx.INTENSITIES for w in words):
        determiner, words = "a", [*words, "background"]  # on white
    bare = articles and joint in lx.LOCATIVE or joint in ("in", "on", "at") and words[-1].casefold() in lx.BARE_PLACES
    if not determiner and bare:
        determiner = BARE
    return Segment(joint, determiner, tuple(words), tuple(map(key_of, words)), and_before)


def _starts_list(tokens: list[str]) -> bool:
    """Whether the first colon is that of ``head: item, item`` rather than of running text."""
    if ":" not in tokens and "：" not in tokens:
        return False
    at = tokens.index(":") if ":" in tokens else tokens.index("：")
    run = longest = 0
    for token in tokens[at + 1 :]:
        run = 0 if token in BREAKS else run + 1
        longest = max(longest, run)
    return 0 < at <= 8 and 0 < longest <= 5


def _is_finite(low: str, words: list[str], following: str, several: bool) -> bool:
    """Whether ``low`` is the verb of a sentence whose subject is ``words``: "a man wears a hat", "two people sit".

    ``several``: ``words`` follow another subject and an "and".
    """
    if not lx.may_be_finite(low):
        return False
    before = words[-1].casefold()
    if not following and not lx.is_only_a_verb(low) or before in lx.NO_SUBJECT or not low.isalpha() or lx.is_participle(before):
        return False
    plural = lx.is_plural(before)
    many = several or plural or "and" in words or "&" in words
    if (many or low.endswith("s")) and low.endswith("s") != plural and lx.is_only_a_verb(low):
        return True
    if following in lx.DETERMINERS and following != "that":
        if not plural and low.endswith("s") and lx.is_verb_in_s(low):
            return True  # an unknown verb: "a nurse ties a ..."
        if many and lx.is_present_verb(low) and not lx.is_function_word(low):
            return True
    if low in lx.GERUNDS:
        return not before.endswith(("'s", "’s"))
    if not many or before in lx.NUMBERS or before in lx.DETERMINERS:
        return False
    return low in lx.VERBS or before in lx.PERSONS and lx.is_present_verb(low) and not lx.is_function_word(low)


def _ends_noun(words: list[str]) -> bool:
    """Whether ``words`` can be followed by what someone does: they end in a noun or an auxiliary."""
    last = words[-1].casefold()
    if last in lx.NON_FINITE:
        return False  # appears to be helping
    return last in lx.AUXILIARIES or not (
        last in lx.DETERMINERS
        or last in lx.NUMBERS
        or last in lx.BINDING
        or last in lx.CONJUNCTIONS
        or (lx.is_adjective(last) and last not in lx.ALSO_NOUNS)
    )


def is_clause(segments: tuple[Segment, ...]) -> bool:
    """Whether a sentence has an auxiliary as its verb ("the sky is blue"), so that it cannot follow "showing"."""
    for segment in segments:
        if segment.joint == "act" or segment.joint in lx.CONJUNCTIONS or not lx.CONJUNCTIONS.isdisjoint(segment.keys):
            break  # what follows is said of a part
        if len(segment.keys) > 1 and not lx.FINITE_AUXILIARIES.isdisjoint(segment.keys[1:]):
            return True
    return segments[0].joint in lx.LOCATIVE and len(segments) > 1
