"""The difference of two parsed captions as a short list of edits.

Segments that both captions have are set aside; of the rest, those that fill the same place are paired (same
preposition, same head noun) and compared word by word, so that a changed modifier is told from a changed thing. What
cannot be paired was added or removed. A detail that the target's caption merely leaves unsaid (a place, an action, an
adjective) is no edit: the picture may still show it. Costs about 20 us a pair of short captions. The order of edits is the
target's, removals last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from mmret.annotate.backends.captions import lexicon as lx
from mmret.annotate.backends.captions.analyse import Caption, Segment, is_clause
from mmret.annotate.backends.captions.compare import Edit, compare

Sentence = tuple[Segment, ...]
_MOST_EDITS = 4
"""Edits of running text that are listed; where there are more, the target's sentence is told."""


class Difference(NamedTuple):
    edits: tuple[Edit, ...]
    shared: tuple[Segment, ...]  # segments of the target that the source has too
    source_only: tuple[Segment, ...]
    target_only: tuple[Segment, ...]
    media: tuple[str, str] = ("", "")  # of source and target, where they differ


def difference(source: Caption, target: Caption) -> Difference | None:
    """Edits that lead from ``source`` to ``target``; None where they are identical but for case and punctuation."""
    if source.keys == target.keys or not target.sentences:
        return None
    old, new = _first_unlike(source, target)
    a, b = _unlike_segments(old, new)
    own = set(map(id, b))
    shared = tuple([s for s in new if id(s) not in own]) if len(b) < len(new) else ()
    media = _medium(source, target, bool(a or b)) if source.medium or target.medium else []
    if not a and not b:
        items = _items(new)
        edits = media or [Edit("order", segments=items) if items else Edit("less", segments=new, plural=_is_plural(new))]
        return Difference(tuple(edits), shared, () if media else old, () if media else new, _named(media))
    if not shared and not _related(old, new):
        return Difference((_scene(old, new, target),), (), old, new, _named(media))
    listed = _is_list(new)
    news = bool(_all_keys(b) - _all_keys(a))  # a word that the target's segments alone have
    if news and not listed and _share_little(old, new):
        return Difference((_scene(old, new, target),), shared, tuple(a), tuple(b), _named(media))
    edits = _edits(a, b, old, new, bool(shared), listed)
    if not edits and len(b) <= len(a) and not news:
        less = media or [Edit("less", segments=new, plural=_is_plural(new))]
        return Difference(tuple(less), shared, tuple(a), tuple(b), _named(media))
    if not edits or not listed and (len(edits) > _MOST_EDITS or not news and _share_little(old, new)):
        scene = _scene(old, new, target)  # articles and number only; or too much to list
        return Difference((scene,), shared, tuple(a), tuple(b), _named(media))
    return Difference((*edits, *media), shared, tuple(a), tuple(b), _named(media))


def _scene(old: Sentence, new: Sentence, target: Caption) -> Edit:
    """The edit that tells the target's whole sentence."""
    return Edit("scene", segments=new, old=old[0].words if old else (), head=tuple(target.medium.split()))


def _is_list(sentence: Sentence) -> bool:
    return ":" in [segment.joint for segment in sentence]


def _all_keys(segments: Iterable[Segment]) -> set[str]:
    return set().union(*[s.keys for s in segments])


def _is_plural(sentence: Sentence) -> bool:
    """Whether the main phrase of a sentence is a plural."""
    return bool(sentence) and bool(sentence[0].keys) and not sentence[0].joint and lx.is_plural(sentence[0].keys[-1])


def _medium(source: Caption, target: Caption, more: bool) -> list[Edit]:
    """The change of medium, if any. With ``more`` to tell it counts only where both captions name one: a caption that
    names none may still be of a drawing."""
    if source.medium == target.medium or more and not (source.medium and target.medium):
        return []
    return [Edit("medium", old=tuple(source.medium.split()), new=tuple(target.medium.split()))]


def _named(media: list[Edit]) -> tuple[str, str]:
    return (" ".join(media[0].old), " ".join(media[0].new)) if media else ("", "")


def _first_unlike(source: Caption, target: Caption) -> tuple[Sentence, Sentence]:
    """The first sentence each caption has that the other has not; the first sentence of all where that leaves none."""
    have, want = source.sentences, target.sentences
    if len(have) == 1 and len(want) == 1:
        return have[0], want[0]
    have_keys, want_keys = ({_sentence_key(s) for s in x} for x in (have, want))
    old = next((s for s in have if _sentence_key(s) not in want_keys), ())
    new = next((s for s in want if _sentence_key(s) not in have_keys), ())
    if not new and not old:
        return have[0], want[0]
    return old, new


def _sentence_key(sentence: Sentence) -> tuple[tuple[str, ...], ...]:
    return tuple(s.keys for s in sentence)


def _items(sentence: Sentence) -> Sentence:
    """The items of a list ("kiss: light skin tone, dark skin tone"), whose order tells; empty for running text."""
    listed = tuple(s for s in sentence if s.joint in (":", ","))
    return listed if len(listed) > 1 and listed[0].joint == ":" else ()


def _unlike_segments(old: Sentence, new: Sentence) -> tuple[list[Segment], list[Segment]]:
    """Both sentences without the segments they share; first those at the same place, then those anywhere."""
    a: list[Segment] = []
    b: list[Segment] = []
    for one, other in zip(old, new, strict=False):
        if one.keys != other.keys or not _same_joint(one, other):
            a.append(one)
            b.append(other)
    size = min(len(old), len(new))
    a += old[size:]
    b += new[size:]
    if a and b and any([one.keys == other.keys for one in a for other in b]):
        common = Counter((_place(s), s.keys) for s in a) & Counter((_place(s), s.keys) for s in b)
        if common:
            a, b = _without(a, common), _without(b, common)
    return a, b


def _same_joint(a: Segment, b: Segment) -> bool:
    return a.joint == b.joint or {a.joint, b.joint} <= {":", ",", "with", "(", "and"} or {a.joint, b.joint} == {"in", "at"}


def _place(segment: Segment) -> str:
    return "with" if segment.joint in (":", ",", "(", "and") else "in" if segment.joint == "at" else segment.joint


def _without(segments: list[Segment], common: Counter) -> list[Segment]:
    left, kept = Counter(common), []
    for s in segments:
        if left[_place(s), s.keys]:
            left[_place(s), s.keys] -= 1
        else:
            kept.append(s)
    return kept


_LITTLE = lx.BINDING | lx.DETERMINERS


def _related(old: Sentence, new: Sentence) -> bool:
    """Whether sentences that share no whole segment speak of alike things: same head noun or a third of the words."""
    if not old or not new:
        return True
    if old[0].keys[-1] == new[0].keys[-1] and not is_clause(new):
        return True
    a, b = _all_keys(old) - lx.BINDING, _all_keys(new) - lx.BINDING
    return 3 * len(a & b) >= min(len(a), len(b)) + 1 and not is_clause(new)


def _share_little(old: Sentence, new: Sentence) -> bool:
    """Whether two sentences of running text have so few words in common that the edits would be longer than the target itself."""
    wanted = [k for s in new for k in s.keys if k not in _LITTLE]
    if len(wanted) <= 6:
        return False
    have = [k for s in old for k in s.keys if k not in _LITTLE]
    common = 0
    for key in wanted:
        if key in have:
            have.remove(key)
            common += 1
    return common < 0.4 * len(wanted)


def _edits(a: list[Segment], b: list[Segment], old: Sentence, new: Sentence, sharing: bool, listed: bool) -> list[Edit]:
    left = list(a)
    edits: list[Edit] = []
    still = {s.keys for s in new}
    main_swapped = False
    plural = _is_plural(new)
    listed = listed or _is_list(old)
    in_list = next((i for i, s in enumerate(old) if s.joint == ":"), len(old)) if listed else len(old)
    for segment in b:
        likeness = [_likeness(s, segment) for s in left]
        most = max(likeness, default=0)
        if most < 2:
            edits.append(_addition(segment, old, new))
            continue
        best = left[likeness.index(most)]
        left.remove(best)
        edit = compare(best, segment, new)
        if edit is None:
            continue
        if segment.joint == "" and edit.kind == "thing" and not edit.lead:
            main_swapped = True
        one_of = best.keys in still
        edits.append(edit._replace(one_of=one_of, plural=plural) if one_of or plural else edit)
    if sharing or not main_swapped:
        for segment in left:
            if edits and main_swapped and not listed or _unsaid(segment) and old.index(segment) < in_list:
                continue
            if segment.joint == "without":
                edits.append(Edit("add", new=segment.words, determiner=segment.determiner, joint="with"))
            elif segment.joint or not main_swapped:
                edits.append(
                    Edit(
                        "drop",
                        old=segment.words,
                        joint=segment.joint,
                        determiner=segment.determiner,
                        one_of=segment.keys in still,
                        plural=plural,
                    )
                )
    return list(dict.fromkeys(edits)) if len(edits) > 1 else edits


def _unsaid(segment: Segment) -> bool:
    """Whether a picture whose caption does not name ``segment`` may still show it: a place, an action, a clause, a quality."""
    return (
        segment.joint in lx.LOCATIVE
        or segment.joint == "act"
        or segment.joint in lx.CONJUNCTIONS
        or all(lx.is_adjective(k) and k not in lx.ALSO_NOUNS for k in segment.keys)
    )


def _addition(segment: Segment, old: Sentence, new: Sentence) -> Edit:
    if segment.joint == "without":
        return Edit("drop", old=segment.words, joint="with", determiner=segment.determiner)
    again = any(s.keys == segment.keys for s in old) and sum(s.keys == segment.keys for s in new) > 1
    return Edit("add", new=segment.words, joint=segment.joint, determiner=segment.determiner, one_of=again)


def _likeness(a: Segment, b: Segment) -> float:
    """How well ``b`` can be what ``a`` became; 2 and more is a pair."""
    if a.joint != b.joint:
        if not a.joint or not b.joint or "act" in (a.joint, b.joint) or "without" in (a.joint, b.joint):
            return 0
    elif not a.joint:
        return 9
    score = 0.0
    if a.keys[-1] == b.keys[-1]:
        score += 2.5 if len(a.keys) > 1 or len(b.keys) > 1 else 2
    both = len(set(a.keys).intersection(b.keys))
    score += 0.5 * both
    if a.keys == b.keys[: len(a.keys)] or b.keys == a.keys[: len(b.keys)]:
        score += 1
    if a.joint == b.joint or {a.joint, b.joint} <= {":", ","}:
        score += 1
        if a.joint == "act":
            score += 1
        elif a.joint in lx.LOCATIVE:
            score += 1
        elif _sort(a) == _sort(b) and (len(a.keys) == 1) == (len(b.keys) == 1) or _sort(a) == _sort(b) == "name":
            score += 1
    elif a.joint in lx.LOCATIVE and b.joint in lx.LOCATIVE:
        score += 1.5 if both else 0
    return score


def _sort(segment: Segment) -> str:
    last = segment.keys[-1]
    if segment.words[-1][:1].islower():
        if last in lx.PERSONS:
            return "person"
        return "adjective" if lx.is_adjective(last) else "noun"
    return "name"
