"""Words put together as English wants them: articles, definite phrases, series, and a caption as a noun phrase."""

from __future__ import annotations

from collections.abc import Callable

from mmret.annotate.backends.captions import lexicon as lx
from mmret.annotate.backends.captions.analyse import Segment, is_clause, join

Words = tuple[str, ...]


def is_name(words: Words) -> bool:
    """Whether ``words`` are a name, a number, a sign, or of another script: never given an article."""
    noun = words[_head_index(words)].strip("“”\"'‘’")
    return not noun[:1].isalpha() or not noun[:1].islower() or len(noun) == 1 or not noun.isascii() and not _latin(noun)


def _latin(word: str) -> bool:
    return all(ord(c) < 0x250 or not c.isalpha() for c in word)


def noun_phrase(words: Words, determiner: str = "") -> str:
    """``words`` with an article where English wants one."""
    determiner = determiner.lower()
    text = join(words)
    if determiner in ("a", "an"):
        return f"{lx.article(words[0])} {text}"
    if determiner:
        return f"{determiner} {text}"
    first, noun = words[0].lower(), head_noun(words)
    if (
        is_name(words)
        or first in lx.NUMBERS
        or first == "front"
        and len(words) > 1
        or first in lx.DETERMINERS
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
    return len(words) == 2 and words[1].islower() and not lx.is_plural(words[1]) and words[1] not in lx.DIRECTIONS


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
    for i, word in enumerate(words):
        low = word.casefold()
        if i and (
            low in lx.BINDING
            and low not in ("and", "&", "or")
            or lx.is_participle(low)
            or low in lx.LOCATIVE
            or low in lx.AUXILIARIES
        ):
            return i - 1
    return len(words) - 1


def head_noun(words: Words) -> str:
    return words[_head_index(words)].casefold()


def listing(words: Words) -> str:
    """Modifiers as a list: "large, light blue and striped"."""
    groups: list[str] = []
    for word in words:
        if word.casefold() in ("and", "or"):
            continue
        if groups and groups[-1].rpartition(" ")[2].casefold() in lx.INTENSITIES and word.casefold() in lx.COLOURS:
            groups[-1] += " " + word
        else:
            groups.append(word)
    return series(groups)


def series(parts: list[str]) -> str:
    """``a, b and c``; "with" is said once."""
    parts = [p[5:] if i and p.startswith("with ") and parts[i - 1].startswith("with ") else p for i, p in enumerate(parts)]
    if len(parts) < 2:
        return "".join(parts)
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
        text = _piece(s, i == 0, clause)
        size = len(text.split())
        if parts and count + size > limit:
            break
        words = text.split(" ")
        parts.append(" ".join(words[:limit]))
        count += size
    text = "".join(parts).replace(" ,", ",").strip(" ,;:-")
    if text.count("“") > text.count("”"):
        text += "”"
    elif text.count('"') % 2:
        text += '"'
    return text, clause


def _piece(s: Segment, first: bool, clause: bool) -> str:
    determiner = s.determiner.lower()
    if first:
        body = f"{determiner} {s.text}".strip() if clause or determiner else noun_phrase(s.words)
        return f"{s.joint} {body}" if s.joint in lx.LOCATIVE else body
    text = f"{determiner} {s.text}".strip()
    if s.joint in ("act",):
        return f" {text}"
    if s.joint == ":":
        return f" {text}" if is_name(s.words) else f" with {text}"
    if s.joint == ",":
        return f", {text}"
    if s.joint == "(":
        return f" ({text})"
    if s.joint in lx.LOCATIVE | lx.ACCOMPANYING:
        return f" {s.joint} {determiner + ' ' + s.text if determiner else noun_phrase(s.words)}"
    return f" {s.joint} {text}"
