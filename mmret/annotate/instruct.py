"""Instructions from descriptions: texts that lead from source to target (paper, section 3.2: the language model's step).

Costs one request a pair that is described and not answered yet; :mod:`mmret.annotate.rows` has what both steps share.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from mmret.annotate.answers import Stats
from mmret.annotate.protocol import Annotator
from mmret.annotate.rows import PairRequest, Row, Step, annotate_pairs, pair_request
from mmret.annotate.store import AnswerStore
from mmret.settings import AnnotateSettings


def instruct(
    descriptions: pa.Table,
    pairs: pa.Table,
    captions: Mapping[str, str],
    annotator: Annotator,
    settings: AnnotateSettings,
    store: AnswerStore | None,
    stats: Stats | None = None,
) -> pa.Table:
    """One row of INSTRUCTIONS per pair of ``pairs``, sorted by pair_id; a pair whose description failed has the reason of that.

    ``descriptions``: rows of DESCRIPTIONS of these pairs; the rest as in :func:`mmret.annotate.describe.describe`. With
    ``settings.one_step`` the answers of the describing step are read from the store.

    >>> instruct(descriptions, pairs, {"a1": "a red car", "b2": "a blue car"}, CaptionsAnnotator(), AnnotateSettings(), None)
    """
    step = Step("instructions", annotator, settings, store, stats or Stats())

    def request_of(row: Row) -> PairRequest:
        if row["status"] != "ok":
            return PairRequest(row["pair_id"], None, row["reason"] or "no_description")
        description = row["text"] if step.kind == "instruct" else ""
        return PairRequest(row["pair_id"], pair_request(step.kind, row, captions, settings, description))

    described = descriptions.select(["pair_id", "text", "status", "reason"])
    rows = pairs.select(["pair_id", "query_id", "target_id"]).join(described, "pair_id", join_type="left outer")
    return annotate_pairs(step, rows, request_of)
