"""One step's rows, as numbers: what is embedded, which candidate answers which query, and what must not count as a negative.

A query and a candidate are an image, a text, or both (:mod:`mmret.tasks`). Each distinct image and each distinct text of a batch
is embedded once, whatever it serves as. Cost: sorting some thousands of numbers; with texts among the candidates a (queries,
candidates) comparison more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmret.tasks import COMPOSED, TaskName

NONE = -1
"""In place of the number of an image or a text that is not there."""


@dataclass(frozen=True)
class Batch:
    """One step's rows. Numbers of images are positions in ``TrainingSet.images``, the distinct image ids.

    ``queries`` (b,) int64: images that ask, :data:`NONE` where a text asks alone; ``texts``: b strings, None where an image asks
    alone. ``candidates`` (m,) int64: the b targets in the order of the queries, then every explicit hard negative (b of them where
    each query brings one, fewer or more where they are ragged), :data:`NONE` where a candidate is a text alone;
    ``candidate_texts``: m strings or None each, None at all where no candidate has a text. ``negative_rows`` (m - b,) int64: for
    each explicit negative the row, 0 to b - 1, that brought it, the first one of its triplet; None in a batch made by hand.

    ``groups`` (b,) int64: numbers from 0 on, equal for the queries of one triplet, and ``visits`` (b,) int64: equal for those that
    are shown together, of a triplet or of a query picture (:attr:`mmret.settings.Recipe.texts_at_once`); both None where each row
    shows one text.

    ``tasks``: each row's, None where all are ``composed``. ``query_sources`` (b, 2) and ``candidate_sources`` (m, 2) int64: which
    picture of the corpus it is, or whose caption, and which caption that picture has, :data:`NONE` where that is not known; both
    None in a batch of ``composed`` alone, where an image number says it all.
    """

    queries: np.ndarray
    texts: Sequence[str | None]
    candidates: np.ndarray
    candidate_texts: Sequence[str | None] | None = None
    negative_rows: np.ndarray | None = None
    tasks: Sequence[TaskName] | None = None
    query_sources: np.ndarray | None = None
    candidate_sources: np.ndarray | None = None
    groups: np.ndarray | None = None
    visits: np.ndarray | None = None

    @property
    def targets(self) -> np.ndarray:
        return self.candidates[: len(self.queries)]

    def images(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The distinct images of the batch, and where in them the queries (b,) and the candidates (m,) are, :data:`NONE` where they
        have none: each is embedded once."""
        distinct, where = np.unique(np.concatenate([self.queries, self.candidates]), return_inverse=True)
        if len(distinct) and distinct[0] == NONE:
            distinct, where = distinct[1:], where - 1
        return distinct, where[: len(self.queries)], where[len(self.queries) :]

    def distinct_texts(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The distinct texts of the batch, and where in them those of the queries (b,) and of the candidates (m,) are."""
        every = [*self.texts, *(self.candidate_texts or [])]
        here = np.array([text is not None for text in every], dtype=bool)
        distinct, found = np.unique(np.array([text for text in every if text is not None], dtype=object), return_inverse=True)
        where = np.full(len(self.queries) + len(self.candidates), NONE)
        where[np.flatnonzero(here)] = found
        return list(distinct), where[: len(self.queries)], where[len(self.queries) :]

    def distinct_queries(self) -> tuple[list[tuple[int, str | None]], np.ndarray]:
        """The distinct (image number, text) pairs of each task, and for every row which of them is its own."""
        place: dict[tuple[TaskName, int, str | None], int] = {}
        rows = zip(self.task_names(), self.queries.tolist(), self.texts, strict=True)
        where = [place.setdefault(query, len(place)) for query in rows]
        return [query[1:] for query in place], np.array(where, np.int64)

    def distinct_candidates(self) -> tuple[list[tuple[int, str | None]], np.ndarray]:
        """The distinct (image number, text) pairs of candidates, ascending by image, and for every candidate which is its own."""
        _, first, where = np.unique(self.candidate_keys(), return_index=True, return_inverse=True)
        texts = self.candidate_texts or [None] * len(self.candidates)
        return [(image, texts[row]) for image, row in zip(self.candidates[first].tolist(), first.tolist(), strict=True)], where

    def task_names(self) -> Sequence[TaskName]:
        """Each row's task."""
        return self.tasks if self.tasks is not None else [COMPOSED] * len(self.queries)

    def candidate_keys(self) -> np.ndarray:
        """(m,) int64: equal for candidates that are the same image with the same text, ascending with the image number."""
        if self.candidate_texts is None:
            return self.candidates
        texts, _, text = self.distinct_texts()
        return (self.candidates + 1) * (len(texts) + 1) + text + 1

    def own_candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of a row and of a candidate that is its own, ``rows, places`` (n,) int64: of each row its target first, then the
        explicit negatives that it, or another query of its triplet, has brought."""
        count = len(self.queries)
        rows = self.negative_rows if self.negative_rows is not None else np.empty(0, np.int64)
        places = np.arange(count, count + len(rows))
        if self.groups is not None:
            by_group, sizes = np.argsort(self.groups, kind="stable"), np.bincount(self.groups)
            asked = sizes[self.groups[rows]]
            starts = (np.cumsum(sizes) - sizes)[self.groups[rows]]
            within = np.arange(asked.sum()) - np.repeat(np.cumsum(asked) - asked, asked)
            rows, places = by_group[np.repeat(starts, asked) + within], np.repeat(places, asked)
        return np.concatenate([np.arange(count), rows]), np.concatenate([np.arange(count), places])

    def copies(self) -> np.ndarray | None:
        """(b, m) bool: candidates that are no negatives because queries are shown together, whatever the recipe masks: a query's
        target as another text of its triplet brings it, and what a visit has brought before, which counts once, not once a text.
        None where each row shows one text."""
        if self.groups is None or self.visits is None:
            return None
        count = len(self.queries)
        brought_by = np.arange(count) if self.negative_rows is None else np.concatenate([np.arange(count), self.negative_rows])
        keys, visits = (np.unique(numbers, return_inverse=True)[1] for numbers in (self.candidate_keys(), self.visits))
        _, first = np.unique(visits[brought_by] * (keys.max() + 1) + keys, return_index=True)
        again = np.ones(len(keys), dtype=bool)
        again[first] = False
        found = np.tile(again, (count, 1))
        found[:, :count] |= self.same_triplet()
        return found

    def same_triplet(self) -> np.ndarray | None:
        """(b, b) bool: rows of one triplet; None where each row shows one text."""
        return None if self.groups is None else self.groups[:, None] == self.groups

    def no_negatives(self) -> np.ndarray | None:
        """(b, m) bool: candidates that are no negatives of a query although they are not its target, besides copies of the target;
        None where there are no such.

        * What shows the target's picture: the picture itself, or its caption. A candidate with an equal caption shows it too where
          the candidate carries a text, or where a text asks, which cannot tell two such pictures apart.
        * Likewise what shows the query's own picture, unless image and text ask together: only a text beside it says that the
          picture itself is not wanted.
        * Targets of the same query in another task.
        """
        if self.query_sources is None or self.candidate_sources is None:
            return None
        count = len(self.queries)
        texts = self.candidate_texts or [None] * len(self.candidates)
        carries_text = np.array([text is not None for text in texts])
        without_image = self.queries == NONE
        one_part = without_image | np.array([text is None for text in self.texts])
        found = self._shows(self.candidate_sources[:count], carries_text, without_image)
        found |= self._shows(self.query_sources, carries_text, without_image) & one_part[:, None]
        keys = self.candidate_keys()
        names = self.task_names()
        for rows in self._rows_asking_the_same():
            for row in rows:
                found[row] |= np.isin(keys, [keys[other] for other in rows if names[other] != names[row]])
        return found

    def _shows(self, sources: np.ndarray, carries_text: np.ndarray, without_image: np.ndarray) -> np.ndarray:
        """(b, m): whether a candidate shows the picture of ``sources`` (b, 2), as far as the query can tell."""
        picture, caption = sources.T[:, :, None]
        pictures, captions = self.candidate_sources.T
        equal = (caption == captions) & (caption != NONE)
        return (picture == pictures) | (equal & (carries_text | without_image[:, None]))

    def _rows_asking_the_same(self) -> list[list[int]]:
        """Rows with the same image and text, whatever their tasks, where there are several."""
        rows: dict[tuple[int, str | None], list[int]] = {}
        for row, query in enumerate(zip(self.queries.tolist(), self.texts, strict=True)):
            rows.setdefault(query, []).append(row)
        return [found for found in rows.values() if len(found) > 1]
