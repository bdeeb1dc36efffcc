"""Puts English words together: articles, definite phrases, series, and a caption as a noun phrase.

Costs 1 to 5 us a phrase; phrases are kept, since the captions of a corpus have many in common ("on a white background").
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from mmret.annotate.backends.captions import lexicon as lx
from mmret.annotate.backends.captions.analyse import BARE, Segment, is_clause
from mmret.annotate.backends.captions.tokens import join

Words = tuple[str, ...]
_KEPT = 16_384
"""Phrases kept of each kind."""


@lru_cache(_KEPT)
def is_name(words: Words) -> bool:
    """Whether ``words`` are a name, a number, a sign, or of another script: never given an article."""
    noun = words[_head_index(words)].strip("“”\"'‘’")
    return not noun[:1].isalpha() or not noun[:1].islower() or len(noun) == 1 or not noun.isascii() and not _latin(noun)


def _latin(word: str) -> bool:
    return all(ord(c) < 0x250 or not c.isalpha() for c in word)


@lru_cache(_KEPT)
def noun_phrase(words: Words, determiner: str = "") -> str:
    """``words`` with an article where English needs one; ``determiner`` is the one in the caption, if it has one.

    >>> noun_phrase(("orange", "hat")), noun_phrase(("rain",)), noun_phrase(("bed",), BARE)
    ('an orange hat', 'rain', 'bed')
    """
    determiner = determiner.lower()
    text = join(words)
    if determiner == BARE:
        return text
    if determiner in ("a", "an"):
        return f"{lx.article(words[0])} {text}"
    if determiner:
        return f"{determiner} {text}"
    first, noun = words[0].lower(), head_noun(words)
    if (
        is_name(words)
        or first in lx.NO_ARTICLE
        or noun in lx.MASS
        or lx.is_plural(noun)
        or noun in lx.DIRECTIONS
        or noun in lx.LOCATIVE
        or (lx.is_participle(first) and not _adjectival(words))
        or lx.is_adjective(noun)
        and noun not in lx.ALSO_NOUNS
    ):
        return text
    return f"{lx.article(words[0])} {text}"


def _adjectival(words: Words) -> bool:
    """Whether the participle that ``words`` begin with qualifies a noun: grinning face, not holding hands."""
    last = words[-1]
    between = all(lx.is_adjective(w) or lx.is_participle(w) for w in words[1:-1])
    return 2 <= len(words) <= 3 and between and last.islower() and not lx.is_plural(last) and last not in lx.DIRECTIONS


@lru_cache(_KEPT)
def definite(words: Words, one_of: bool = False) -> str:
    """``words`` as something the reader sees: "the hat", "one person", or bare for a name."""
    text = join(words)
    if is_name(words) or words[0].lower() in lx.DETERMINERS:
        return text
    noun = head_noun(words)
    if one_of and not lx.is_plural(noun) and noun not in lx.MASS:
        return f"one {text}"
    return f"the {text}"


def _head_index(words: Words) -> int:
    """Place of the noun that decides on the article: the last word before "of" or a participle."""
    for i in range(1, len(words)):
        low = words[i].casefold()
        if low in _ENDS_NOUN or lx.is_participle(low):
            return i - 1
    return len(words) - 1


_ENDS_NOUN = (lx.BINDING - {"and", "&", "or"}) | lx.LOCATIVE | lx.AUXILIARIES


def head_noun(words: Words) -> str:
    return words[_head_index(words)].casefold()


@lru_cache(_KEPT)
def listing(words: Words) -> str:
    """Modifiers as a list: ``("large", "light", "blue")`` to "large and light blue"."""
    groups: list[str] = []
    for word in words:
        if word.casefold() in ("and", "or"):
            continue
        before = groups[-1].rpartition(" ")[2].casefold() if groups else ""
        if before == "not" or before in lx.INTENSITIES and word.casefold() in lx.COLOURS:
            groups[-1] += " " + word
        else:
            groups.append(word)
    return series(groups)


def series(parts: list[str]) -> str:
    """``a, b and c``; "with" is said once."""
    if len(parts) < 2:
        return "".join(parts)
    parts = [p[5:] if i and p.startswith("with ") and parts[i - 1].startswith("with ") else p for i, p in enumerate(parts)]
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def short_head(head: Words) -> str:
    """The noun a modifier belongs to, without shared details before it: "skin tone", but "table" of "red table"."""
    if len(head) == 1 or len(head) == 2 and not lx.is_adjective(head[0].casefold()):
        return join(head)
    return head[-1]


def all_words(words: Words, test: Callable[[str], bool]) -> bool:
    return all(test(w.casefold()) for w in words)


def scene(segments: tuple[Segment, ...], limit: int) -> tuple[str, bool]:
    """The target's sentence as a phrase of at most ``limit`` words, and whether it is a clause, not a noun phrase."""
    parts: list[str] = []
    count = 0
    clause = is_clause(segments)
    for i, s in enumerate(segments):
        text, size = _piece(s, i == 0, clause) if s.joint != ":" or not _later_item(segments, i) else _sized(_item(segments, i))
        if parts and count + size > limit:
            parts = parts[: _whole_clauses(segments, i)]
            break
        if text.count(" ") >= limit:
            words = text.split(" ")
            text = " ".join(words[:limit]) if size <= limit else cut(words, limit)
        parts.append(text)
        count += size
    text = "".join(parts).replace(" ,", ",").strip(" ,;:-")
    if "“" in text or "”" in text:
        text = text.replace(" ”", "”").strip(" ,;:-")
        if text.count("“") > text.count("”"):
            return text + "”", clause
    if '"' in text and text.count('"') % 2:
        text += '"'
    return text, clause


def _within(segments: tuple[Segment, ...], pieces: list[tuple[str, int]], limit: int) -> list[str]:
    """The first of ``pieces``, which have so many words each, that together have no more than ``limit``; of the first piece, its
    first words."""
    parts: list[str] = []
    count = 0
    for i, (text, size) in enumerate(pieces):
        if parts and count + size > limit:
            return parts[: _whole_clauses(segments, i)]
        words = text.split(" ")
        parts.append(" ".join(words[:limit]) if size <= limit else cut(words, limit))
        count += size
    return parts


def _sized(text: str) -> tuple[str, int]:
    """``text`` and how many words it has."""
    return text, len(text.split())


def _whole_clauses(segments: tuple[Segment, ...], end: int) -> int:
    """How many of the first ``end`` segments to use so that no clause after a conjunction stops in the middle."""
    starts = [i for i in range(1, end) if segments[i].joint in lx.CONJUNCTIONS]
    return starts[-1] if starts and segments[end].joint not in (",", "and") else end


def cut(words: list[str], limit: int) -> str:
    """The first ``limit`` of ``words`` as text, without the words at its end that only make sense before another."""
    words = words[:limit]
    while len(words) > 1 and words[-1].casefold().strip('“"') in _INCOMPLETE:
        words.pop()
    return " ".join(words)


_INCOMPLETE = (lx.DETERMINERS | lx.BINDING | lx.LOCATIVE | lx.ACCOMPANYING | lx.CONJUNCTIONS | lx.AUXILIARIES | {"not", "no"}) - {
    "up",
    "off",
    "her",
}


def _later_item(segments: tuple[Segment, ...], i: int) -> bool:
    if i == 0 or segments[i].joint != ":" or is_name(segments[i].words):
        return False
    return segments[i - 1].joint == ":" or segments[0].joint in lx.ACCOMPANYING


def _item(segments: tuple[Segment, ...], i: int) -> str:
    last = i + 1 == len(segments) or segments[i + 1].joint != ":"
    return f"{' and' if last else ','} {_with_determiner(segments[i])}"


def _with_determiner(s: Segment) -> str:
    person = s.joint == ":" and s.words[-1].casefold() in lx.PERSONS
    return noun_phrase(s.words, s.determiner) if s.determiner or person else s.text


@lru_cache(_KEPT)
def _piece(s: Segment, first: bool, clause: bool) -> tuple[str, int]:
    """A segment as a part of a sentence, and how many words that has."""
    return _sized(_worded(s, first, clause))


def _worded(s: Segment, first: bool, clause: bool) -> str:
    text = _with_determiner(s)
    if first:
        if s.joint == "" and not clause and not s.determiner and all_words(s.words, _only_adjective):
            return f"something {text}"
        body = text if clause or s.joint == "act" else noun_phrase(s.words, s.determiner)
        return f"{s.joint} {body}" if s.joint in lx.PREPOSITIONS else body
    if s.joint == "act":
        return f" and {text}" if s.and_before else f" {text}"
    if s.joint == ":":
        if is_name(s.words):
            return f" ({text})" if s.words[0][:1].isalpha() else f" {text}"
        return f" with {text}"
    if s.joint == ",":
        return f", {text}"
    if s.joint == "(":
        return f" ({text})"
    if s.joint in lx.PREPOSITIONS:
        return f" {s.joint} {noun_phrase(s.words, s.determiner)}"
    return f" {s.joint} {text}"


def _only_adjective(word: str) -> bool:
    return lx.is_adjective(word) and word not in lx.ALSO_NOUNS
