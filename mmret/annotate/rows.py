"""The two annotation stages: pairs to descriptions, descriptions to instructions (paper, section 3.2).

Every pair is a row with a status: ``ok``, ``failed`` (no usable answer; a later run may get one) or ``rejected`` (an
answer that the judge turned down). Requests go out ordered by query image, so that an engine's image and prefix
caches hit; rows come out ordered by pair id. Texts depend on the pairs, captions, settings and back-end alone, never
on batching or crashes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from mmret.annotate.answers import BATCH, Tally, ask
from mmret.annotate.judge import judge_request, verdict
from mmret.annotate.parse import ASK_ANEW, PARSER_VERSION, Parsed, Want, parse
from mmret.annotate.protocol import Annotator, Answer, Kind, Request
from mmret.annotate.store import AnswerStore
from mmret.progress import advance
from mmret.schemas import DESCRIPTIONS, INSTRUCTIONS
from mmret.settings import AnnotateSettings

Row = tuple[Request | None, str, str]
"""A pair's request, or None with the pair's id and the reason why nothing can be asked."""


@dataclass(frozen=True)
class _Stage:
    """What the steps below share."""

    want: Want
    kind: Kind
    schema: pa.Schema
    annotator: Annotator
    settings: AnnotateSettings
    store: AnswerStore | None
    tally: Tally


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
    stage = _Stage(
        "description",
        _kind("describe", annotator, settings),
        DESCRIPTIONS,
        annotator,
        settings,
        store,
        tally or Tally(),
    )
    rows = pairs.select(["pair_id", "query_id", "target_id"])
    return _run(stage, rows, lambda row: (_request(stage, row, captions), row["pair_id"], ""))


def instruct(
    descriptions: pa.Table,
    pairs: pa.Table,
    captions: Mapping[str, str],
    annotator: Annotator,
    settings: AnnotateSettings,
    store: AnswerStore | None,
    tally: Tally | None = None,
) -> pa.Table:
    """One row of INSTRUCTIONS per pair, sorted by pair_id; a pair whose description failed carries that reason on.

    With ``settings.one_step`` the answers are those that :func:`describe` got, read from the store.
    """
    stage = _Stage(
        "instructions",
        _kind("instruct", annotator, settings),
        INSTRUCTIONS,
        annotator,
        settings,
        store,
        tally or Tally(),
    )

    def request(row: dict[str, str]) -> Row:
        if row["status"] != "ok":
            return None, row["pair_id"], row["reason"] or "no_description"
        return _request(stage, row, captions), row["pair_id"], ""

    described = descriptions.select(["pair_id", "text", "status", "reason"])
    rows = pairs.select(["pair_id", "query_id", "target_id"]).join(described, "pair_id", join_type="left outer")
    return _run(stage, rows, request)


def _kind(kind: Kind, annotator: Annotator, settings: AnnotateSettings) -> Kind:
    return "both" if settings.one_step and annotator.sampled else kind


def _request(stage: _Stage, row: dict[str, str], captions: Mapping[str, str]) -> Request:
    text = row["text"] if stage.kind == "instruct" else ""
    return Request(
        stage.kind,
        row["pair_id"],
        row["query_id"],
        row["target_id"],
        captions.get(row["query_id"]) or "",
        captions.get(row["target_id"]) or "",
        text,
        stage.settings.instructions_per_pair,
        stage.settings.seed,
    )


def _run(stage: _Stage, rows: pa.Table, request: Callable[[dict[str, str]], Row]) -> pa.Table:
    began = time.monotonic()
    rows = rows.sort_by([("query_id", "ascending"), ("target_id", "ascending")])
    parts: list[pa.RecordBatch] = []
    done = 0
    task = "describe" if stage.want == "description" else "instruct"
    for part in _batches(stage, rows, request):
        parts.append(part)
        done += part.num_rows
        advance(task, done, rows.num_rows, f"{stage.tally.sent} asked, {stage.tally.stored} known")
    stage.tally.seconds += time.monotonic() - began
    return pa.Table.from_batches(parts, stage.schema).sort_by("pair_id")


def _batches(stage: _Stage, rows: pa.Table, request: Callable[[dict[str, str]], Row]) -> Iterator[pa.RecordBatch]:
    tally = stage.tally
    stamp = (stage.annotator.model_for(stage.kind), stage.annotator.prompt_version(stage.kind), PARSER_VERSION)
    for start in range(0, rows.num_rows, BATCH):
        todo = [request(row) for row in rows.slice(start, BATCH).to_pylist()]
        asked = [r for r, _, _ in todo if r is not None]
        answers = iter(_answers(stage, asked))
        out: list[tuple] = []
        for question, pair_id, reason in todo:
            key, answer, parsed = next(answers) if question is not None else (None, Answer(), Parsed(reason=reason))
            out.append((pair_id, key, parsed, "failed" if parsed.reason else "ok", parsed.reason, answer))
        if stage.want == "instructions" and stage.settings.judge and stage.annotator.sampled:
            out = _judged(stage, [r for r, _, _ in todo], out)
        tally.statuses.update(row[3] for row in out)
        tally.reasons.update(row[4] for row in out if row[4])
        instructions = stage.want == "instructions"
        columns = zip(
            *[
                (
                    pair_id,
                    key,
                    list(p.texts) if instructions else p.texts[0] if p.texts else None,
                    *stamp,
                    status,
                    reason or None,
                    a.tokens_in,
                    a.tokens_out,
                )
                for pair_id, key, p, status, reason, a in out
            ],
            strict=True,
        )
        yield pa.RecordBatch.from_arrays(
            [pa.array(column, f.type) for column, f in zip(columns, stage.schema, strict=True)], schema=stage.schema
        )


def _answers(stage: _Stage, requests: list[Request], want: Want | None = None) -> list[tuple[str, Answer, Parsed]]:
    """Key, answer and reading of each request; a model's unusable answers are asked for anew, with another seed."""
    if not requests:
        return []
    want = want or stage.want
    language = stage.settings.language if stage.annotator.sampled else None
    got = [
        (key, answer, parse(request, answer, want, language))
        for request, (key, answer) in zip(requests, ask(requests, stage.annotator, stage.store, stage.tally), strict=True)
    ]
    for attempt in range(1, stage.settings.attempts if stage.annotator.sampled else 1):
        bad = [i for i, (_, _, parsed) in enumerate(got) if parsed.reason in ASK_ANEW]
        if not bad:
            break
        again = [requests[i]._replace(attempt=attempt) for i in bad]
        for i, request, (key, answer) in zip(bad, again, ask(again, stage.annotator, stage.store, stage.tally), strict=True):
            before = got[i][1]
            answer = answer._replace(
                tokens_in=before.tokens_in + answer.tokens_in, tokens_out=before.tokens_out + answer.tokens_out
            )
            got[i] = key, answer, parse(request, answer, want, language)
    return got


def _judged(stage: _Stage, requests: list[Request | None], rows: list[tuple]) -> list[tuple]:
    good = [i for i, row in enumerate(rows) if row[3] == "ok"]
    questions = [judge_request(request, rows[i][2].texts) for i in good if (request := requests[i]) is not None]
    for i, (_, answer, parsed) in zip(good, _answers(stage, questions, "scores"), strict=True):
        pair_id, key, texts, _, _, before = rows[i]
        status, reason = verdict(parsed, stage.settings)
        tokens = before._replace(tokens_in=before.tokens_in + answer.tokens_in, tokens_out=before.tokens_out + answer.tokens_out)
        rows[i] = pair_id, key, texts, status, reason, tokens
    return rows
