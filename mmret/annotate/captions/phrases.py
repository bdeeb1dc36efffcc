"""Says one edit in several moods, each a fragment that a sentence frame can take up.

The paper's rules (section 3.2) are kept here: what both pictures share is "it", "the same one", "this"; the target's
side is named; the source's side is named only in ``do`` and ``versus``, as what is to change or to go.
"""

from __future__ import annotations

from typing import NamedTuple

from mmret.annotate.captions import lexicon as lx
from mmret.annotate.captions.analyse import Segment, is_clause, join
from mmret.annotate.captions.difference import Edit

Words = tuple[str, ...]


class Moods(NamedTuple):
    """Ways to say one edit. Each is a tuple of alternatives, the plainest first; ``versus`` may be empty."""

    do: tuple[str, ...]  # a sentence of its own: "change the skin tone to dark"
    but: tuple[str, ...]  # behind "the same but": "with dark skin tone"
    one: tuple[str, ...]  # behind "find one": "that is blue"
    versus: tuple[str, ...]  # "dark instead of light skin tone"
    bare: tuple[str, ...]  # on its own: "dark skin tone"


def say(edit: Edit) -> Moods:
    """The moods of one edit."""
    return _SAY[edit.kind](edit)


# -- words ------------------------------------------------------------------------------------------------------------


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
    first, noun = words[0].lower(), _head_noun(words)
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
    noun = _head_noun(words)
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


def _head_noun(words: Words) -> str:
    return words[_head_index(words)].casefold()


def _listed(words: Words) -> str:
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
    parts = [
        p[5:] if i and p.startswith("with ") and parts[i - 1].startswith("with ") else p for i, p in enumerate(parts)
    ]
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def _short_head(head: Words) -> str:
    """The noun a modifier belongs to, without shared details before it: "skin tone", but "table" of "red table"."""
    if len(head) == 1 or len(head) == 2 and not lx.is_adjective(head[0].casefold()):
        return join(head)
    return head[-1]


# -- kinds of edit ----------------------------------------------------------------------------------------------------


def _modifier(e: Edit) -> Moods:
    if e.joint:
        return _modifier_of_head(e)
    before = e.lead[-1].casefold() if e.lead else ""
    if (
        before
        and not (lx.is_adjective(before) or before in lx.NUMBERS or before in lx.BINDING or before in lx.PERSONS)
        and _all(e.new + e.old, lx.is_adjective)
        and not is_name(e.lead[-1:])
    ):
        return _modifier_of_head(e._replace(joint=":"))  # "speaker low volume": low belongs to the volume
    return _modifier_of_main(e)


def _all(words: Words, test: object) -> bool:
    return all(test(w.casefold()) for w in words)  # type: ignore[operator]


def _modifier_of_main(e: Edit) -> Moods:
    it = "them" if e.plural else "it"
    old_keys, new_keys = {w.casefold() for w in e.old}, {w.casefold() for w in e.new}
    new = tuple(w for w in e.new if w.casefold() not in old_keys)
    old = tuple(w for w in e.old if w.casefold() not in new_keys)
    if not new and not old:
        return _thing(e._replace(kind="thing", new=e.new + e.head, old=e.old + e.head, head=()))
    if not new:
        return _no_longer(old, it, e)
    person = (
        len(new) == 1
        and new[0].casefold() in (lx.SEXES if not old else lx.PERSONS)
        and (not old or old[0].casefold() in lx.PERSONS)
    )
    number = len(new) == 1 and (new[0].casefold() in lx.NUMBERS or new[0].isdigit())
    old_text = _listed(old) if _all(old, lx.is_adjective) else join(old)
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
    if _all(new, lambda w: lx.is_adjective(w) or w in ("and", "or")):
        text = _listed(new)
        return Moods(
            (
                f"make {it} {text}",
                *((f"change {old_text} to {text}", f"change {it} from {old_text} to {text}") if old else ()),
            ),
            (text,),
            (f"that is {text}", f"in {text}" if _all(new, lx.COLOURS.__contains__) else f"that is {text}"),
            (f"{text} instead of {old_text}",) if old else (),
            (f"{text} instead", f"now {text}"),
        )
    if is_name(new):
        return _sign(e._replace(new=new, old=old))
    return _noun_modifier(e._replace(new=new, old=old))


def _noun_modifier(e: Edit) -> Moods:
    """A modifier that may be a noun ("soccer ball"): said with the head noun, without which it means little."""
    head = (e.head[-1],) if len(e.head) > 2 else e.head
    noun = noun_phrase(e.new + head, e.determiner)
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


def _no_longer(old: Words, it: str, e: Edit) -> Moods:
    if len(old) == 1 and old[0].casefold() in lx.PERSONS:
        text = noun_phrase(old)
    elif _all(old, lx.is_adjective):
        text = _listed(old).replace(" and ", " or ")
    elif is_name(old) or old[0].casefold() in lx.NUMBERS:
        text = join(old)
        return Moods(
            (f"remove {text}", f"leave out {text}"),
            (f"without {text}",),
            (f"without {text}",),
            (f"no {text}",),
            (f"without {text}",),
        )
    else:
        text = noun_phrase(old + e.head[-1:])
    must = "they should" if it == "them" else "it should"
    return Moods(
        (f"make {it} not {text}", f"{must} no longer be {text}"),
        (f"not {text}",),
        (f"that is not {text}",),
        (f"no longer {text}",),
        (f"not {text}", f"no longer {text}"),
    )


def _modifier_of_head(e: Edit) -> Moods:
    head = _short_head(e.head)
    joint = e.joint if e.joint in lx.LOCATIVE else "" if e.joint == "act" else "with"
    if e.joint in lx.CONJUNCTIONS or e.joint in ("act", "and"):
        return _clause_change(e)
    new, old = join(e.new), join(e.old)
    adjective = _all(e.new, lx.is_adjective)
    if not e.new:
        text = _listed(e.old) if _all(e.old, lx.is_adjective) else old
        return Moods(
            (f"the {head} should no longer be {text}", f"make the {head} not {text}"),
            (f"with the {head} not {text}",),
            (f"whose {head} is not {text}",),
            (f"the {head} no longer {text}",),
            (f"{head} not {text}",),
        )
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


def _clause_change(e: Edit) -> Moods:
    """A change inside an action or a clause: the target's whole clause is said."""
    whole = join((*e.lead, *e.new, *e.head))
    do = (f"have it {whole}",) if e.joint == "act" else (f"make it {whole}",)
    if e.old and e.new and len(e.old) + len(e.new) <= 6:
        do = (f"change {join(e.old)} to {join(e.new)}", *do)
    prefix = "" if e.joint == "act" else f"{e.joint} "
    versus = (
        (f"{prefix}{whole} instead of {join(e.old)}",) if e.old and e.joint == "act" and e.new and not e.lead else ()
    )
    return Moods(do, (f"{prefix}{whole}",), (f"{prefix}{whole}",), versus, (f"{prefix}{whole}", f"now {prefix}{whole}"))


def _thing(e: Edit) -> Moods:
    if e.joint in lx.LOCATIVE:
        return _place(e)
    if e.joint in ("act", "and") or e.joint in lx.CONJUNCTIONS:
        return _clause_change(e)
    if not e.new:
        return _drop(e._replace(joint=e.joint or "with"))
    last = e.new[-1].casefold()
    if (
        len(e.new) == 1
        and (last in lx.DIRECTIONS or lx.is_adjective(last))
        and (
            not e.old
            or len(e.old) == 1
            and (e.old[0].casefold() in lx.DIRECTIONS or lx.is_adjective(e.old[0].casefold()))
        )
    ):
        return _state(e)
    if is_name(e.new):
        return _sign(e)
    before = e.lead[-1].casefold() if e.lead else ""
    if (
        before
        and not e.joint
        and not (
            lx.is_adjective(before)
            or before in lx.PERSONS
            or before in lx.BINDING
            or before in lx.NUMBERS
            or is_name(e.lead[-1:])
        )
    ):
        e = e._replace(new=(e.lead[-1], *e.new), old=(e.lead[-1], *e.old) if e.old else ())  # a compound: wind chime
    noun = noun_phrase(e.new, e.determiner if not e.lead else "")
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
    if e.joint:
        return Moods(
            (f"change {old} to {noun}", f"replace {old} with {noun}", f"swap {old} for {noun}", bare),
            (f"with {noun}",),
            (f"with {noun}",),
            (f"{noun} instead of {olds}", f"with {noun} instead of {olds}"),
            (f"with {noun}", f"{noun} instead"),
        )
    person = e.new[0].casefold() in lx.PERSONS or e.new[-1].casefold() in lx.PERSONS
    first = f"make it {noun}" if person or e.lead else f"show {noun} instead"
    return Moods(
        (first, f"change {old} to {noun}", f"turn it into {noun}", f"replace {old} with {noun}", bare),
        (f"with {noun}",),
        (f"with {noun}", f"showing {noun}"),
        (f"{noun} instead of {olds}",),
        (f"{noun} instead", f"{noun}"),
    )


def _sign(e: Edit) -> Moods:
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


def _state(e: Edit) -> Moods:
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


def _place(e: Edit) -> Moods:
    whole = noun_phrase((*e.lead, *e.new, *e.head), e.determiner)
    full = f"{e.joint} {whole}"
    put = "put them" if e.plural else "put it"
    do = (f"{put} {full}", f"have it {full}" if not e.plural else f"have them {full}")
    old = join((*e.lead, *e.old, *e.head))
    versus = ()
    if e.old:
        if e.determiner.lower() == "the" or is_name(e.old):
            versus = (f"{full} instead of {e.old_joint or e.joint} {definite(tuple(old.split()))}",)
        if e.determiner.lower() == "the" and e.joint == "at":
            do += (f"move it to {whole}",)
        if e.lead == () and not e.determiner.lower() == "the":
            do += (f"replace {definite(e.old)} with {noun_phrase(e.new, e.determiner)}",)
    return Moods(do, (full,), (full,), versus, (full, f"{full} instead", f"now {full}"))


def _add(e: Edit) -> Moods:
    if e.joint in lx.LOCATIVE:
        return _place(e)
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
        return Moods(
            (f"make it {text}",), (text,), (f"that is {text}",), (f"now {text}",), (f"now {text}", f"{text} instead")
        )
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
        have = "have them" if e.plural else "have it"
        return Moods(
            (f"{have} not {full}", f"{must} no longer be {full}"),
            (f"not {full}",),
            (f"not {full}",),
            (f"no longer {full}",),
            (f"not {full}", f"no longer {full}"),
        )
    last = e.old[-1].casefold()
    if len(e.old) == 1 and lx.is_adjective(last):
        return _no_longer(e.old, "it", e)
    if e.joint in lx.CONJUNCTIONS:
        text = f"{e.joint} {text}"
        return Moods((f"leave out the part {text}",), (f"not {text}",), (f"not {text}",), (), (f"not {text}",))
    the = definite(e.old, e.one_of)
    listed = e.joint in (":", ",", "(") and len(e.old) > 1
    without = text if listed or e.one_of else noun_phrase(e.old, e.determiner)
    if e.one_of:
        without = f"one {text} fewer" if lx.is_plural(last) else f"one {text} less"
        return Moods(
            (f"remove {the}", f"take away {the}"), (f"with {without}",), (f"with {without}",), (without,), (without,)
        )
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


def _scene(e: Edit) -> Moods:
    text, clause = scene(e.segments, 18)
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


_SAY = {"modifier": _modifier, "thing": _thing, "add": _add, "drop": _drop, "order": _order, "scene": _scene}
