"""The two annotation stages: pairs to descriptions, descriptions to instructions (paper, section 3.2).

Every pair is a row with a status: ``ok``, ``failed`` (no usable answer; a later run may get one) or ``rejected`` (an
answer that a check turned down). Requests go out ordered by query image, so that an engine's image and prefix caches
hit; rows come out ordered by pair id. Texts depend on the pairs, captions, settings and back-end alone, never on
batching or crashes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa

from mmret.annotate.answering import BATCH, Tally, ask
from mmret.annotate.parse import PARSER_VERSION, Parsed, parse
from mmret.annotate.protocol import Annotator, Answer, Kind, Request
from mmret.annotate.store import AnswerStore
from mmret.progress import advance
from mmret.schemas import DESCRIPTIONS, INSTRUCTIONS
from mmret.settings import AnnotateSettings

Row = tuple[Request | None, str, str]
"""A pair's request, or None with the pair's id and the reason why nothing can be asked."""


def describe(
    pairs: pa.Table,
    captions: Mapping[str, str],
    annotator: Annotator,
    settings: AnnotateSettings,
    store: AnswerStore | None,
    tally: Tally | None = None,
) -> pa.Table:
    """One row of DESCRIPTIONS per pair of ``pairs`` (columns pair_id, query_id, target_id), sorted by pair_id.

    ``captions``: text by image id; back-ends that look at the pictures do without. ``store`` None keeps no answers.
    """

    def request(row: dict[str, str]) -> Row:
        return (
            Request(
                "describe",
                row["pair_id"],
                row["query_id"],
                row["target_id"],
                captions.get(row["query_id"]) or "",
                captions.get(row["target_id"]) or "",
                seed=settings.seed,
            ),
            row["pair_id"],
            "",
        )

    rows = pairs.select(["pair_id", "query_id", "target_id"])
    return _stage("describe", rows, request, annotator, store, tally or Tally())


def instruct(
    descriptions: pa.Table,
    pairs: pa.Table,
    captions: Mapping[str, str],
    annotator: Annotator,
    settings: AnnotateSettings,
    store: AnswerStore | None,
    tally: Tally | None = None,
) -> pa.Table:
    """One row of INSTRUCTIONS per pair, sorted by pair_id; a pair whose description failed carries that reason on."""

    def request(row: dict[str, str]) -> Row:
        if row["status"] != "ok":
            return None, row["pair_id"], row["reason"] or "no_description"
        return (
            Request(
                "instruct",
                row["pair_id"],
                row["query_id"],
                row["target_id"],
                captions.get(row["query_id"]) or "",
                captions.get(row["target_id"]) or "",
                row["text"],
                settings.instructions_per_pair,
                settings.seed,
            ),
            row["pair_id"],
            "",
        )

    described = descriptions.select(["pair_id", "text", "status", "reason"])
    rows = pairs.select(["pair_id", "query_id", "target_id"]).join(described, "pair_id", join_type="left outer")
    return _stage("instruct", rows, request, annotator, store, tally or Tally())


def _stage(
    kind: Kind,
    rows: pa.Table,
    request: Callable[[dict[str, str]], Row],
    annotator: Annotator,
    store: AnswerStore | None,
    tally: Tally,
) -> pa.Table:
    began = time.monotonic()
    schema = DESCRIPTIONS if kind == "describe" else INSTRUCTIONS
    rows = rows.sort_by([("query_id", "ascending"), ("target_id", "ascending")])
    parts = []
    for part in _batches(kind, rows, request, annotator, store, tally, schema):
        parts.append(part)
        advance(kind, sum(p.num_rows for p in parts), rows.num_rows, f"{tally.sent} asked, {tally.stored} known")
    tally.seconds += time.monotonic() - began
    return pa.Table.from_batches(parts, schema).sort_by("pair_id")


def _batches(
    kind: Kind,
    rows: pa.Table,
    request: Callable[[dict[str, str]], Row],
    annotator: Annotator,
    store: AnswerStore | None,
    tally: Tally,
    schema: pa.Schema,
) -> Iterator[pa.RecordBatch]:
    stamp = (annotator.model, annotator.prompt_version(kind), PARSER_VERSION)
    for start in range(0, rows.num_rows, BATCH):
        todo = [request(row) for row in rows.slice(start, BATCH).to_pylist()]
        asked = [r for r, _, _ in todo if r is not None]
        answered = iter(ask(asked, annotator, store, tally) if asked else ())
        out: list[tuple] = []
        for question, pair_id, reason in todo:
            if question is None:
                key, answer, parsed = None, Answer(), Parsed(reason=reason)
            else:
                key, answer = next(answered)
                parsed = parse(question, answer)
            status = "failed" if parsed.reason else "ok"
            tally.statuses[status] += 1
            if parsed.reason:
                tally.reasons[parsed.reason] += 1
            text = list(parsed.texts) if kind == "instruct" else parsed.texts[0] if parsed.texts else None
            out.append((pair_id, key, text, *stamp, status, parsed.reason or None, answer.tokens_in, answer.tokens_out))
        yield pa.RecordBatch.from_arrays(
            [pa.array(column, f.type) for column, f in zip(zip(*out, strict=True), schema, strict=True)], schema=schema
        )
