"""The same instruction in other words: how people begin one, which verb they take, how they set one thing against another.

Why: a text tower reads little beyond wordings that it was trained on, and the frames alone have a dozen openings. An instruction
as the frames write it is kept here as opening and body; a draw puts another opening of its frame before the same body, so nothing
that it says of the pictures changes. Cost: a few draws a text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

Below = Callable[[int], int]
"""Draws one of so many numbers."""

SAME = ("the same but {}", "the same one but {}", "this one but {}", "the same, {}", "same one {}", "this, but {}")
FIND = ("find one {}", "find the same one {}", "look for one {}", "show me one {}", "I want one {}", "find this {}")
ASK = ("is there one {}?", "do you have this {}?", "can you find one {}?")
PLAIN = ("{}",)


class Draft(NamedTuple):
    """An instruction: ``opening`` with ``body`` in its place. ``frame`` is which kind of sentence it is; ``several``: whether it
    asks for more than one change."""

    frame: str
    opening: str
    body: str
    several: bool = False

    @property
    def text(self) -> str:
        return self.opening.format(self.body)


_OPENINGS = {
    "same": (
        *SAME,
        "like this but {}",
        "just like this one but {}",
        "the very same but {}",
        "{} but otherwise the same",
        "{}, otherwise the same",
        "{}, the rest as it is",
        "as here but {}",
        "this one again but {}",
        "identical but {}",
        "everything as before but {}",
        "similar but {}",
        "keep this but {}",
    ),
    "find": (
        *FIND,
        "I need one {}",
        "I would like one {}",
        "get me one {}",
        "give me one {}",
        "find me one {}",
        "search for one {}",
        "looking for one {}",
        "I am looking for one {}",
        "pick one {}",
        "a version {}",
        "one {}",
        "one like it {}",
        "a similar one {}",
        "another one {}",
        "let me see one {}",
    ),
    "ask": (
        *ASK,
        "is there a version {}?",
        "do you have one {}?",
        "could I see one {}?",
        "what about one {}?",
        "any {}?",
        "got one {}?",
        "where is the one {}?",
        "may I have one {}?",
        "have you got one {}?",
    ),
    "do": (
        "{}",
        "{}",
        "{}",
        "please {}",
        "{}, please",
        "{} and keep the rest",
        "{} and leave the rest",
        "just {}",
        "could you {}?",
        "can you {}?",
        "you should {}",
        "I want you to {}",
    ),
    "bare": ("{}", "{}", "{}, please", "this time {}", "{} this time", "now {}", "simply {}", "how about {}?", "what about {}?"),
}
_KEEPING = ("{} and keep the rest", "{} and leave the rest")
"""Of orders that change a part alone."""
_CLAUSES = ("showing", "that", "where", "now ", "just ")
"""Beginnings of a body that only the openings of its frame fit that end in a noun or in nothing."""
_VERBS = {
    "change": ("change", "switch", "alter"),
    "replace": ("replace", "swap", "substitute"),
    "swap": ("swap", "exchange", "trade"),
    "make": ("make", "have"),
    "turn": ("turn", "transform", "convert", "change"),
    "show": ("show", "use", "have", "draw"),
    "put": ("put", "place", "set", "position"),
    "add": ("add", "include", "bring in", "put in", "insert"),
    "give": ("give",),
    "have": ("have",),
    "remove": ("remove", "drop", "get rid of", "leave out", "delete"),
    "take": ("take",),
}
"""Verbs that stand for each other before the same object."""
_SHOULD = ("it should be {}", "it has to be {}", "it must be {}", "it is to be {}", "it needs to be {}")
_VERSUS = ("{new} instead of {old}", "{new} in place of {old}", "{new}, not {old}", "{new} and no longer {old}")
_FREE_VERSUS = (*_VERSUS, "not {old} but {new}", "from {old} to {new}", "instead of {old}, {new}", "{old} becomes {new}")
"""Those that also fit what begins with no preposition."""
_BOUND = ("on ", "in ", "at ", "with ", "against ", "as ", "under ", "by ", "of ", "to ", "inside ", "behind ", "beside ", "next ")


def reworded(draft: Draft, below: Below) -> str:
    """The instruction ``draft`` in other words, by draws from ``below``."""
    if draft.frame == "versus":
        return draft.text if draft.several else _contrasted(draft.text, below)
    if draft.frame == "do":
        return _ordered(draft, below)
    if draft.frame == "bare" and (draft.body.startswith(_CLAUSES) or draft.body.endswith((" instead", "please"))):
        return draft.text
    openings = _OPENINGS[draft.frame]
    opening = openings[below(len(openings))]
    if draft.frame != "bare" and draft.body.startswith(_CLAUSES) and not _fits_clause(opening):
        return draft.text
    return opening.format(draft.body)


def _fits_clause(opening: str) -> bool:
    return "one {}" in opening and "same one" not in opening or opening.startswith("a version")


def _ordered(draft: Draft, below: Below) -> str:
    verb, _, rest = draft.body.partition(" ")
    verbs = _VERBS.get(verb)
    if verbs is None:
        return draft.text  # "it should no longer be red", "first a dog, then a cat"
    if verb == "make" and not draft.several and rest.startswith("it ") and not below(3):
        return _SHOULD[below(len(_SHOULD))].format(rest[3:])
    if verb == "make" and rest.startswith("it "):
        verbs = ("make",)  # "have it a ball" is no order
    opening = _OPENINGS["do"][below(len(_OPENINGS["do"]))]
    if opening in _KEEPING and (verb in ("turn", "show") or rest.endswith(" instead")) or opening == "just {}" and "just " in rest:
        opening = "{}"
    return opening.format(f"{verbs[below(len(verbs))]} {rest}")


def _contrasted(text: str, below: Below) -> str:
    new, between, old = text.partition(" instead of ")
    if not between or " instead of " in old:
        return text
    options = _VERSUS if new.startswith(_BOUND) else _FREE_VERSUS
    return options[below(len(options))].format(new=new, old=old)
