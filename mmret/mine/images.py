"""The images of a table of neighbours as numbers, with what the choice of pairs needs: captions, shards, near-duplicates.

Text is read once per image here, so that choosing among tens of millions of pairs works on numbers alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.hashing import hash64
from mmret.mine.ordering import number_texts, text_ranks


class Images:
    """All images that a table ``NEIGHBOURS`` names, numbered in the order of their ids.

    ``queries``, ``targets`` (rows,) int64: the numbers in each row of it; ``names``: ids by number; ``captions``, ``shards``
    int64 and ``hashes`` uint64 (images,): equal numbers for equal captions (-1: none), shards in their order, hashes of the ids.
    """

    def __init__(self, neighbours: pa.Table, captions: Mapping[str, str] | pa.Table):
        both = pa.chunked_array([*neighbours["query_id"].chunks, *neighbours["target_id"].chunks], pa.string())
        self.names, numbers = number_texts(both)
        self.queries, self.targets = np.split(numbers, 2)
        above = neighbours["above_band"].to_numpy()
        one, other = self.queries[above], self.targets[above]
        self.duplicates = np.sort(np.concatenate([self.key(one, other), self.key(other, one)]))
        self.has_duplicate = np.zeros(len(self.names), bool)
        self.has_duplicate[one] = self.has_duplicate[other] = True
        self.hashes = np.array([hash64(name) for name in self.names.to_pylist()], np.uint64)
        self._describe(captions)

    def _describe(self, captions: Mapping[str, str] | pa.Table) -> None:
        if not isinstance(captions, pa.Table):
            captions = pa.table(
                {"image_id": pa.array(captions.keys(), pa.string()), "caption": pa.array(captions.values(), pa.string())}
            )
        at = pc.index_in(self.names, value_set=captions["image_id"].combine_chunks())
        texts: dict[str, int] = {"": -1}
        self.captions = np.array(
            [texts.setdefault(normalise_caption(text), len(texts)) for text in captions["caption"].take(at).to_pylist()]
        )
        self.shards = np.zeros(len(self.names), np.int64)
        if "shard" in captions.column_names:
            shards = captions["shard"].take(at)
            known = shards.is_valid().to_numpy()
            self.shards[known] = text_ranks(shards.filter(shards.is_valid()))

    def key(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """One int64 for each ordered pair."""
        return one * len(self.names) + other

    def same_caption(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Whether both captions are the same text; a missing caption is not the same as any."""
        return (self.captions[one] == self.captions[other]) & (self.captions[one] >= 0)

    def near_duplicates(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Whether the lists have the pair above a band, in either direction."""
        result = self.has_duplicate[one] & self.has_duplicate[other]
        keys = self.key(one[result], other[result])
        at = np.minimum(np.searchsorted(self.duplicates, keys), len(self.duplicates) - 1)
        result[result] = self.duplicates[at] == keys
        return result


def normalise_caption(caption: str | None) -> str:
    """A caption in the form in which captions are compared: compatibility forms, case and white space do not count."""
    return " ".join(unicodedata.normalize("NFKC", caption or "").casefold().split())
