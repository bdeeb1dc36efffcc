"""Groups the words of captions by what they can stand in place of: colours, shapes, trades, whatever a corpus speaks of.

Two words are linked where captions are equal but for that one word, which the corpus shows without being told what a colour is. A
word whose links fall apart without it has several meanings (a striped ball, a striped wall) and is split into them (ego-splitting,
Epasto et al. 2017); the groups are the communities of what comes out (Louvain). English only in that function words are left out
and synonyms joined as in :mod:`mmret.annotate.backends.captions`. Cost: linear in words, some 60 us a caption of ten; the graph
has the ``VOCABULARY`` most frequent words at most.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mmret.annotate.backends.captions import lexicon as lx
from mmret.annotate.backends.captions.tokens import words
from mmret.hashing import hash64

VOCABULARY = 1000
LONGEST = 24
"""Captions of more words than this hardly ever have another that is equal but for one."""
AT_ONE_PLACE = 64
"""Where more words than this stand in one place, only the lowest by hash are linked with all others."""
FRAMES = 2
"""Places that two words must share: one may be an accident."""
FIXED, FIXED_COUNT = 0.95, 5
"""A word that has the same neighbour this often, and at least so many times, is one word with it: sky blue, plus sign."""
FUNCTION_WORDS = (
    lx.DETERMINERS | lx.BINDING | lx.PREPOSITIONS | lx.PRONOUNS | lx.AUXILIARIES | lx.CONJUNCTIONS | {"next", "close", "'s"}
)

Token = tuple[str, int]
"""A word and which of its occurrences in the caption it is, so that a caption is a set."""


class Word(NamedTuple):
    """A content word of a caption, and the word ``before`` it, whatever that is."""

    text: str
    before: str


def words_of(caption: str) -> list[Word]:
    """The content words of ``caption`` in order, synonyms as one word, without an opening such as "a drawing of".

    >>> [word.text for word in words_of("A drawing of a little red circle on a white background")]
    ['small', 'red', 'circle', 'white', 'background']
    """
    keys = words(caption)  # without the medium: a caption that names none may still be of a drawing
    before = ("", *("a" if key == "an" else key for key in keys))
    return [Word(key, left) for key, left in zip(keys, before, strict=False) if key not in FUNCTION_WORDS]


class Changes(NamedTuple):
    """Between two captions: the kinds of which a word ``replaced`` another; ``one_sided``, of which words came or went without
    that; None stands for words that have no kind. ``known``: how many words were replaced within a kind."""

    replaced: frozenset[int | None]
    one_sided: frozenset[int | None]
    known: int


class WordKinds:
    """``bags``: by image id its caption as a set of tokens; ``count``: how many kinds of words there are, numbered from 0."""

    def __init__(self, captions: Mapping[str, list[Word]]):
        joined = _join_fixed(captions)
        self.bags = {image_id: _bag(listed) for image_id, listed in joined.items()}
        frequency = Counter(word.text for listed in joined.values() for word in listed)
        self._links = _links(dict.fromkeys(map(tuple, joined.values())), frequency)
        self._near = {word: set(others) for word, others in self._links.items()}
        self._senses = {word: _senses(word, self._links, self._near) for word in self._near}
        groups = _communities(self._links, self._senses)
        members = [sorted({word for word, _ in group}, key=lambda word: (-frequency[word], word)) for group in groups]
        order = sorted(range(len(groups)), key=lambda at: (-frequency[members[at][0]], members[at]))
        self.members = [members[at] for at in order]
        self._kind = {sense: kind for kind, at in enumerate(order) for sense in groups[at]}
        self._kinds = {word: self._kinds_of(word) for word in self._links}
        self._members = [set(words) for words in self.members]
        self.count = len(self.members)

    def described(self, kind: int) -> dict[str, Any]:
        """``name``: the three most frequent words; ``words``: the ten most frequent."""
        words = self.members[kind]
        return {"name": ", ".join(words[:3]) + (" ..." if len(words) > 3 else ""), "words": words[:10]}

    def changes(self, old: Iterable[Token], new: Iterable[Token]) -> Changes:
        """What leads from the words ``old``, which only the query's caption has, to ``new``, which only the target's has."""
        gone, come = Counter(word for word, _ in old), Counter(word for word, _ in new)
        known = sorted(gone.keys() & self._kinds.keys())
        replaced: list[int | None] = []
        for find in (self._linked, self._of_one_kind):
            for word in known:
                for other, kind in find(word, come) if gone[word] else ():
                    if count := min(gone[word], come[other]):
                        gone[word] -= count
                        come[other] -= count
                        replaced += [kind] * count
        kinds = len(replaced)
        gone, come = +gone, +come
        if all(side.keys() - self._kinds.keys() for side in (gone, come)):
            replaced.append(None)
            gone, come = (side.keys() & self._kinds.keys() for side in (gone, come))
        one_sided = frozenset(self._kinds[word][0] if word in self._kinds else None for word in (*gone, *come))
        return Changes(frozenset(replaced), one_sided, kinds)

    def _linked(self, word: str, come: Mapping[str, int]) -> Iterator[tuple[str, int]]:
        """The words of ``come`` that stand in the place of ``word``, and the kind of both in that sense."""
        for other in sorted(self._near[word] & come.keys()):
            one, two = (self._kind[a, self._senses[a][b]] for a, b in ((word, other), (other, word)))
            if one == two:
                yield other, one

    def _of_one_kind(self, word: str, come: Mapping[str, int]) -> Iterator[tuple[str, int]]:
        """The words of ``come`` that are of a kind of ``word``, and that kind."""
        for kind in self._kinds[word]:
            for other in sorted(self._members[kind] & come.keys()):
                yield other, kind

    def _kinds_of(self, word: str) -> list[int]:
        """The kinds that ``word`` belongs to, the one of most of its places first."""
        weights: Counter[int] = Counter()
        for other, weight in self._links[word].items():
            weights[self._kind[word, self._senses[word][other]]] += weight
        return sorted(weights, key=lambda kind: (-weights[kind], kind))


def _join_fixed(captions: Mapping[str, list[Word]]) -> dict[str, list[Word]]:
    """``captions`` with neighbours joined where one of the two has hardly any other: a replaced "sky blue" is one change.

    They stay apart where a word that is not joined stands in the place of that one: "white" before "wall", if "striped" is before
    walls and elsewhere.
    """
    texts = dict.fromkeys(map(tuple, captions.values()))  # in order: sums of fractions depend on it
    singles = Counter(word.text for text in texts for word in text)
    pairs = Counter((a.text, b.text) for text in texts for a, b in zip(text, text[1:], strict=False))
    fixed = {(a, b): n for (a, b), n in pairs.items() if n >= FIXED_COUNT and n >= FIXED * min(singles[a], singles[b])}
    links = _links(texts, singles)
    while True:
        loose = {two for two in fixed if any(other not in fixed and other in pairs for other in _instead(two, singles, links))}
        if not loose:
            return {image_id: _join(listed, fixed) for image_id, listed in captions.items()}
        fixed = {two: n for two, n in fixed.items() if two not in loose}


def _instead(
    two: tuple[str, str], singles: Mapping[str, int], links: Mapping[str, Mapping[str, float]]
) -> Iterator[tuple[str, str]]:
    """``two`` neighbours with the rarer one replaced by each word that stands in its place."""
    a, b = two
    if singles[a] <= singles[b]:
        yield from ((other, b) for other in links.get(a, ()))
    else:
        yield from ((a, other) for other in links.get(b, ()))


def _join(listed: list[Word], fixed: Mapping[tuple[str, str], int]) -> list[Word]:
    joined, at = [], 0
    texts = [word.text for word in listed]
    while at < len(listed):
        two = tuple(texts[at : at + 2])
        if two in fixed and fixed[two] >= fixed.get(tuple(texts[at + 1 : at + 3]), 0):
            joined.append(Word(" ".join(two), listed[at].before))
            at += 2
        else:
            joined.append(listed[at])
            at += 1
    return joined


def _bag(listed: list[Word]) -> frozenset[Token]:
    seen: Counter[str] = Counter()
    tokens = []
    for word in listed:
        tokens.append((word.text, seen[word.text]))
        seen[word.text] += 1
    return frozenset(tokens)


def _links(texts: Iterable[tuple[Word, ...]], frequency: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """By word the words that stand in its place, weighted by how often: between the same neighbours, in captions of otherwise the
    same words, in whatever order those are.

    A place where n words stand counts 1 / (n - 1) for each two, so that each word's place counts once (Newman 2001).
    """
    known = set(sorted(frequency, key=lambda word: (-frequency[word], word))[:VOCABULARY])
    numbers = {word: hash64(word) for word in frequency}
    places: dict[tuple[int, str, str], set[str]] = defaultdict(set)
    for text in texts:
        if not 2 <= len(text) <= LONGEST:
            continue
        whole = sum(numbers[word.text] for word in text)
        following = [*(word.text for word in text[1:]), ""]
        for word, after in zip(text, following, strict=True):
            if word.text in known:
                places[whole - numbers[word.text], word.before, after].add(word.text)
    weights: Counter[tuple[str, str]] = Counter()
    shared: Counter[tuple[str, str]] = Counter()
    for found in places.values():
        if len(found) > 1:
            listed = sorted(found, key=numbers.__getitem__)
            weight = 1 / (min(len(listed), AT_ONE_PLACE) - 1)
            for at, word in enumerate(listed[:AT_ONE_PLACE]):
                for other in listed[at + 1 :]:
                    two = (word, other) if word < other else (other, word)
                    weights[two] += weight
                    shared[two] += 1
    links: dict[str, dict[str, float]] = defaultdict(dict)
    for (a, b), weight in weights.items():
        if shared[a, b] >= FRAMES:
            links[a][b] = links[b][a] = weight
    return dict(links)


def _senses(word: str, links: Mapping[str, Mapping[str, float]], near: Mapping[str, set[str]]) -> dict[str, int]:
    """The meaning of ``word`` in which each of its neighbours replaces it: neighbours that are linked without it share one.

    A neighbour that is linked with none of the others proves nothing, it may only be rare: it belongs to the first meaning, which
    is that of most places. ``near``: the neighbours of every word.
    """
    left = set(near[word])
    parts: list[list[str]] = []
    for start in sorted(near[word]):
        if start not in left:
            continue
        left.remove(start)
        part = [start]
        for reached in part:  # grows as it is read
            more = near[reached] & left
            left -= more
            part += sorted(more)
        parts.append(part)
    parts.sort(key=lambda part: (-sum(links[word][other] for other in part), part))
    several = [part for part in parts if len(part) > 1]
    sense = {other: number for number, part in enumerate(several) for other in part}
    return {other: sense.get(other, 0) for part in parts for other in part}


def _communities(links: Mapping[str, Mapping[str, float]], senses: Mapping[str, Mapping[str, int]]) -> list[set[tuple[str, int]]]:
    """Groups of (word, sense) of which each two that replace each other are linked."""
    from networkx import Graph
    from networkx.algorithms.community import louvain_communities

    nodes = sorted({(word, sense) for word in links for sense in senses[word].values()})
    number = {node: at for at, node in enumerate(nodes)}  # sets of texts have another order in every process
    graph = Graph()
    for word in sorted(links):
        for other, weight in sorted(links[word].items()):
            graph.add_edge(number[word, senses[word][other]], number[other, senses[other][word]], weight=weight)
    groups = louvain_communities(graph, seed=0) if nodes else []
    return [{nodes[at] for at in group} for group in groups]
