"""Reads a caption: words, sentences, and segments that an edit can replace, add or remove as a whole.

A segment is a noun phrase, a prepositional phrase ("on a green background"), an action ("holding hands"), an item of a
list after a colon or comma, or a clause behind a conjunction. Scripts without spaces fall back to one token a
character. Costs about 15 us for ten words; parsed captions are kept, since a query image occurs in several pairs in a
row.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from mmret.annotate.backends.captions import lexicon as lx

MAX_CHARACTERS = 4000
"""Number of characters of a caption that are read; what follows would not get into an instruction of 25 words."""
MAX_WORDS = 48
"""Number of words of each sentence that are read."""
BARE = "-"
"""Determiner of a phrase without an article in a caption that has articles elsewhere: it gets none ("in bed")."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_STOPS = ".,;:()!?…。！？，、；：（）"
_TOKEN = re.compile(
    rf"[{_UNSPACED}]|[{_STOPS}]|(?:[^\s{_STOPS}{_UNSPACED}]|(?<=\w)[.,:](?=\w))+"
    rf"(?:(?<=\bSt|\bMr|\bMs|\bDr|\bMt|\bJr|\.[A-Z])\.|(?<=\bMrs)\.|(?<=\bNo)\.(?= \d))?"
)
_ENDS = frozenset(".!?…。！？")
_BREAKS = frozenset(",;:()，、；：（）")
_QUOTES = "“”\"'‘’«»「」„"
_OPENER = re.compile(
    r"^(?:(?:it|this|(?:the|this) (?:image|photo(?:graph)?|picture)) is\s+)?"
    r"(?:(?:this|the|a|an|these)\s+)?(?:(?:close-?up|colou?r|digital|still|old|historic(?:al)?)\s+)?"
    r"(?:photo(?:graph)?s?|images?|pictures?|figures?|snapshots?|screenshots?)\s+"
    r"(?:(?:that\s+)?(?:shows?|showing|shown|depicts?|depicting|illustrates?|displays?|contains?|features?)"
    r"(?:\s+that)?|(?:is|are)\s+(?:shown\s+)?of|of)\s+(?=\S)",
    re.IGNORECASE,
)
_IS_SHOWN = re.compile(
    r"\s+(?:is|are)\s+(?:shown|seen|pictured|depicted|visible)"
    r"(?:\s+in (?:a|the|this) (?:photo(?:graph)?|image|picture|figure))?(?=[\s.,]|$)",
    re.IGNORECASE,
)
_IN_IT = re.compile(
    r"^in (?:the|this) (?:[\w-]+ ){0,3}?(?:image|photo(?:graph)?|picture|figure|painting|drawing),?\s+(?=\S)", re.IGNORECASE
)
_MEDIUM = re.compile(
    r"^(?:(?:this|the|a|an)\s+)?((?:[\w-]+\s+){0,2}?(?:drawing|painting|sketch|illustration|cartoon|engraving|etching|watercolou?r"
    r"|lithograph|woodcut|mosaic|fresco|rendering|diagram))\s+(?:of|shows?|showing|depicts?|depicting)\s+(?=\S)",
    re.IGNORECASE,
)
_HAS_ARTICLE = re.compile(r"\b(?:[Aa]|[Aa]n|[Tt]he) [a-z]")
_PICTURE_IS = re.compile(r"^(?:(?:the|this)\s+)?(?:image|photo(?:graph)?|picture|figure) is (?=an?\s)", re.IGNORECASE)
_THERE = re.compile(r"^there (?:is|are)\s+(?=\S)", re.IGNORECASE)


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


def clean(text: str) -> str:
    """``text`` in NFC without control characters, on one line, at most ``MAX_CHARACTERS`` long."""
    text = unicodedata.normalize("NFC", text[:MAX_CHARACTERS])
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in "\u200c\u200d" else " " for c in text)
    return " ".join(text.split())


def join(words: tuple[str, ...] | list[str]) -> str:
    """Words back to text: with spaces, but none inside a script that has none."""
    text = " ".join(words)
    if not text.isascii():
        text = re.sub(rf"(?<=[{_UNSPACED}]) (?=[{_UNSPACED}])", "", text)
    return text


@lru_cache(maxsize=16_384)
def read(text: str) -> Caption:
    """Parse one caption. Never fails; an empty text has no sentences."""
    text = clean(text)
    articles = _HAS_ARTICLE.search(text) is not None
    medium, parts = _parts(text)
    keys = _keys(parts)
    sentences = [segments for sentence in parts if (segments := tuple(_segments(sentence, articles)))]
    return Caption(tuple(sentences), (medium, *keys) if medium else tuple(keys), medium)


def words(text: str) -> tuple[str, ...]:
    """The words of a caption in the form in which they are compared, without its opening and its medium, and without parsing
    it.

    >>> words("A drawing of a big red circle")
    ('a', 'large', 'red', 'circle')
    """
    return tuple(_keys(_parts(clean(text))[1]))


def _parts(text: str) -> tuple[str, list[list[str]]]:
    """The medium of a clean caption, and its sentences as tokens."""
    medium = ""
    if found := _MEDIUM.match(text):
        medium = " ".join(w if lx.keeps_capital(w.lower()) else w.lower() for w in found[1].split())
        text = text[found.end() :]
    return medium, _sentences(text)


def _keys(sentences: list[list[str]]) -> list[str]:
    return [k for sentence in sentences for t in sentence if t not in _BREAKS and (k := _key(t))]


def _key(token: str) -> str:
    key = token.strip(_QUOTES).replace("’", "'").casefold() or token
    return lx.SYNONYMS.get(key, key)


def _sentences(text: str) -> list[list[str]]:
    text = _THERE.sub("", _IS_SHOWN.sub("", _IN_IT.sub("", _OPENER.sub("", _PICTURE_IS.sub("", text)))))
    tokens = _TOKEN.findall(text)
    sentences: list[list[str]] = [[]]
    for i, token in enumerate(tokens):
        if token in _ENDS:
            following = tokens[i + 1] if i + 1 < len(tokens) else ""
            if following[:1].islower() and sentences[-1]:
                sentences[-1][-1] += token
            elif sentences[-1]:
                sentences.append([])
        else:
            sentences[-1].append(token)
    sentences = [s for s in sentences if s]
    if sentences and (len(sentences) > 1 or len(sentences[0]) > 1):
        for sentence in sentences:
            sentence[0] = _uncapitalised(sentence)
    return sentences


def _uncapitalised(sentence: list[str]) -> str:
    """The first word as it would stand inside a sentence; names and abbreviations keep their capital."""
    first = sentence[0]
    lower = first.lower()
    if not first[:1].isupper() or (first.isupper() and lower != "a") or lx.keeps_capital(lower):
        return first
    if len(sentence) > 2 and sentence[1] == "and" and sentence[2][:1].isupper():
        return first  # Ida and Dactyl
    plain = len(sentence) > 1 and sentence[1].isalpha() and sentence[1].islower()
    known = lower in lx.DETERMINERS or lower in lx.NUMBERS or lx.is_adjective(lower) or lower in lx.LOCATIVE
    if lower == "a":
        return first  # article or letter ("A button"): only the other caption can tell
    name = len(sentence) > 1 and sentence[1][:1].isupper() and not sentence[1].isupper()
    return lower if plain or (known and len(sentence) > 3 and not name) else first


def _segments(tokens: list[str], articles: bool) -> list[Segment]:
    """The segments of one sentence; ``articles``: whether its caption has articles, so that a phrase without one gets none."""
    listed = _starts_list(tokens)
    segments: list[Segment] = []
    joint, words, skip = "", [], 0
    and_before = False

    def close() -> None:
        nonlocal and_before
        if words:
            segments.append(_segment(joint, words, articles)._replace(and_before=and_before))
            and_before = False

    for i, token in enumerate(tokens[:MAX_WORDS]):
        if skip:
            skip -= 1
            continue
        low = token.casefold()
        following = tokens[i + 1].casefold() if i + 1 < len(tokens) else ""
        if token in _BREAKS:
            close()
            joint, words = (":" if listed and ":" in tokens[: i + 1] else "(" if token in "(（" else ","), []
        elif words == [] and joint == "," and low in ("and", "or") and following:
            joint = "and"
        elif words == [] and joint == "," and low in lx.CONJUNCTIONS and following:
            joint = "" if lx.is_participle(following) else low
        elif following in lx.PRONOUNS and low in lx.LOCATIVE and words and i + 2 >= len(tokens[:MAX_WORDS]):
            words.append(token)  # "a ball beside it"
        elif low in lx.COMPOUND_STARTS and (place := _compound_place(tokens, i)):
            close()
            joint, words, skip = " ".join(place), [], len(place) - 1
        elif low in lx.PREPOSITIONS:
            if not words and joint in ("", ",", "and"):
                joint = low
            elif words and following and following not in _BREAKS and _ends_before_place(words, low, joint):
                close()
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
            close()
            joint, words = "act", [token if lx.is_participle(low) else lx.participle_of(low)]
        elif not words and joint == "," and segments and _is_late_verb(low, following):
            joint, words = "act", [lx.participle_of(low)]  # a bear, wearing a hat, stands ...
        elif low in ("and", "while") and words and (lx.is_participle(following) or _second_verb(joint, words, following)):
            close()
            joint, words, and_before = "", [], low == "and"
        elif low in lx.CONJUNCTIONS and words and len(tokens) > 6:
            close()
            joint, words = low, []
        elif low == "and" and words and following in lx.DETERMINERS:
            close()
            joint, words = "and", []
        elif not words and joint == "" and segments:
            verb = segments[-1].joint == "act" and and_before and not lx.is_participle(low)
            joint, words = ("act" if verb or lx.is_participle(low) else "and"), [lx.participle_of(low) if verb else token]
        else:
            words.append(token)
    close()
    return segments


def _compound_place(tokens: list[str], i: int) -> tuple[str, ...]:
    """The preposition of several words that stands at ``i`` with something behind it: in front of; empty if none does."""
    for place in lx.COMPOUND_PLACES:
        size = len(place)
        if tokens[i].casefold() == place[0] and tuple(t.casefold() for t in tokens[i : i + size]) == place:
            return place if i + size < len(tokens) and tokens[i + size] not in _BREAKS else ()
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
    if low.endswith("s") and following and following not in _BREAKS and lx.is_only_a_verb(low):
        return True
    return low in lx.GERUNDS and (following in lx.DETERMINERS or following in lx.LOCATIVE or following in lx.ACCOMPANYING)


def _segment(joint: str, words: list[str], articles: bool) -> Segment:
    if (
        joint in ("", ",", ":", "(", "and")
        and lx.is_participle(words[0].casefold())
        and (len(words) == 1 or words[1].casefold() in lx.DIRECTIONS | lx.DETERMINERS)
        and joint
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
    return Segment(joint, determiner, tuple(words), tuple(map(_key, words)))


def _starts_list(tokens: list[str]) -> bool:
    """Whether the first colon is that of ``head: item, item`` rather than of running text."""
    if ":" not in tokens and "：" not in tokens:
        return False
    at = tokens.index(":") if ":" in tokens else tokens.index("：")
    run = longest = 0
    for token in tokens[at + 1 :]:
        run = 0 if token in _BREAKS else run + 1
        longest = max(longest, run)
    return 0 < at <= 8 and 0 < longest <= 5


def _is_finite(low: str, words: list[str], following: str, several: bool) -> bool:
    """Whether ``low`` is the verb of a sentence whose subject is ``words``: "a man wears a hat", "two people sit".

    ``several``: ``words`` follow another subject and an "and".
    """
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
        if segment.joint == "act" or segment.joint in lx.CONJUNCTIONS or any(k in lx.CONJUNCTIONS for k in segment.keys):
            break  # what follows is said of a part
        if any(word in lx.AUXILIARIES and word not in lx.NON_FINITE for word in segment.keys[1:]):
            return True
    return segments[0].joint in lx.LOCATIVE and len(segments) > 1
