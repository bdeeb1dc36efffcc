"""Naive pairs: two images whose captions share a word, drawn at random, which the headline study compares mining with.

MegaPairs is set against methods that pair images by where they were found, without looking at them. Here the query is
drawn uniformly, then a word of its caption, then another image whose caption has that word. The instructions are written
from the two captions by the embedded back-end, and there are no mined hard negatives. Words in more than half of the
captions say nothing and make no pair. Cost: about 10 s for 70,000 pairs and core, nearly all of it writing.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from mmret.annotate.backends.captions import CaptionsAnnotator
from mmret.annotate.instruct import instruct
from mmret.assemble.triplets import assemble
from mmret.curation.split import split_of
from mmret.errors import UserError
from mmret.hashing import draws, pair_id
from mmret.schemas import DESCRIPTIONS, PAIRS, SIGNALS
from mmret.settings import AnnotateSettings, EvaluateSettings

COMMON = 0.5
"""A word in a larger share of the captions than this makes no pair."""
ROUNDS = 20
"""Times that twice as many pairs as are missing are drawn, before a corpus counts as having no more of them."""


def naive_triplets(
    images: pa.Table,
    count: int,
    seed: int,
    evaluate: EvaluateSettings,
    accept: Callable[[pa.Table], pa.Table] = lambda triplets: triplets,
) -> pa.Table:
    """``count`` triplets (schema TRIPLETS) of split ``train``, sorted by query and pair id.

    ``images``: ``image_id, caption, path, licence`` of a corpus. The draws depend on ``seed`` and the captions alone.
    A pair that gets no instruction (captions that mean the same) is replaced by another, as is one that ``accept`` leaves out
    of the triplets it is given. Raises UserError where the corpus has fewer such pairs.
    """
    rows = images.select(["image_id", "caption", "path", "licence"]).sort_by("image_id")
    ids, captions = rows["image_id"].to_pylist(), [caption or "" for caption in rows["caption"].to_pylist()]
    index = _CaptionIndex(captions, np.array([split_of(i, evaluate) == "train" for i in ids], bool))
    by_id = dict(zip(ids, captions, strict=True))
    parts: list[pa.Table] = []
    made, seen = 0, np.empty(0, np.int64)
    for number in range(ROUNDS):
        drawn = index.draw_pairs(2 * (count - made) + 64, seed, number)
        drawn = drawn[~np.isin(drawn, seen)]
        seen = np.concatenate([seen, drawn])
        # a tenth more than is missing: few pairs get no instruction, and writing is what costs
        for part in np.array_split(drawn, range(count // 9 + 16, len(drawn), count // 9 + 16)):
            if made < count and len(part):
                parts.append(accept(_triplets(part, ids, by_id, rows, evaluate)).slice(0, count - made))
                made += parts[-1].num_rows
        if made == count:
            return pa.concat_tables(parts).sort_by([("query_id", "ascending"), ("pair_id", "ascending")])
    raise UserError(f"the captions of this corpus make {made:,} naive pairs and {count:,} are wanted: lower the recipe's pairs")


class _CaptionIndex:
    """Images by the words of their captions. A pair is one number, ``query * n + target``, of places in ``captions``."""

    def __init__(self, captions: list[str], train: np.ndarray):
        self.captions = captions
        words = [sorted(set(re.findall(r"\w+", caption.lower()))) for caption in captions]
        having: dict[str, list[int]] = {}
        for place, own in enumerate(words):
            for word in own:
                having.setdefault(word, []).append(place)
        self.images_by_word = {w: np.array(p) for w, p in having.items() if 1 < len(p) <= max(2, COMMON * len(captions))}
        self.words = [[w for w in own if w in self.images_by_word] for own in words]
        self.queries = np.array([q for q in np.flatnonzero(train) if self.words[q]], np.int64)

    def draw_pairs(self, count: int, seed: int, number: int) -> np.ndarray:
        """Distinct pairs (at most ``count``,) int64 in the order drawn; ``number`` counts the draws of ``seed``."""
        if not len(self.queries):
            return np.empty(0, np.int64)
        places = np.arange(count, dtype=np.uint64)
        queries = self.queries[draws(places, seed, "naive", number, 0) % np.uint64(len(self.queries))]
        word, target = draws(places, seed, "naive", number, 1), draws(places, seed, "naive", number, 2)
        pairs = []
        for query, w, t in zip(queries.tolist(), word.tolist(), target.tolist(), strict=True):
            own = self.words[query]
            sharing = self.images_by_word[own[w % len(own)]]
            found = int(sharing[t % len(sharing)])
            if found != query and self.captions[found] != self.captions[query]:
                pairs.append(query * len(self.captions) + found)
        unique, first = np.unique(np.array(pairs, np.int64), return_index=True)
        return unique[np.argsort(first)]


def _triplets(pairs: np.ndarray, ids: list[str], captions: dict[str, str], rows: pa.Table, evaluate: EvaluateSettings) -> pa.Table:
    """Triplets of ``pairs`` that got instructions."""
    queries, targets = ([ids[i] for i in part.tolist()] for part in np.divmod(pairs, len(ids)))
    keys = [pair_id(q, t) for q, t in zip(queries, targets, strict=True)]
    nothing = pa.array([None] * len(keys), pa.float32())
    table = pa.table(
        {
            "pair_id": keys,
            "query_id": queries,
            "target_id": targets,
            "signals": [[]] * len(keys),
            **{f"{signal}_score": nothing for signal in SIGNALS},
            "hard_negatives": [[]] * len(keys),
        },
        PAIRS,
    )
    described = pa.Table.from_pylist([{"pair_id": key, "text": "", "model": "none", "status": "ok"} for key in keys], DESCRIPTIONS)
    written = instruct(described, table, captions, CaptionsAnnotator(), AnnotateSettings(), None)
    return assemble(table, described, written, rows, evaluate)[0]
