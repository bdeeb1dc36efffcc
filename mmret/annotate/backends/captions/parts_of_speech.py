"""Looks English words up in a dictionary: whether one is an adjective, noun, plural, verb or name, and how likely each is.

Why: endings mislead (turntable, seaweed and starfish end as adjectives do) and no list made by hand is long enough. The
dictionary is that of HanTa's English model: 28,772 words, with how often each was used as what. Costs 0.1 s and some
40 MB when the first word is asked for, 10 us for a new word and nothing for one asked before.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

CLEAR = 2.0
"""By how much (natural logarithm) one use must outweigh another: seven times as frequent."""


@lru_cache(maxsize=1)
def _tagger() -> Any:
    from HanTa.HanoverTagger import HanoverTagger  # here, so that only what annotates loads it

    return HanoverTagger("morphmodel_en.pgz")


@lru_cache(maxsize=65_536)
def uses(word: str) -> dict[str, float]:
    """Log-probability of each part of speech of lower-case ``word``, likeliest first; empty if it is not in the dictionary.

    The names are those of the British National Corpus: AJ0 adjective, AJC comparative, NN1 singular, NN2 plural, NN0
    noun of either number, NP0 name, VVZ verb in -s, VVB and VVI other present, VVG in -ing, VVN and VVD past.

    >>> next(iter(uses("turntable")))
    'NN1'
    """
    tagger = _tagger()
    if word not in tagger.cache:  # its guess from the letters of other words takes 1 ms and is no better than our endings
        return {}
    return {str(name): float(p) for name, p in tagger.tag_word(word, casesensitive=False)}


def _best(found: dict[str, float], *names: str) -> float:
    return max((found[n] for n in names if n in found), default=float("-inf"))


def adjective(word: str) -> bool | None:
    """Whether ``word`` is used as an adjective and seldom as a noun; None if it is not in the dictionary."""
    found = uses(word)
    if not found:
        return None
    qualifies = _best(found, "AJ0", "AJC", *(("VVN", "VVD") if word.endswith("ed") else ()))
    likeliest = max(found.values())
    return qualifies == likeliest and qualifies - _best(found, "NN0", "NN1", "NN2") > CLEAR


def plural(word: str) -> bool | None:
    """Whether noun ``word`` is more often a plural than a singular; None if it is no noun of the dictionary."""
    found = uses(word)
    many, one = _best(found, "NN2"), _best(found, "NN0", "NN1")
    return None if max(many, one) == float("-inf") else many > one


def verb_in_s(word: str) -> bool | None:
    """Whether ``word`` can be a verb of the third person (sits); None if it is not in the dictionary."""
    found = uses(word)
    return None if not found else "VVZ" in found and found["VVZ"] > _best(found, "NN2", "NN1", "NN0") - CLEAR


def present_verb(word: str) -> bool | None:
    """Whether ``word`` can be a verb of the present (they sit); None if it is not in the dictionary."""
    found = uses(word)
    return None if not found else _best(found, "VVB", "VVI") > _best(found, "NN2", "NN1", "NN0") - CLEAR


def verb_in_ing(word: str) -> bool | None:
    """Whether ``word`` can be a participle (running, golfing); None if it is not in the dictionary."""
    found = uses(word)
    if not found or "VVG" in found or "AJ0" in found:
        return True if found else None
    stem = word[:-3]
    stems = (stem, stem + "e", stem[:-1]) if stem[-1:] == stem[-2:-1] else (stem, stem + "e")
    return any(len(s) > 2 and uses(s).keys() & {"NN1", "VVB", "VVI"} for s in stems)


def name(word: str) -> bool:
    """Whether ``word`` is first of all a name, and no common noun: ida, but not turkey."""
    found = uses(word)
    return bool(found) and found.get("NP0") == max(found.values()) and not found.keys() & {"NN0", "NN1", "NN2"}


def only_a_verb(word: str) -> bool:
    """Whether ``word`` is a verb of the present and hardly anything else: emits, portrays."""
    found = uses(word)
    return _best(found, "VVZ", "VVB", "VVI") > _best(found, "NN0", "NN1", "NN2", "AJ0") + CLEAR
