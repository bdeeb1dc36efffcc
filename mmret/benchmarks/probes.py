"""The questions that robustness is measured with, made of the held-out queries, and their figures by one model.

Each is a benchmark of its own in table ``evaluations``, its name beginning with ``robustness: ``:

* wordings of held-out triplets, of held-out edits: every question in all its wordings;
* hard negatives of held-out triplets: the mined ones, less those known to show what the target shows; of held-out edits: pictures
  that show what the query's picture shows, so nothing was changed;
* parts of held-out triplets, of held-out edits: the picture alone, the text alone, the whole query;
* a second picture of the same: a held-out triplet asked with another picture that shows what its picture shows, by the attributes
  of a ``shapes`` corpus, elsewhere by the caption: nothing that is asked for changes, so nothing should be lost;
* two pictures combined: a held-out edit whose new value is not said but shown, by a second picture that has it ("the first picture
  in the colour of the second"); on a ``shapes`` corpus alone. Right is what the edit's own text asks for, so the two compare.

Of fewer than ``ENOUGH`` questions a share says nothing: it is left out, with the reason. Cost: one composed vector for each further
wording and two or three for a question of two pictures, of ``evaluate.robustness`` questions at most; the rest is counted from what
the evaluation has embedded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Protocol

import numpy as np

from mmret.benchmarks.composed import ComposedVectors
from mmret.benchmarks.directions import ENOUGH, Corpus
from mmret.benchmarks.edits import ATTRIBUTES
from mmret.benchmarks.robustness import (
    K,
    negatives_of_ranks,
    parts_of_ranks,
    spread_of_ranks,
    two_picture_vectors,
    wording_ranks,
)
from mmret.benchmarks.triplets import Query
from mmret.hashing import fingerprint, uniform
from mmret.ranking import recall_at, target_ranks, wrong_ranks

PREFIX = "robustness: "
"""What the names of these benchmarks begin with."""
SECOND = f"{PREFIX}a second picture of the same"
COMBINED = f"{PREFIX}two pictures combined"
_SHOWN = {
    "shape": "the first picture with the shape of the second",
    "colour": "the first picture in the colour of the second",
    "size": "the first picture in the size of the second",
    "pattern": "the first picture with the pattern of the second",
    "background": "the first picture on the background of the second",
    "position": "the first picture placed as in the second",
}


class Asked(Protocol):
    """What a probe needs of a model that is measured: its pictures' vectors, and how it puts queries."""

    @property
    def gallery(self) -> tuple[list[str], np.ndarray]: ...
    @property
    def place(self) -> Mapping[str, int]: ...
    @property
    def composed(self) -> ComposedVectors: ...
    def ranks(self, queries: Sequence[Query]) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class TwoPictures:
    """``query`` asked with a ``second`` picture beside its reference, and, of both, ``text``."""

    query: Query
    second: str
    text: str


@dataclass(frozen=True)
class Probe:
    """``asked``: Query or TwoPictures, as ``figures`` takes them."""

    name: str
    asked: Sequence[Any]
    figures: Callable[[Asked, Sequence[Any]], dict[str, float]]

    def key(self) -> str:
        """A fingerprint of all that the figures depend on, besides the model and the pictures that there are."""
        return fingerprint(self.name, [_plain(each) for each in self.asked])

    def measure(self, model: Asked) -> dict[str, float]:
        """Percent by metric, and ``gallery``, the number of pictures searched in."""
        return self.figures(model, self.asked) | {"gallery": len(model.gallery[0])}


def is_robustness(benchmark: str) -> bool:
    """Whether rows of ``evaluations`` are those of a probe."""
    return benchmark.startswith(PREFIX)


def probes(corpus: Corpus, sets: Mapping[str, Sequence[Query]], n: int) -> tuple[list[Probe], dict[str, str]]:
    """Every probe that there are questions for, and why the others are left out, by name; none of both where ``n`` is 0.

    ``sets``: held-out queries by the name of their set, those of lowest hash first; ``n``: how many questions of each kind may need
    vectors of their own.

    >>> asked, left_out = probes(Corpus.of(images), {"held-out triplets": held_out_triplets(lake, profile.evaluate)}, 300)
    """
    if not n:
        return [], {}
    shows = dict(zip(corpus.ids, corpus.shows, strict=True))
    sets = {name: [q for q in queries if q.reference in shows and q.targets <= shows.keys()] for name, queries in sets.items()}
    made: list[Probe] = []
    why: dict[str, str] = {}
    for name, queries in sets.items():
        if not queries:
            continue
        known = [replace(q, negatives=_wrong(q, shows)) for q in queries]
        made += [
            Probe(f"{PREFIX}wordings of {name}", [q for q in queries if len(q.wordings) > 1][:n], _wordings),
            Probe(f"{PREFIX}hard negatives of {name}", [q for q in known if q.negatives], _negatives),
            Probe(f"{PREFIX}parts of {name}", queries, _parts),
        ]
        why |= {
            made[-3].name: f"of {len(queries)} {name} {{}} have a second wording",
            made[-2].name: f"of {len(queries)} {name} {{}} have a picture that is known to be wrong",
            made[-1].name: "there are {} " + name,
        }
    triplets, edits = sets.get("held-out triplets", ()), sets.get("held-out edits", ())
    if triplets:
        made.append(Probe(SECOND, _second_pictures(corpus, shows, triplets)[:n], _two_pictures))
        why[SECOND] = f"of {len(triplets)} held-out triplets {{}} have a second picture that is known to show the same"
    if edits:
        made.append(Probe(COMBINED, _combined(corpus, edits)[:n], _two_pictures))
        why[COMBINED] = f"of {len(edits)} held-out edits {{}} have a second picture that shows what changes"
    enough = [probe for probe in made if len(probe.asked) >= ENOUGH]
    few = {p.name: why[p.name].format(len(p.asked)) + f"; {ENOUGH} would be enough" for p in made if p not in enough}
    return enough, few


def _plain(asked: Query | TwoPictures) -> list[Any]:
    query = asked if isinstance(asked, Query) else asked.query
    plain = [query.reference, query.text, sorted(query.targets), list(query.wordings), sorted(query.negatives)]
    return plain if isinstance(asked, Query) else [*plain, *astuple(asked)[1:]]


def _wrong(query: Query, shows: Mapping[str, str]) -> frozenset[str]:
    """Its negatives that are in the corpus and not known to show what a target shows."""
    right = {shows.get(target) for target in query.targets} - {""}
    return frozenset(i for i in query.negatives - query.targets if i in shows and shows[i] not in right)


def _second_pictures(corpus: Corpus, shows: Mapping[str, str], queries: Sequence[Query]) -> list[TwoPictures]:
    """Those queries with another picture that shows what theirs does, where no target shows it as well."""
    showing: dict[str, list[str]] = defaultdict(list)
    for image_id in corpus.ids:
        showing[shows[image_id]].append(image_id)
    made = []
    for query in queries:
        same = shows.get(query.reference, "")
        others = [other for other in showing.get(same, ()) if same and other != query.reference]
        if others and not any(shows.get(target) == same for target in query.targets):
            second = min(others, key=lambda other: (uniform("second", query.reference, other), other))
            made.append(TwoPictures(query, second, query.text))
    return made


def _combined(corpus: Corpus, edits: Sequence[Query]) -> list[TwoPictures]:
    """Edits of one attribute, with a picture that has its new value as the second."""
    scenes = {image_id: scene.split("\x1f") for image_id, scene in zip(corpus.ids, corpus.scenes, strict=True) if scene}
    having: dict[tuple[int, str], list[str]] = defaultdict(list)
    for image_id, scene in scenes.items():
        for attribute, value in enumerate(scene):
            having[attribute, value].append(image_id)
    made = []
    for edit in edits:
        before, after = scenes[edit.reference], scenes[min(edit.targets)]
        changed = [k for k, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
        if len(changed) > 1 or ATTRIBUTES[changed[0]] not in _SHOWN:
            continue
        there = having[changed[0], after[changed[0]]]
        start = int(uniform("second", edit.reference) * len(there))
        second = next((other for other in (*there[start:], *there[:start]) if other not in edit.targets), None)
        if second is not None:
            made.append(TwoPictures(edit, second, _SHOWN[ATTRIBUTES[changed[0]]]))
    return made


def _wordings(model: Asked, queries: Sequence[Query]) -> dict[str, float]:
    asked = [(q.reference, q.wordings, q.targets) for q in queries]
    found = spread_of_ranks(wording_ranks(model.composed, model.place, model.gallery[1], asked))
    return {f"{name} R@{K}": value for name, value in found.items()}


def _negatives(model: Asked, queries: Sequence[Query]) -> dict[str, float]:
    vectors = model.composed.of([(q.reference, q.text) for q in queries])
    exclude = [{model.place[q.reference]} for q in queries]
    targets = [[model.place[t] for t in q.targets] for q in queries]
    negatives = [[model.place[i] for i in sorted(q.negatives)] for q in queries]
    first = target_ranks(vectors, model.gallery[1], targets, exclude)
    found = negatives_of_ranks(first, wrong_ranks(vectors, model.gallery[1], negatives, exclude))
    return {
        "before target": found["before target"],
        f"in first {K}": found["in first"],
        f"of first {K}": found["of first"],
    }


def _parts(model: Asked, queries: Sequence[Query]) -> dict[str, float]:
    ranks = model.ranks(queries)
    return {f"{name} R@{K}": value for name, value in parts_of_ranks(ranks[""], ranks["image "], ranks["text "]).items()}


def _two_pictures(model: Asked, asked: Sequence[TwoPictures]) -> dict[str, float]:
    """``R@k`` of both pictures together, and of the one that the same targets are asked for with alone, without either."""
    first = [(two.query.reference, two.text) for two in asked]
    vectors = {
        "": two_picture_vectors(model.composed.of(first), model.composed.of([(two.second, two.text) for two in asked])),
        "one picture ": model.composed.of([(two.query.reference, two.query.text) for two in asked]),
    }
    exclude = [{model.place[two.query.reference], model.place[two.second]} for two in asked]
    targets = [[model.place[t] for t in two.query.targets] for two in asked]
    ranks = {name: target_ranks(rows, model.gallery[1], targets, exclude) for name, rows in vectors.items()}
    return {f"{name}{metric}": value for name, of in ranks.items() for metric, value in recall_at(of, (1, K)).items()}
