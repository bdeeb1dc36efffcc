"""Instructions and description of one pair of captions, from the edits between them.

An instruction is one of six frames (imperative, the same but, find one, instead of, bare, question), each filled with
the wording of every edit that fits it (its mood, see ``moods``). Which frames and which wordings is a seeded hash of
the pair, so the same pair always gets the same texts and a retriever trained on many pairs sees every phrasing.
Imperatives and short attribute phrases come first in every pair: they are how people phrase edits. Cost: about 50 us a
pair of short captions.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from functools import lru_cache

from mmret.annotate.backends.captions import lexicon
from mmret.annotate.backends.captions.analyse import Segment, read
from mmret.annotate.backends.captions.comparatives import comparative_wordings
from mmret.annotate.backends.captions.compare import Edit
from mmret.annotate.backends.captions.difference import Difference, difference
from mmret.annotate.backends.captions.moods import Moods
from mmret.annotate.backends.captions.nouns import cut, listing, scene, series
from mmret.annotate.backends.captions.openings import ASK, FIND, PLAIN, SAME, Draft, reworded
from mmret.annotate.backends.captions.phrases import wordings

MAX_INSTRUCTION_WORDS = 25
MAX_INSTRUCTION_CHARACTERS = 200
MAX_SIDE_WORDS = 34
"""Words of each side of a description, which with the frame stays under the paper's 100."""

_PLAIN_ASK = tuple(o for o in ASK if " this " not in o)
_SHORTS = struct.Struct(">32H")
_STATEMENTS = ("it ", "they ", "the ", "now ")
_WHERE = tuple(f"{place} " for place in sorted(lexicon.LOCATIVE))
_SCENE_FIND = ("find one {}", "look for one {}", "show me one {}", "I want one {}")


class _Choices:
    """A short stream of choices that depends on the key alone; one hash for all of a pair's choices."""

    def __init__(self, key: str):
        self._key, self._round = key, 0
        self._drawn: list[int] = []

    def below(self, n: int) -> int:
        if n < 2:
            return 0
        return (self._drawn or self._more()).pop() % n

    def _more(self) -> list[int]:
        digest = hashlib.blake2b(f"{self._key}:{self._round}".encode(), digest_size=64).digest()
        self._drawn = list(_SHORTS.unpack(digest))[::-1]
        self._round += 1
        return self._drawn

    def shuffled(self, items: list) -> list:
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = (self._drawn or self._more()).pop() % (i + 1)
            items[i], items[j] = items[j], items[i]
        return items


def instructions(source: str, target: str, count: int, key: str, varied: bool = False) -> list[str] | None:
    """``count`` distinct instructions that lead from an image captioned ``source`` to one captioned ``target``.

    None where the captions are identical but for case and punctuation, or the target's has no words. ``key`` (the pair
    and the seed) decides the phrasing, of ``varied`` ones also into which other words each is put.
    """
    found = _difference(source, target)
    if found is None:
        return None
    choices = _Choices(key)
    worded = [(wordings(edit), None) if edit.kind == "scene" else _worded(edit) for edit in found.edits]  # no two scenes are alike
    moods, compared = [plain for plain, _ in worded], [graded for _, graded in worded]
    is_scene = found.edits[0].kind == "scene"
    out: list[tuple[str, Draft]] = []
    seen: set[str] = set()
    for draft in _candidates(moods, compared, choices, is_scene):
        text = _fit(draft.text)
        normal = text.casefold().rstrip("?.")
        if normal and normal not in seen:
            seen.add(normal)
            out.append((text, draft))
            if len(out) == count:
                break
    drawn = choices.shuffled(out)
    return _reworded(drawn, seen, _Choices(f"{key}:words")) if varied else [text for text, _ in drawn]


def _reworded(texts: list[tuple[str, Draft]], seen: set[str], choices: _Choices) -> list[str]:
    """Each of ``texts`` in other words, where these fit and no other text says the same; else as it is."""
    out = []
    for text, draft in texts:
        other = reworded(draft, choices.below)
        normal = other.casefold().rstrip("?.")
        if normal in seen or _fit(other) != other:
            out.append(text)
        else:
            seen.add(normal)
            out.append(other)
    return out


@lru_cache(maxsize=8192)
def _worded(edit: Edit) -> tuple[Moods, Moods | None]:
    """The wordings of an edit, and those with a comparative where it is a change along a scale. Kept, since corpora have edits in
    common: red to blue."""
    plain, graded = wordings(edit), comparative_wordings(edit)
    return plain, None if graded is None else graded._replace(versus=plain.versus)


@lru_cache(maxsize=32_768)
def _difference(source: str, target: str) -> Difference | None:
    """The difference of two captions. Kept for a large shard, whose instructions are written after its descriptions; some 20 MB."""
    return difference(read(source), read(target))


def _candidates(moods: list[Moods], compared: list[Moods | None], choices: _Choices, is_scene: bool) -> Iterator[Draft]:
    frames = [_do, choices.shuffled([_bare, _same])[0]]
    frames += choices.shuffled([_do, _find, _versus, _same, _bare, _ask])
    for frame in frames:
        if draft := frame(_drawn(moods, compared, choices), choices, is_scene):
            yield draft
    for _ in range(12):
        for frame in (_do, _find, _same, _ask, _versus, _bare):
            if draft := frame(_drawn(moods, compared, choices), choices, is_scene):
                yield draft
    for opening in (*FIND, *SAME, *ASK):  # short pools: every opening once, however many instructions were asked for
        if parts := [m.one[0] for m in moods]:
            yield Draft("versus", opening, _joined(_within(parts, 18)), several=True)


def _drawn(moods: list[Moods], compared: list[Moods | None], choices: _Choices) -> list[Moods]:
    """The wordings for one text: of a change along a scale, those with a comparative for half of the texts."""
    if compared.count(None) == len(compared):
        return moods
    return [plain if graded is None or choices.below(2) else graded for plain, graded in zip(moods, compared, strict=True)]


def _within(parts: list[str], words: int) -> list[str]:
    """As many of the first parts as together have at most ``words`` words, but at least one part."""
    if len(parts) == 1:
        return parts
    kept, count = [], 0
    for part in parts:
        count += len(part.split()) + 1
        if kept and count > words:
            break
        kept.append(part)
    return kept


def _pick(options: tuple[str, ...], choices: _Choices) -> str:
    return options[choices.below(len(options))]


def _do(moods: list[Moods], choices: _Choices, is_scene: bool) -> Draft:
    if len(moods) == 1:
        return Draft("do", *PLAIN, _pick(moods[0].do, choices))
    orders = [tuple(o for o in m.do if not o.startswith(_STATEMENTS)) or m.do for m in moods]
    return Draft("do", *PLAIN, series(_within([_pick(o, choices) for o in orders], 24)), several=True)


def _same(moods: list[Moods], choices: _Choices, is_scene: bool) -> Draft | None:
    if is_scene:
        return None
    return Draft("same", _pick(SAME, choices), _joined(_within([_pick(m.but, choices) for m in moods], 20)))


def _find(moods: list[Moods], choices: _Choices, is_scene: bool) -> Draft:
    text = _joined(_within([_pick(m.one, choices) for m in moods], 20))
    openings = (_SCENE_FIND if is_scene else FIND) if not text.startswith(("showing", "that")) else _plain_find(is_scene)
    return Draft("find", _pick(openings, choices), text)


@lru_cache
def _plain_find(is_scene: bool) -> tuple[str, ...]:
    """The openings that a phrase which begins with a verb or a clause can follow."""
    return tuple(o for o in (_SCENE_FIND if is_scene else FIND) if not o.startswith("show") and " this " not in o)


def _ask(moods: list[Moods], choices: _Choices, is_scene: bool) -> Draft:
    text = _joined(_within([_pick(m.one, choices) for m in moods], 20))
    openings = ASK[:1] if is_scene else _PLAIN_ASK if text.startswith(("showing", "that")) else ASK
    return Draft("ask", _pick(openings, choices), text)


def _versus(moods: list[Moods], choices: _Choices, is_scene: bool) -> Draft | None:
    if not all(m.versus for m in moods):
        return None
    parts = [_pick(m.versus, choices) for m in moods]
    text = ", ".join(parts)
    return Draft("versus", *PLAIN, text, several=len(parts) > 1) if len(text.split()) <= 24 else None


def _bare(moods: list[Moods], choices: _Choices, is_scene: bool) -> Draft:
    if len(moods) == 1:
        return Draft("bare", *PLAIN, _pick(moods[0].bare, choices))
    return Draft("bare", *PLAIN, _joined(_within([m.but[0] for m in moods], 24)), several=True)


def _joined(parts: list[str]) -> str:
    """Joins fragments: a place or an action is put after its noun ("with a ring on the left"), the rest become a series."""
    if len(parts) == 1:
        return parts[0]
    first, rest = parts[0], parts[1:]
    if first.startswith(("with ", "showing ")):
        while rest and (rest[0].startswith(_WHERE) or lexicon.is_participle(rest[0].partition(" ")[0])):
            first = f"{first} {rest.pop(0)}"
    return series([first, *rest])


def _fit(text: str) -> str:
    if text.count(" ") >= MAX_INSTRUCTION_WORDS:
        text = cut(text.split(" "), MAX_INSTRUCTION_WORDS)
    text = text.rstrip(" ,;:")
    return text if len(text) <= MAX_INSTRUCTION_CHARACTERS else text[:MAX_INSTRUCTION_CHARACTERS].rsplit(" ", 1)[0]


def description(source: str, target: str) -> str | None:
    """What both captions share and where they differ, in the paper's frame; None where they are identical."""
    found = _difference(source, target)
    if found is None:
        return None
    return (
        f"Both images {_both(found)}. However, the Source Image {_side(found.source_only, found, found.media[0])}, "
        f"whereas the Target Image {_side(found.target_only, found, found.media[1])}."
    )


def _both(found: Difference) -> str:
    shared = found.shared
    mains = [e for e in found.edits if not e.joint and e.kind in ("modifier", "thing")]
    main = mains[0] if mains else None
    if main is not None and (not shared or shared[0].joint):
        words = main.lead + main.head
        if words and main.kind == "thing":
            adjectives = tuple(w for w in words if lexicon.is_adjective(w.casefold()))
            rest = f" {scene(shared, 16)[0]}" if shared else ""
            if adjectives:
                return f"show something {listing(adjectives)}{rest}"
        elif words:
            shared = (Segment("", "", words, words), *shared)
    if not shared:
        return "have little in common"
    text = scene(shared, 16)[0]
    if not shared[0].joint:
        return f"show {text}"
    with_it = "" if shared[0].joint in lexicon.PREPOSITIONS or shared[0].joint == "act" else "with "
    return f"show something {with_it}{text}"


def _side(segments: tuple[Segment, ...], found: Difference, medium: str) -> str:
    if medium:
        made = f"is {lexicon.article(medium)} {medium}"
        return f"{made} and {_side(segments, found, '')}" if segments else made
    if not segments:
        return "has nothing else"
    text, clause = scene(segments, MAX_SIDE_WORDS)
    joint = segments[0].joint
    if clause:
        return f"shows that {text}"
    if joint in ("with", ":", ",", "("):
        return f"has {text.removeprefix('with ')}"
    if joint:
        return f"shows it {text}"
    return f"shows {text}"
