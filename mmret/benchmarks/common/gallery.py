"""Ranks one gallery for all queries of a benchmark, as CIRCO, CIRR and FashionIQ need.

A gallery is embedded once and queried in several ways: image and text composed, either alone, CIRCO also without the
shared concept. A target that ties with other images ranks behind them.
Cost beside the model: 800 queries over CIRCO's 123,403 x 768 gallery rank in about 3 s on two cores, in 1.3 GB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmret.benchmarks.common.candidates import similarities
from mmret.benchmarks.common.pictures import Embedder, Shot
from mmret.benchmarks.common.protocol import Protocol, Template
from mmret.benchmarks.common.runs import (
    COMPOSED,
    IMAGE_ONLY,
    NO_CONCEPT,
    TEXT_ONLY,
    MissingPictures,
    RunOptions,
    Variant,
    query_vectors,
)
from mmret.errors import UserError
from mmret.ranking import best_first, rank

DEPTH = 50
QUERY_BLOCK = 256
"""Queries ranked at once: 126 MB of scores over CIRCO's gallery."""


@dataclass(frozen=True)
class Gallery:
    """Named pictures with their vectors. ``distinct`` (m, d) float32: each different vector once; ``group``: its row, by name;
    ``members``: the names of each row.

    Names that share a vector are ranked as one and then listed, targets last. They tie exactly that way; in a matrix product
    equal columns may differ in the last bit, and rounding would break the tie.
    """

    shots: dict[Any, Shot]
    distinct: np.ndarray
    group: dict[Any, int]
    members: list[list[Any]]

    @classmethod
    def of(cls, shots: dict[Any, Shot], vectors: np.ndarray) -> Gallery:
        """``vectors`` (n, d): the rows of ``shots``, in their order."""
        first: dict[bytes, int] = {}
        group = {
            name: first.setdefault(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), len(first))
            for name, row in zip(shots, vectors, strict=True)
        }
        members: list[list[Any]] = [[] for _ in first]
        for name, number in group.items():
            members[number].append(name)
        distinct = vectors
        if len(first) < len(vectors):
            firsts = {name: i for i, name in enumerate(shots)}
            distinct = vectors[[firsts[names[0]] for names in members]]
        return cls(shots, distinct, group, members)


def embed_gallery(embedder: Embedder, paths: Mapping[Any, Path | None], options: RunOptions) -> tuple[Gallery, MissingPictures]:
    """Embed the pictures of ``paths`` (name -> file, None: not found) and list those that are missing.

    Raises UserError where some are missing and ``options`` do not allow it, or where none is left.
    """
    missing = MissingPictures({str(name): "not found" for name, path in paths.items() if path is None})
    missing.check(len(paths), options.allow_missing, options.images)
    found = {name: Shot(path) for name, path in paths.items() if path is not None}
    vectors = embedder.picture_vectors(list(found.values()), "gallery")
    names = list(found)
    for i, reason in vectors.unreadable.items():
        missing.reasons[str(names[i])] = reason
    missing.check(len(paths), options.allow_missing, options.images)
    keep = [i for i in range(len(names)) if i not in vectors.unreadable]
    if not keep:
        raise UserError(f"none of the {len(paths)} pictures of the gallery was found under {options.images}")
    rows = vectors.rows if len(keep) == len(names) else vectors.rows[keep]
    return Gallery.of({names[i]: found[names[i]] for i in keep}, rows), missing


@dataclass(frozen=True)
class Question:
    """A query of a gallery benchmark. ``fields`` fill the templates; ``targets`` are names, empty where they are hidden."""

    key: Any
    reference: Any
    fields: Mapping[str, str]
    targets: tuple[Any, ...]


@dataclass(frozen=True)
class Ranker:
    """Ranks one gallery for the questions it can answer (those whose reference picture is there)."""

    embedder: Embedder
    gallery: Gallery
    questions: list[Question]
    protocol: Protocol
    remove_reference: bool

    def vectors(self, template: Template | None, image: bool = True) -> np.ndarray:
        """Query vectors (q, d) float32: composed, of the text alone (``image`` False) or the image alone (``template`` None)."""
        if template is None:
            return self.gallery.distinct[[self.gallery.group[q.reference] for q in self.questions]]
        shots: list[Shot] | None = [self.gallery.shots[q.reference] for q in self.questions] if image else None
        texts = [template.texts(q.fields) for q in self.questions]
        return query_vectors(self.embedder, shots, texts, self.protocol.instruction)

    def rankings(self, vectors: np.ndarray, depth: int = DEPTH) -> dict[Any, list[Any]]:
        """The ``depth`` best names of the whole gallery, best first, by question key."""
        group, members = self.gallery.group, self.gallery.members
        alone = [{g} if self.remove_reference and len(members[g := group[q.reference]]) == 1 else set() for q in self.questions]
        behind = [{group[t] for t in q.targets if t in group} for q in self.questions]
        found = {}
        for start in range(0, len(self.questions), QUERY_BLOCK):
            part = slice(start, start + QUERY_BLOCK)
            rows = rank(vectors[part], self.gallery.distinct, depth + 1, alone[part], behind[part])
            found |= {q.key: self._names(q, row)[:depth] for q, row in zip(self.questions[part], rows, strict=True)}
        return found

    def rankings_within(self, vectors: np.ndarray, sets: Sequence[Collection[Any]], depth: int) -> dict[Any, list[Any]]:
        """As :meth:`rankings`, of each question's own set of names alone."""
        found = {}
        for question, query, names in zip(self.questions, vectors, sets, strict=True):
            groups = sorted({self.gallery.group[n] for n in names if n in self.gallery.group})
            targets = {self.gallery.group.get(t) for t in question.targets}
            scores = similarities(self.gallery.distinct[groups], query)
            order = best_first(scores, np.array([g in targets for g in groups], bool))
            found[question.key] = [n for n in self._names(question, [groups[i] for i in order]) if n in names][:depth]
        return found

    def _names(self, question: Question, groups: Iterable[int]) -> list[Any]:
        """The names of ``groups`` in order, a target after those that share its vector, and without a reference to be removed."""
        hidden = question.reference if self.remove_reference else None
        return [
            name
            for g in groups
            if g >= 0
            for name in sorted(self.gallery.members[g], key=question.targets.__contains__)
            if name != hidden
        ]


def query_variants(protocol: Protocol) -> dict[str, tuple[Template | None, bool]]:
    """Name of a variant -> its template (None: image alone) and whether the image is part of the query."""
    variants: dict[str, tuple[Template | None, bool]] = {COMPOSED: (protocol.template, True)}
    if protocol.without_concept:
        variants[NO_CONCEPT] = (protocol.without_concept, True)
    return variants | {IMAGE_ONLY: (None, True), TEXT_ONLY: (protocol.template, False)}


def prepare(
    embedder: Embedder,
    paths: Mapping[Any, Any],
    questions: Sequence[Question],
    protocol: Protocol,
    options: RunOptions,
    remove_reference: bool,
) -> tuple[Ranker, str | None]:
    """Embed the gallery; returns its ranker and what is missing from the run in words, None where nothing is.

    Raises UserError where pictures are missing and ``options`` do not allow it, or where no query has its reference.
    """
    gallery, missing = embed_gallery(embedder, paths, options)
    answerable = [q for q in questions if q.reference in gallery.shots]
    if not answerable:
        raise UserError("no query has its reference picture; nothing was scored")
    return (
        Ranker(embedder, gallery, answerable, protocol, remove_reference),
        _partial(missing, len(paths), len(questions) - len(answerable), len(questions)),
    )


def _partial(missing: MissingPictures, pictures: int, skipped: int, queries: int) -> str | None:
    if not missing.reasons:
        return None
    return (
        f"PARTIAL: {len(missing.reasons)} of {pictures} pictures are missing, {skipped} of {queries} queries were left "
        "out for want of their reference; a smaller gallery is easier"
    )


def paraphrase_variants(
    variant: Callable[[str, Template | None, bool], Variant], protocol: Protocol, options: RunOptions, hidden: bool
) -> tuple[Variant, ...]:
    """The composed query in the protocol's other wordings; none unless ``options`` ask for it, or where targets are hidden.

    ``variant`` runs one variant, given (name, template, whether the image is part of the query).
    """
    if hidden or not options.paraphrases:
        return ()
    return tuple(Variant(t.name, variant(t.name, t, True).values) for t in protocol.paraphrases)
