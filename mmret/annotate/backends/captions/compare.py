"""Compares two segments of captions: which words changed, and what they belong to.

Why: "a red hat" and "a blue hat" differ in a modifier, "a hat" and "a scarf" in a thing, and the two need different wordings.
Costs about 3 us a pair of segments.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from mmret.annotate.backends.captions import lexicon as lx
from mmret.annotate.backends.captions.analyse import Segment
from mmret.annotate.backends.captions.tokens import join

Words = tuple[str, ...]
_ANDS = ("and", "&")


class Edit(NamedTuple):
    """One change. ``kind``: modifier (``new`` qualifies ``head``; the main phrase has an empty head), thing, add, drop,
    order, medium (photograph, drawing), scene (nothing shared: ``segments`` hold the target's sentence), less (the target
    only says less: ``segments`` hold its sentence)."""

    kind: str
    old: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    head: tuple[str, ...] = ()  # shared words behind the change
    lead: tuple[str, ...] = ()  # shared words before the change
    joint: str = ""
    old_joint: str = ""
    determiner: str = ""  # as the target writes it
    one_of: bool = False  # the target still has another of what changed
    siblings: tuple[str, ...] = ()  # all of the target's modifiers of ``head`` where there are several
    segments: tuple[Segment, ...] = ()
    plural: bool = False  # the main phrase is a plural


def compare(a: Segment, b: Segment, new: tuple[Segment, ...]) -> Edit | None:
    """The edit from segment ``a`` to ``b`` of the target's sentence ``new``; None where ``b`` has nothing that ``a`` lacks."""
    x, y, words, old_words = a.keys, b.keys, b.words, a.words
    if x == y:
        if a.joint in lx.LOCATIVE and b.joint in lx.LOCATIVE and a.joint != b.joint and {a.joint, b.joint} != {"in", "at"}:
            return Edit("thing", old=old_words, new=words, joint=b.joint, old_joint=a.joint, determiner=b.determiner)
        return None
    if b.determiner == "A" and not a.determiner and x[1:] == y:  # "O button" to "A button": a letter, not an article
        y, words = ("a", *y), ("A", *words)
    elif a.determiner == "A" and not b.determiner and y[1:] == x:
        x, old_words = ("a", *x), ("A", *old_words)
    lead, tail = _shared(x, y, old_words, words)
    old, news = old_words[lead : len(x) - tail], words[lead : len(y) - tail]
    if not old or not news:
        one_sided = _one_sided(a, b, old, news, tail)
        if one_sided != "differs":
            return one_sided
    edit = Edit(
        "modifier" if tail else "thing",
        old,
        news,
        words[len(y) - tail :],
        words[:lead],
        b.joint,
        a.joint,
        "" if words is not b.words else b.determiner,
    )
    if tail and b.joint:
        head = y[len(y) - tail :]
        siblings = [s.words for s in new if s.joint and len(s.keys) > tail and s.keys[-tail:] == head]
        if len(siblings) > 1:
            edit = edit._replace(siblings=tuple(join(w[:-tail]) for w in siblings))
    return edit


def _one_sided(a: Segment, b: Segment, old: Words, new: Words, tail: int) -> Edit | Literal["differs"] | None:
    """The edit where words were only added or only left out; "differs" where it is worded like any other edit."""
    only = new or old
    if not tail and only[0].casefold() in lx.LOCATIVE and only[-1].casefold() in lx.PRONOUNS:
        return None  # a ball, a ball beside it
    if b.joint and (only[-1] if tail else only[0]).casefold() in _ANDS:  # with rain, with lightning and rain
        words = only[:-1] if tail else only[1:]
        return Edit("add", new=words, joint="with") if new else Edit("drop", old=words, joint="with")
    if new:
        return "differs"
    if tail or b.joint == "act":
        return None  # left unsaid: a red hat, a hat; pointing up, pointing
    return Edit("thing", old=a.words, new=b.words, joint=b.joint, old_joint=a.joint, determiner=b.determiner)


def _shared(x: Words, y: Words, old_words: Words, words: Words) -> tuple[int, int]:
    """How many words two segments share at their beginning and, of the rest, at their end."""
    size = min(len(x), len(y))
    lead = 0
    while lead < size and x[lead] == y[lead]:
        lead += 1
    tail = 0
    while tail < size - lead and x[-1 - tail] == y[-1 - tail]:
        tail += 1
    old, new = x[lead : len(x) - tail], y[lead : len(y) - tail]
    if (
        tail
        and (
            y[len(y) - tail] in _HANGS  # a glass of milk, a cup of milk
            or "not" in old
            or "not" in new
            or _leaves_half(old_words[lead : len(x) - tail], new)
            or _leaves_half(words[lead : len(y) - tail], old)
        )
    ):
        tail = 0
        old, new = x[lead:], y[lead:]
    if lead and (tail or old and new) and (old and old[0] in lx.BINDING or new and new[0] in lx.BINDING):
        return 0, 0
    if tail and lead and words[lead - 1].casefold() in lx.INTENSITIES and not (old or new):
        lead -= 1
    elif tail and _bound(x, y, tail):
        tail -= 1
    return lead, tail


def _leaves_half(words: Words, other: Words) -> bool:
    """Whether ``words``, which differ from ``other``, end in a word that cannot be the last: "aerial view of an" (island)."""
    if not words or words[-1] not in _NEEDS_NEXT:
        return False
    return bool(other) or words[-1] not in ("and", "&", "or")


_HANGS = lx.LOCATIVE | lx.BINDING - {"and", "&", "or"}
_NEEDS_NEXT = lx.BINDING - {"up", "off"} | lx.DETERMINERS | lx.LOCATIVE


def _bound(x: Words, y: Words, tail: int) -> bool:
    """Whether the words that differ only describe a shade of the colour after them: dark green, light green."""
    if tail < 2 or y[len(y) - tail] not in lx.COLOURS:
        return False
    before = (x[len(x) - tail - 1 : len(x) - tail], y[len(y) - tail - 1 : len(y) - tail])
    return any(w and w[0] in lx.INTENSITIES for w in before)
