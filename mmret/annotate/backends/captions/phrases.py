"""Words one edit in several moods, each a fragment that fits into a sentence frame. Cost: about 5 us an edit.

The paper's rules (section 3.2) are followed here: what both pictures share is "it", "the same one", "this"; what the target has
is named; what the source has is named only in ``do`` and ``versus``, as what is to be changed or removed.
"""

from __future__ import annotations

from mmret.annotate.backends.captions import lexicon as lx
from mmret.annotate.backends.captions.analyse import Segment
from mmret.annotate.backends.captions.compare import Edit
from mmret.annotate.backends.captions.moods import Moods, clause_change, less, place, sign, state
from mmret.annotate.backends.captions.nouns import (
    all_words,
    definite,
    is_name,
    listing,
    noun_phrase,
    scene,
    series,
    short_head,
)
from mmret.annotate.backends.captions.tokens import join


def wordings(edit: Edit) -> Moods:
    """The wordings of one edit, by the kind of sentence that they fit into.

    >>> wordings(Edit("modifier", ("red",), ("blue",))).do[0]
    """
    return _WORDINGS[edit.kind](edit)


def _modifier(e: Edit) -> Moods:
    e = qualified(e)
    return _modifier_of_head(e) if e.joint else _modifier_of_main(e)


def qualified(e: Edit) -> Edit:
    """``e`` with a joint where the modifier belongs to a part: "speaker low volume", low belongs to the volume."""
    before = e.lead[-1].casefold() if e.lead else ""
    if (
        not e.joint
        and before
        and not (lx.is_adjective(before) or before in lx.NUMBERS or before in lx.BINDING or before in lx.PERSONS)
        and all_words(e.new + e.old, lx.is_adjective)
        and not is_name(e.lead[-1:])
    ):
        return e._replace(joint=":")
    return e


def _attributive(words: tuple[str, ...]) -> bool:
    return any(w.casefold() in lx.ATTRIBUTIVE for w in words)


def _modifier_of_main(e: Edit) -> Moods:
    old_keys, new_keys = {w.casefold() for w in e.old}, {w.casefold() for w in e.new}
    new = tuple(w for w in e.new if w.casefold() not in old_keys)
    old = tuple(w for w in e.old if w.casefold() not in new_keys)
    if not new and not old:
        return _thing(e._replace(kind="thing", new=e.new + e.head, old=e.old + e.head, head=()))
    if not new:
        return less(e._replace(segments=(Segment("", "", e.lead + e.new + e.head, ()),)))
    it = "them" if e.plural else "it"
    person = (
        len(new) == 1
        and new[0].casefold() in (lx.SEXES if not old else lx.PERSONS)
        and (not old or old[0].casefold() in lx.PERSONS)
    )
    number = (
        len(new) == 1
        and (new[0].casefold() in lx.COUNTS or new[0].isdigit())
        and not e.lead
        and lx.is_plural(e.head[-1].casefold())
    )
    old_text = listing(old) if all_words(old, lx.is_adjective) else join(old)
    if person:
        noun = noun_phrase(new)
        olds = noun_phrase(old) if len(old) == 1 and old[0].casefold() in lx.PERSONS else ""
        return Moods(
            (
                f"make it {noun}",
                *((f"change {definite(old)} to {noun}", f"change {old_text} to {new[0]}") if old else ()),
            ),
            (f"with {noun}",),
            (f"with {noun}", f"that is {noun}"),
            (f"{noun} instead of {olds}",) if olds else (),
            (f"{noun} instead", f"as {noun}"),
        )
    if number:
        text = new[0]
        return Moods(
            (f"make it {text}", *((f"change {old_text} to {text}",) if old else ()), f"show {text} of them"),
            (f"with {text} of them",),
            (f"with {text} of them",),
            (f"{text} instead of {old_text}",) if old else (),
            (f"{text} of them", f"{text} instead"),
        )
    if all_words(new, lambda w: lx.is_adjective(w) or w in ("and", "or")) and not _attributive(new):
        text = listing(new)
        like = len(old) == len(new)  # else the old is not what the new stands for
        return Moods(
            (
                f"make {it} {text}",
                *((f"change {old_text} to {text}", f"change {it} from {old_text} to {text}") if like else ()),
            ),
            (text,),
            (f"that is {text}", f"in {text}" if all_words(new, lx.COLOURS.__contains__) else f"that is {text}"),
            (f"{text} instead of {old_text}",) if like else (),
            (f"{text} instead", f"now {text}"),
        )
    if is_name(new):
        return sign(e._replace(new=new, old=old))
    return _noun_modifier(e._replace(new=new, old=old))


def _noun_modifier(e: Edit) -> Moods:
    """A modifier that may be a noun ("soccer ball"): worded together with the head noun, without which it means little."""
    head = (e.head[-1],) if len(e.head) > 2 else e.head
    noun = noun_phrase(e.new + head, e.determiner if not e.lead else "")
    do = (f"make it {noun}", f"turn it into {noun}")
    if e.old:
        do += (f"change {join(e.old)} to {join(e.new)}",)
    return Moods(
        do,
        (f"with {noun}",),
        (f"showing {noun}",),
        (f"{noun} instead of {noun_phrase(e.old + head)}",) if e.old else (),
        (f"{noun} instead", noun),
    )


def _modifier_of_head(e: Edit) -> Moods:
    head = short_head(e.head)
    joint = e.joint if e.joint in lx.LOCATIVE else "" if e.joint == "act" else "with"
    if e.joint in lx.CONJUNCTIONS or e.joint == "act":
        return clause_change(e)
    if e.joint in lx.LOCATIVE and _attributive(e.new):
        return place(e)
    new, old = join(e.new), join(e.old)
    adjective = all_words(e.new, lx.is_adjective)
    listed = e.joint in (":", ",", "(")
    plain = join((*e.new, head)) if listed else noun_phrase((*e.new, *head.split()), e.determiner)
    full = f"{joint} {plain}"
    if e.siblings:
        full = f"{joint} {series(list(e.siblings))} {lx.plural(head)}"
    which = f"the {head}" if not e.siblings else f"the {old} {head}" if old else f"one {head}"
    if e.one_of and old:
        which = f"one {old} {head}"
    do: tuple[str, ...] = ()
    if e.old and e.siblings:
        do = (f"change {which} to {new}", f"make {which} {new}")
    elif adjective:
        do = (f"make the {head} {new}", f"change the {head} to {new}")
        if e.old:
            do += (f"change {old} {head} to {new}", f"change the {head} from {old} to {new}")
    elif e.old and not is_name(e.new):
        do = (f"replace the {old} {head} with {plain}", f"swap the {old} {head} for {plain}", f"change it to {plain}")
    elif e.old:
        do = (f"change {old} to {new}", f"change the {head} to {plain}")
    else:
        do = (f"change the {head} to {plain}", f"make it {plain}")
    versus = (f"{full.removesuffix(' ' + head)} instead of {old} {head}",) if e.old and not e.siblings else ()
    return Moods(do, (full,), (full,), versus, (full, plain) if joint == "with" and not e.siblings else (full,))


def _thing(e: Edit) -> Moods:
    if e.joint in lx.LOCATIVE:
        return place(e)
    if e.joint == "act" or e.joint in lx.CONJUNCTIONS:
        return clause_change(e)
    if not e.new:
        return _drop(e._replace(joint=e.joint or "with"))
    last = e.new[-1].casefold()
    if (
        len(e.new) == 1
        and (last in lx.DIRECTIONS or lx.is_adjective(last))
        and (not e.old or len(e.old) == 1 and (e.old[0].casefold() in lx.DIRECTIONS or lx.is_adjective(e.old[0].casefold())))
    ):
        return state(e)
    if is_name(e.new):
        return sign(e)
    before = e.lead[-1].casefold() if e.lead else ""
    if (
        before
        and not e.joint
        and not (
            lx.is_adjective(before)
            or before in lx.PERSONS
            or before in lx.BINDING
            or before in lx.ACCOMPANYING
            or before in lx.NUMBERS
            or is_name(e.lead[-1:])
        )
    ):
        e = e._replace(new=(e.lead[-1], *e.new), old=(e.lead[-1], *e.old) if e.old else ())  # a compound: wind chime
    elif before in lx.NUMBERS and not e.joint:
        e = e._replace(new=(e.lead[-1], *e.new), old=(e.lead[-1], *e.old) if e.old else ())  # two hearts
    elif before and not e.joint and not e.old and lx.is_adjective(before):
        e = e._replace(new=e.lead + e.new)  # something radioactive, radioactive waste
    noun = noun_phrase(e.new, e.determiner if not e.lead else "")
    if not e.joint and not e.determiner and all_words(e.new, lambda w: lx.is_adjective(w) and w not in lx.ALSO_NOUNS):
        noun = f"something {listing(e.new)}"
    if not e.old:
        return Moods(
            (f"make it {noun}", f"turn it into {noun}"),
            (f"with {noun}",),
            (f"showing {noun}",),
            (f"now {noun}",),
            (f"{noun} instead", noun),
        )
    if len(e.old) > 5:  # too long to be named
        return Moods(
            (f"show {noun} instead", f"make it {noun}"),
            (f"with {noun}",),
            (f"showing {noun}",),
            (),
            (f"{noun} instead", noun),
        )
    old, bare = definite(e.old, e.one_of), f"change {join(e.old)} to {join(e.new)}"
    olds = noun_phrase(e.old)
    short = (bare,) if not e.determiner or len(e.old) == len(e.new) == 1 else ()
    if e.joint:
        return Moods(
            (f"change {old} to {noun}", f"replace {old} with {noun}", f"swap {old} for {noun}", *short),
            (f"with {noun}",),
            (f"with {noun}",),
            (f"{noun} instead of {olds}", f"with {noun} instead of {olds}"),
            (f"with {noun}", f"{noun} instead"),
        )
    person = e.new[0].casefold() in lx.PERSONS or e.new[-1].casefold() in lx.PERSONS
    first = f"make it {noun}" if person or e.lead and not lx.is_plural(e.new[-1].casefold()) else f"show {noun} instead"
    return Moods(
        (first, f"change {old} to {noun}", f"turn it into {noun}", f"replace {old} with {noun}", *short),
        (f"with {noun}",),
        (f"with {noun}", f"showing {noun}"),
        (f"{noun} instead of {olds}",),
        (f"{noun} instead", f"{noun}"),
    )


def _add(e: Edit) -> Moods:
    if e.joint in lx.LOCATIVE:
        return place(e)
    text = join(e.new)
    if e.joint == "act":
        return Moods((f"have it {text}", f"now {text}"), (text,), (text,), (f"now {text}",), (text, f"now {text}"))
    if e.joint in lx.CONJUNCTIONS:
        return Moods(
            (f"make it one {e.joint} {text}",),
            (f"{e.joint} {text}",),
            (f"{e.joint} {text}",),
            (),
            (f"{e.joint} {text}",),
        )
    last = e.new[-1].casefold()
    if len(e.new) == 1 and lx.is_adjective(last):
        return Moods((f"make it {text}",), (text,), (f"that is {text}",), (f"now {text}",), (f"now {text}", f"{text} instead"))
    if is_name(e.new):
        return Moods(
            (f"add {text}", f"make it {text}"),
            (f"with {text}",),
            (f"with {text}", f"for {text}"),
            (f"now {text}",),
            (f"with {text}", text),
        )
    listed = e.joint in (":", ",", "(") and len(e.new) > 1 and not e.determiner
    noun = text if listed else noun_phrase(e.new, e.determiner)
    if e.one_of and not listed and noun.startswith(("a ", "an ")):
        noun = "another " + noun.partition(" ")[2]
    do = (f"add {noun}", f"give it {noun}") if e.joint not in ("", "and") else (f"add {noun}",)
    return Moods(do, (f"with {noun}",), (f"with {noun}",), (f"now with {noun}",), (f"with {noun}", f"plus {noun}"))


def _drop(e: Edit) -> Moods:
    text = join(e.old)
    if e.joint == "act" or e.joint in lx.LOCATIVE:
        full = text if e.joint == "act" else f"{e.joint} {noun_phrase(e.old, e.determiner)}"
        must = "they should" if e.plural else "it should"
        return Moods(
            (f"have {'them' if e.plural else 'it'} no longer {full}", f"{must} no longer be {full}"),
            (f"not {full}",),
            (f"not {full}",),
            (f"no longer {full}",),
            (f"not {full}", f"no longer {full}"),
        )
    last = e.old[-1].casefold()
    if e.joint in lx.CONJUNCTIONS:
        text = f"{e.joint} {text}"
        return Moods((f"leave out the part {text}",), (f"not {text}",), (f"not {text}",), (), (f"not {text}",))
    the = definite(e.old, e.one_of)
    listed = e.joint in (":", ",", "(") and len(e.old) > 1
    without = text if listed or e.one_of else noun_phrase(e.old, e.determiner)
    if e.one_of:
        without = f"one {text} fewer" if lx.is_plural(last) else f"one {text} less"
        return Moods((f"remove {the}", f"take away {the}"), (f"with {without}",), (f"with {without}",), (without,), (without,))
    return Moods(
        (f"remove {the}", f"take away {the}"),
        (f"without {without}",),
        (f"without {without}",),
        (f"no {text}",),
        (f"without {without}", f"no {text}"),
    )


def _order(e: Edit) -> Moods:
    parts = [s.text for s in e.segments]
    text = ", then ".join(parts[:3])
    if len(parts) > 1:
        text = f"first {text}"
    return Moods(
        (f"swap the order: {text}", f"change the order to {text}"),
        (f"in this order: {text}",),
        (f"in this order: {text}",),
        (f"the other way round: {text}",),
        (f"other way round: {text}",),
    )


def _medium(e: Edit) -> Moods:
    old = noun_phrase(e.old) if e.old else ""
    if not e.new:
        return Moods((f"make it not {old}",), (f"not as {old}",), (f"that is not {old}",), (f"no longer {old}",), (f"not {old}",))
    new = noun_phrase(e.new)
    return Moods(
        (f"make it {new}", *((f"change {definite(e.old)} to {new}",) if old else ())),
        (f"as {new}",),
        (f"as {new}",),
        (f"as {new} instead of {old}",) if old else (),
        (f"as {new}", f"{new} instead"),
    )


def _scene(e: Edit) -> Moods:
    text, clause = scene(e.segments, 18)
    if e.head and not clause:
        text = f"{noun_phrase(e.head)} of {text}"
    if clause:
        return Moods(
            (f"change it so that {text}", f"make it a scene where {text}"),
            (f"where {text}",),
            (f"where {text}",),
            (),
            (f"now {text}",),
        )
    return Moods(
        (f"show {text} instead", f"change it to {text}", f"turn it into {text}"),
        (f"with {text}",),
        (f"showing {text}",),
        (),
        (f"{text} instead", text),
    )


_WORDINGS = {
    "modifier": _modifier,
    "thing": _thing,
    "add": _add,
    "drop": _drop,
    "order": _order,
    "scene": _scene,
    "medium": _medium,
    "less": less,
}
