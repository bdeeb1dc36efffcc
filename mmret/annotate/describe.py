"""Descriptions of pairs: what source and target share and where they differ (paper, section 3.2: the vision model's step).

Costs one request a pair that is not answered yet; :mod:`mmret.annotate.rows` has what both steps share.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from mmret.annotate.answers import Stats
from mmret.annotate.protocol import Annotator
from mmret.annotate.rows import PairRequest, Row, Step, annotate_pairs, pair_request
from mmret.annotate.store import AnswerStore
from mmret.settings import AnnotateSettings


def describe(
    pairs: pa.Table,
    captions: Mapping[str, str],
    annotator: Annotator,
    settings: AnnotateSettings,
    store: AnswerStore | None,
    stats: Stats | None = None,
) -> pa.Table:
    """One row of DESCRIPTIONS per pair of ``pairs`` (columns pair_id, query_id, target_id), sorted by pair_id.

    ``captions``: text by image id; back-ends that look at the pictures do without. ``store`` None: no answer is stored.
    ``stats`` is filled with what was sent and what came of it.

    >>> describe(pairs, {"a1": "a red car", "b2": "a blue car"}, CaptionsAnnotator(), AnnotateSettings(), None)
    """
    step = Step("descriptions", annotator, settings, store, stats or Stats())

    def request_of(row: Row) -> PairRequest:
        return PairRequest(row["pair_id"], pair_request(step.kind, row, captions, settings))

    return annotate_pairs(step, pairs.select(["pair_id", "query_id", "target_id"]), request_of)
