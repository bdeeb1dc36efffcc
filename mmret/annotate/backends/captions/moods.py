"""The wordings of one edit, a set for each kind of sentence (called a mood); and how edits with few wordings are worded.

Those are edits of signs, states, places, actions and captions that say less. Cost: a few string joins an edit.
"""

from __future__ import annotations

from typing import NamedTuple

from mmret.annotate.backends.captions import lexicon as lx
from mmret.annotate.backends.captions.compare import Edit
from mmret.annotate.backends.captions.nouns import definite, is_name, noun_phrase, scene
from mmret.annotate.backends.captions.tokens import join


class Moods(NamedTuple):
    """The wordings of one edit by mood. Each is a tuple of alternatives, the plainest first; ``versus`` may be empty."""

    do: tuple[str, ...]  # a sentence of its own: "change the skin tone to dark"
    but: tuple[str, ...]  # behind "the same but": "with dark skin tone"
    one: tuple[str, ...]  # behind "find one": "that is blue"
    versus: tuple[str, ...]  # "dark instead of light skin tone"
    bare: tuple[str, ...]  # on its own: "dark skin tone"


def sign(e: Edit) -> Moods:
    """A name, number, letter or sign takes the place of another."""
    new, old = join(e.new), join(e.old)
    do = (f"make it {new}", *((f"change {old} to {new}", f"replace {old} with {new}") if old else (f"show {new}",)))
    return Moods(
        do,
        (f"with {new}",),
        (f"with {new}", f"for {new}"),
        (f"{new} instead of {old}",) if old else (),
        (f"{new} instead", new),
    )


def state(e: Edit) -> Moods:
    """A direction or state behind what it belongs to: pointing up, pointed down."""
    keep = e.lead[-1:] if e.lead and (lx.is_participle(e.lead[-1].casefold()) or e.lead[-1].endswith("ed")) else ()
    full, new, old = join((*keep, *e.new)), join(e.new), join(e.old)
    do = (f"make it {new}", *((f"change {old} to {new}", f"change it from {old} to {new}") if old else ()))
    return Moods(
        do,
        (full,),
        (full,) if keep else (f"that is {full}",),
        (f"{full} instead of {old}",) if old else (),
        (f"{full} instead", f"now {full}"),
    )


def clause_change(e: Edit) -> Moods:
    """A change inside an action or a clause: the wording has the target's whole clause."""
    whole = join((*e.lead, *e.new, *e.head))
    do = (f"have it {whole}",) if e.joint == "act" else (f"make it {whole}",)
    if e.old and e.new and len(e.old) + len(e.new) <= 6:
        do = (f"change {join(e.old)} to {join(e.new)}", *do)
    prefix = "" if e.joint == "act" else f"{e.joint} "
    versus = (f"{prefix}{whole} instead of {join(e.old)}",) if e.old and e.joint == "act" and e.new and not e.lead else ()
    return Moods(do, (f"{prefix}{whole}",), (f"{prefix}{whole}",), versus, (f"{prefix}{whole}", f"now {prefix}{whole}"))


def place(e: Edit) -> Moods:
    whole = noun_phrase((*e.lead, *e.new, *e.head), e.determiner)
    full = f"{e.joint} {whole}"
    put = "put them" if e.plural else "put it"
    do: tuple[str, ...] = (f"{put} {full}",)
    old = join((*e.lead, *e.old, *e.head))
    versus = ()
    if e.old:
        if e.determiner.lower() == "the" or is_name(e.old):
            versus = (f"{full} instead of {e.old_joint or e.joint} {definite(tuple(old.split()))}",)
        if e.determiner.lower() == "the" and e.joint == "at":
            do += (f"move it to {whole}",)
        if e.lead == () and e.old != e.new and e.determiner.lower() != "the":
            do += (f"replace {definite(e.old)} with {noun_phrase(e.new, e.determiner)}",)
    return Moods(do, (full,), (full,), versus, (full, f"{full} instead", f"now {full}"))


def less(e: Edit) -> Moods:
    """The target's caption only leaves details out: the wording has what it says and does not deny the rest."""
    text, clause = scene(e.segments, 18)
    if clause:
        return Moods((f"just show that {text}",), (f"where {text}",), (f"where {text}",), (), (f"just that {text}",))
    return Moods(
        (f"just show {text}", f"make it just {text}"),
        (f"just {text}",),
        (f"with just {text}", f"showing just {text}"),
        (),
        (f"just {text}", text),
    )
