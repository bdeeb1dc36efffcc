"""Words a change along a scale ("large" to "small") as people ask for it: smaller, instead of small.

Only where both captions give the same thing a place on one scale, at opposite ends: "big" and "large" are one size, and a
small blue circle is no smaller red star. Tones of a colour or of skin are no scale here. Cost: 10 us for an
edit along a scale, 1 us for any other.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from mmret.annotate.backends.captions import lexicon as lx
from mmret.annotate.backends.captions.analyse import BARE
from mmret.annotate.backends.captions.compare import Edit
from mmret.annotate.backends.captions.moods import Moods, clause_change
from mmret.annotate.backends.captions.nouns import all_words, head_noun, listing, noun_phrase, short_head
from mmret.annotate.backends.captions.phrases import qualified

Words = tuple[str, ...]


class Scale(NamedTuple):
    """The words at both ends of a scale, and the comparatives that lead to each. A comparative begins with a vowel only where the
    words of its end do, so that the caption's own article still fits."""

    low: frozenset[str]
    high: frozenset[str]
    lower: Words
    higher: Words
    of_compounds: bool = False  # also of a noun before which another stands: a large soccer ball, but no high speed train


def _scale(low: str, high: str, lower: str, higher: str, of_compounds: bool = False) -> Scale:
    return Scale(frozenset(low.split()), frozenset(high.split()), tuple(lower.split()), tuple(higher.split()), of_compounds)


SCALES = (
    _scale("small little tiny", "large big huge", "smaller", "larger bigger", of_compounds=True),
    _scale("short", "tall", "shorter", "taller"),
    _scale("short", "long", "shorter", "longer"),
    _scale("young", "old", "younger", "older"),
    _scale("new", "old", "newer", "older"),
    _scale("narrow", "wide broad", "narrower", "wider"),
    _scale("thin", "thick", "thinner", "thicker"),
    _scale("dark", "light", "darker", "lighter"),
    _scale("dark dim", "bright", "darker", "brighter"),
    _scale("low", "high", "lower", "higher"),
    _scale("shallow", "deep", "shallower", "deeper"),
    _scale("light", "heavy", "lighter", "heavier"),
)


class _Step(NamedTuple):
    """From the words ``there``, at one end of a scale, to those ``here``, at the other, by the comparatives ``towards``."""

    here: frozenset[str]
    there: frozenset[str]
    towards: Words
    of_compounds: bool


def _steps() -> dict[str, list[_Step]]:
    found: dict[str, list[_Step]] = {}
    for s in SCALES:
        for step in (_Step(s.low, s.high, s.lower, s.of_compounds), _Step(s.high, s.low, s.higher, s.of_compounds)):
            for word in sorted(step.here):
                found.setdefault(word, []).append(step)
    return found


STEPS = _steps()
"""The steps along a scale that lead to a word, by the word."""
_DENYING = frozenset("not no never less least more most too so hardly".split())
_TONED = lx.PERSONS | lx.COLOURS | frozenset("skin tone tones complexion face faces shade shades hue tint colour color".split())
"""What light and dark are said of as colours."""
_TERMS = frozenset("intestine intestines business toe finger".split())
"""Nouns that a size makes another thing of: the small intestine."""
_POINTING = frozenset("the this that these those".split())
_TWO = frozenset("and or &".split())


def comparative_wordings(edit: Edit) -> Moods | None:
    """The wordings of ``edit`` with comparatives; None where it is no change from one end of a scale to the other.

    ``versus`` is empty: "smaller instead of large" is no English.

    >>> comparative_wordings(Edit("modifier", ("large",), ("small",), head=("star",))).do
    ('make it smaller',)
    """
    if edit.kind != "modifier" or edit.siblings or edit.one_of or edit.joint in lx.CONJUNCTIONS:
        return None
    texts = _compared(edit)
    if not texts or _lacks_article(edit):
        return None
    edit = qualified(edit)
    if edit.joint == "act":
        return _together([clause_change(edit._replace(old=(), new=new)) for new in texts])
    return _of_head(edit, texts) if edit.joint else _of_main(edit, texts)


_OF_PARTS = frozenset(
    "haired sleeved legged tailed winged necked heeled brimmed eyed eared breasted handled nosed armed faced footed horned billed "
    "beaked stemmed limbed bodied furred".split()
)
"""Words that make a compound with the adjective before them, which says how large a part is."""


def _lacks_article(e: Edit) -> bool:
    """Whether the caption leaves out an article that English needs: "with small turban"."""
    noun = head_noun(e.head)
    return (e.determiner == BARE or e.joint in (":", ",", "(")) and not lx.is_plural(noun) and noun not in lx.MASS


def _compared(e: Edit) -> list[Words]:
    """``e.new`` without what ``e.old`` has too, each word of a scale as a comparative, once for each choice of comparatives; empty
    where no word moved along a scale."""
    new, old = tuple(w for w in e.new if w not in e.old), tuple(w for w in e.old if w not in e.new)
    if (
        STEPS.keys().isdisjoint(new)
        or _DENYING & {w.casefold() for w in (*e.lead[-1:], *e.old, *e.new)}
        or _TWO & set(e.head)
        or e.lead
        and e.lead[-1].casefold() in lx.BINDING
        or not all_words(new, lx.is_adjective)
        or any(w in lx.ATTRIBUTIVE for w in new)
    ):
        return []
    noun = head_noun(e.head)
    before_noun = e.head[: [w.casefold() for w in e.head].index(noun)]
    if noun in lx.COLOURS or not all_words(before_noun[:-1], _qualifies):
        return []  # "a large building lined with columns": the noun is not the last
    if e.head[:1] and e.head[0].casefold() in _OF_PARTS:
        return []  # "a long haired cat" is no longer cat
    compound = not all_words(before_noun, _qualifies)
    choices: list[Words] = []
    for word in new:
        step = _step(word, old, new)
        if step is None or compound and not step.of_compounds or noun in _TERMS or _is_tone(e, word, step.there):
            choices.append((word,))
        else:
            choices.append(step.towards)
    texts = list(product(*choices))
    return [] if texts == [new] else texts


def _qualifies(word: str) -> bool:
    return lx.is_adjective(word) or lx.is_participle(word)


def _step(word: str, old: Words, new: Words) -> _Step | None:
    """The step to ``word``, where it is the only one of its end in ``new`` and ``old`` has the other end alone."""
    for step in STEPS.get(word, ()):
        if len(step.here.intersection(new)) == 1 and not step.here.intersection(old) and step.there.intersection(old):
            return step
    return None


def _is_tone(e: Edit, word: str, there: frozenset[str]) -> bool:
    """Whether ``word``, or the word ``there`` that it takes the place of, is said of a colour or of skin: light blue, dark skin."""
    opposite = next(w for w in e.old if w in there)
    for one, words in ((word, (*e.new, *e.head)), (opposite, (*e.old, *e.head))):
        if one in lx.INTENSITIES and words[words.index(one) + 1].casefold() in lx.COLOURS:
            return True
    return {word, opposite} <= lx.INTENSITIES and any(w.casefold() in _TONED for w in (*e.old, *e.new, *e.head))


def _of_main(e: Edit, texts: list[Words]) -> Moods:
    noun = head_noun(e.head)
    plural = lx.is_plural(noun)
    return _together([_of_it(new, plural, noun in lx.MASS) for new in texts])


def _of_it(new: Words, plural: bool, mass: bool) -> Moods:
    text = listing(new)
    if len(new) > 1 or mass:
        alone = f"{text} instead"
    else:
        alone = f"{text} ones" if plural else f"{lx.article(text)} {text} one"
    it = "them" if plural else "it"
    return Moods((f"make {it} {text}",), (text,), (f"that is {text}",), (), (alone, f"{text}, please"))


def _of_head(e: Edit, texts: list[Words]) -> Moods | None:
    if head_noun(e.head) != e.head[-1].casefold():
        return None  # a large bowl of soup
    return _together([_of_its(e, new) for new in texts])


def _of_its(e: Edit, new: Words) -> Moods:
    head = short_head(e.head)
    determiner = "" if e.determiner.lower() in _POINTING else e.determiner
    listed = e.joint in (":", ",", "(")
    plain = " ".join((*new, head)) if listed else noun_phrase((*new, *head.split()), determiner)
    joint = e.joint if e.joint in lx.LOCATIVE else "with"
    full = f"{joint} {plain}"
    return Moods((f"make the {head} {listing(new)}",), (full,), (full,), (), (full, plain) if joint == "with" else (full,))


def _together(moods: list[Moods]) -> Moods:
    """All alternatives of ``moods``, mood by mood."""
    return Moods(*(tuple(dict.fromkeys(text for mood in moods for text in mood[k])) for k in range(len(Moods._fields))))
