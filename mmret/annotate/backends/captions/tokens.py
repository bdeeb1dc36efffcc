"""Splits a caption into words and marks, without what only says that it is a picture ("a photo of", "is shown in the image").

Names and abbreviations keep their capitals; scripts without spaces fall back to one token a character. Costs about 5 us for ten
words.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from mmret.annotate.backends.captions import lexicon as lx

MAX_CHARACTERS = 4000
"""Number of characters of a caption that are read; what follows would not get into an instruction of 25 words."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_STOPS = ".,;:()!?…。！？，、；：（）"
_ABBREVIATED = (
    r"(?:(?=\.)(?:(?<=\bSt|\bMr|\bMs|\bDr|\bMt|\bJr|\.[A-Z])\.|(?<=\bMrs)\.|(?<=\bNo)\.(?= \d)))?"  # its full stop belongs to it
)
_TOKEN = re.compile(rf"[{_UNSPACED}]|[{_STOPS}]|(?:[^\s{_STOPS}{_UNSPACED}]|(?<=\w)[.,:](?=\w))+{_ABBREVIATED}")
_ASCII_TOKEN = re.compile(rf"[.,;:()!?]|(?:[^\s.,;:()!?]+|(?<=\w)[.,:](?=\w))++{_ABBREVIATED}")
"""The same for a text without other letters, where it takes a third of the time."""
_MARK = re.compile(r"[.,;:()!?]")
_ABBREVIATIONS = ("St.", "Mr.", "Ms.", "Dr.", "Mt.", "Jr.", "Mrs.")
_ENDS = frozenset(".!?…。！？")
BREAKS = frozenset(",;:()，、；：（）")
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
HAS_ARTICLE = re.compile(r"\b(?:[Aa]|[Aa]n|[Tt]he) [a-z]")
_PICTURE_IS = re.compile(r"^(?:(?:the|this)\s+)?(?:image|photo(?:graph)?|picture|figure) is (?=an?\s)", re.IGNORECASE)
_THERE = re.compile(r"^there (?:is|are)\s+(?=\S)", re.IGNORECASE)


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


def words(text: str) -> tuple[str, ...]:
    """The words of a caption in the form in which they are compared, without its opening and its medium, and without parsing
    it.

    >>> words("A drawing of a big red circle")
    ('a', 'large', 'red', 'circle')
    """
    return tuple(keys_of(split(clean(text))[1]))


_MEDIUM_VERBS = (" of", " show", " depict")
_PICTURE_WORDS = ("photo", "image", "picture", "figure", "shot", "painting", "drawing")
_SHOWN_WORDS = ("shown", "seen", "pictured", "depicted", "visible")


def _may_have(lower: str, words: tuple[str, ...]) -> bool:
    """Whether a text may have one of ``words``; ``lower``: it in small letters. Spares most captions a search by patterns that all
    have one of them; of letters beyond ASCII some are equal to these but for case."""
    return True in [word in lower for word in words] or not lower.isascii()


def split(text: str) -> tuple[str, list[list[str]]]:
    """The medium of a clean caption, and its sentences as tokens."""
    medium = ""
    if _may_have(text.lower(), _MEDIUM_VERBS) and (found := _MEDIUM.match(text)):
        medium = " ".join(w if lx.keeps_capital(w.lower()) else w.lower() for w in found[1].split())
        text = text[found.end() :]
    return medium, _sentences(text)


def keys_of(sentences: list[list[str]]) -> list[str]:
    return [k for sentence in sentences for t in sentence if t not in BREAKS and (k := key_of(t))]


@lru_cache(maxsize=65_536)
def key_of(token: str) -> str:
    key = token.strip(_QUOTES).replace("’", "'").casefold() or token
    return lx.SYNONYMS.get(key, key)


def _sentences(text: str) -> list[list[str]]:
    lower = text.lower()
    if _may_have(lower, _PICTURE_WORDS):
        text = _IN_IT.sub("", _OPENER.sub("", _PICTURE_IS.sub("", text)))
    if _may_have(lower, _SHOWN_WORDS):
        text = _IS_SHOWN.sub("", text)
    if text[:5].lower() == "there" or not text.isascii():
        text = _THERE.sub("", text)
    tokens = _tokens(text)
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


def _tokens(text: str) -> list[str]:
    """Words and marks of a clean text."""
    if not text.isascii():
        return _TOKEN.findall(text)
    mark = _MARK.search(text)
    if mark is None:
        return text.split()
    if mark.end() == len(text) and mark[0] == "." and not text.endswith(_ABBREVIATIONS):
        return [*text[:-1].split(), "."]
    return _ASCII_TOKEN.findall(text)


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
