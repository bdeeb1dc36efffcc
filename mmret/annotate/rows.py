"""Makes rows with texts from the pairs of a shard, for descriptions and instructions alike.

Every pair is a row with a status: ``ok``, ``failed`` (no usable answer; a later run may get one) or ``rejected`` (an answer
that the judge turned down). Requests go out ordered by query image, so that an engine's image and prefix caches hit; rows come
out ordered by pair id. Texts depend on the pairs, captions, settings and back-end alone, never on batches or crashes. Cost on
this side: about 0.1 ms a row, and the memory of ``BATCH`` requests.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import pyarrow as pa

from mmret.annotate.answers import BATCH, Stats, get_answers
from mmret.annotate.compose import demonstrations_of
from mmret.annotate.early_stop import EarlyStop
from mmret.annotate.judge import judge_request, verdict
from mmret.annotate.kinds import AnnotationTable, engine_asked, prompt_name, request_kind, uses_judge
from mmret.annotate.parse import RETRY_REASONS, Parsed, Part, parse, parser_version
from mmret.annotate.protocol import Annotator, Answer, Kind, Request
from mmret.annotate.row_progress import RowProgress
from mmret.annotate.store import AnswerStore
from mmret.schemas import TABLES
from mmret.settings import AnnotateSettings

_PLACES_PER_BATCH = 128
"""Requests under way at a time for which ``BATCH`` rows are enough: 32 rounds."""
Row = Mapping[str, str]
"""A pair as it is read: pair_id, query_id, target_id, and for instructions its description's text, status and reason."""


@dataclass(frozen=True)
class Step:
    """A step that asks: the table that it fills, of annotation or of captions, and what it needs.

    ``store`` None: answers are not stored."""

    table: AnnotationTable | Literal["written_captions"]
    annotator: Annotator
    settings: AnnotateSettings
    store: AnswerStore | None
    stats: Stats

    @property
    def judges(self) -> bool:
        """Whether its rows are judged by a further request."""
        return self.table == "instructions" and uses_judge(self.settings, self.annotator)

    @cached_property
    def kind(self) -> Kind:
        """Kind of its requests."""
        return request_kind(self.table, self.settings, self.annotator)

    @property
    def part(self) -> Part:
        """What is read from an answer."""
        return "description" if self.table == "descriptions" else "instructions"

    @property
    def schema(self) -> pa.Schema:
        return TABLES[self.table]


class PairRequest(NamedTuple):
    """The request about one pair; None where nothing can be asked, for ``reason``."""

    pair_id: str
    request: Request | None
    reason: str = ""


class ParsedAnswer(NamedTuple):
    """An answer, the key it is stored under, and what was read from it."""

    key: str
    answer: Answer
    parsed: Parsed


class Outcome(NamedTuple):
    """The result for one pair: the columns of its row that differ from pair to pair."""

    pair_id: str
    request_key: str | None = None  # None where nothing was asked
    texts: tuple[str, ...] = ()
    status: str = "ok"
    reason: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


def pair_request(
    kind: Kind,
    row: Row,
    captions: Mapping[str, str],
    settings: AnnotateSettings,
    description: str = "",
    instructions: tuple[str, ...] = (),
) -> Request:
    """The request of ``kind`` about the pair in ``row``. ``captions``: by image id."""
    return Request(
        kind=kind,
        pair_id=row["pair_id"],
        query_id=row["query_id"],
        target_id=row["target_id"],
        query_caption=captions.get(row["query_id"]) or "",
        target_caption=captions.get(row["target_id"]) or "",
        description=description,
        count=settings.instructions_per_pair,
        seed=settings.seed,
        instructions=instructions,
    )


def annotate_pairs(step: Step, pairs: pa.Table, request_of: Callable[[Row], PairRequest]) -> pa.Table:
    """One row of ``step.table`` for each of ``pairs``, sorted by pair_id. ``request_of`` makes the request about a pair."""
    began = time.monotonic()
    pairs = pairs.sort_by([("query_id", "ascending"), ("target_id", "ascending")])
    progress = RowProgress(step.table, pairs.num_rows, step.stats, step.judges)
    batches = list(_batches(step, pairs, request_of, progress))
    step.stats.seconds += time.monotonic() - began
    return pa.Table.from_batches(batches, step.schema).sort_by("pair_id")


def _batches(
    step: Step, pairs: pa.Table, request_of: Callable[[Row], PairRequest], progress: RowProgress
) -> Iterator[pa.RecordBatch]:
    size = _batch_size(step)
    for start in range(0, pairs.num_rows, size):
        with _not_collecting(not step.annotator.uses_model):
            batch = [request_of(row) for row in _rows(pairs.slice(start, size))]
            progress.begin_batch(len(batch))
            outcomes = _outcomes(step, batch, progress)
            if step.judges:
                outcomes = _judge(step, batch, outcomes, progress)
            step.stats.statuses.update(outcome.status for outcome in outcomes)
            step.stats.reasons.update(outcome.reason for outcome in outcomes if outcome.reason)
            progress.end_batch(outcome.reason for outcome in outcomes if outcome.reason and outcome.request_key)
            made = _record_batch(step, outcomes)
        yield made


def _batch_size(step: Step) -> int:
    """Rows worked on together; more where a server has many places, since they fall empty one by one at the end of each batch."""
    engine = engine_asked(step.table, step.settings) if step.annotator.uses_model and step.table != "written_captions" else None
    return BATCH if engine is None else BATCH * max(1, engine.concurrency * len(engine.urls) // _PLACES_PER_BATCH)


@contextmanager
def _not_collecting(wanted: bool) -> Iterator[None]:
    """Keep Python's collector from looking at what the block makes until its next full round, where ``wanted``: rules make no
    garbage in circles, and looking at the captions that they keep is a seventh of their time."""
    wanted = wanted and gc.isenabled() and not gc.get_freeze_count()
    if wanted:
        gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.freeze()
            gc.unfreeze()  # everything is old now, which full rounds alone look at
            gc.enable()


def _rows(pairs: pa.Table) -> Iterator[Row]:
    """The rows of ``pairs``, in half the time of ``to_pylist``."""
    names = pairs.column_names
    for values in zip(*(column.to_pylist() for column in pairs.columns), strict=True):
        yield dict(zip(names, values, strict=True))


def _outcomes(step: Step, batch: Sequence[PairRequest], progress: RowProgress) -> list[Outcome]:
    asked = [pair.request for pair in batch if pair.request is not None]
    answers = iter(parsed_answers(step, asked, step.part, progress))
    outcomes = []
    for pair in batch:
        if pair.request is None:
            outcomes.append(Outcome(pair.pair_id, status="failed", reason=pair.reason))
            continue
        key, answer, parsed = next(answers)
        status = "failed" if parsed.reason else "ok"
        outcomes.append(Outcome(pair.pair_id, key, parsed.texts, status, parsed.reason, answer.tokens_in, answer.tokens_out))
    return outcomes


def parsed_answers(step: Step, requests: list[Request], part: Part, progress: RowProgress) -> list[ParsedAnswer]:
    """The parsed answer to each request; a model whose answer cannot be used is asked again, with another seed."""
    if not requests:
        return []
    language = step.settings.language if step.annotator.uses_model else None
    read: dict[tuple[str, int], Parsed] = {}  # by pair and attempt

    def parsed(request: Request, answer: Answer) -> Parsed:
        place = request.pair_id, request.attempt
        found = read.get(place)
        if found is None:
            examples = _examples(step, request) if language and part == "instructions" else ()
            found = read[place] = parse(request, answer, part, language, examples)
        return found

    def on_answer(request: Request, answer: Answer, number: int) -> None:
        share = number / len(requests) if request.attempt == 0 else 1.0
        progress.answered(request, parsed(request, answer).reason, share)

    watch = None
    if step.annotator.uses_model:
        watch = EarlyStop(step.annotator, step.settings, lambda request, answer: parsed(request, answer).reason)
    answers = get_answers(requests, step.annotator, step.store, step.stats, watch, on_answer)
    found = [ParsedAnswer(key, answer, parsed(request, answer)) for request, (key, answer) in zip(requests, answers, strict=True)]
    for attempt in range(1, step.settings.attempts if step.annotator.uses_model else 1):
        unusable = [i for i, each in enumerate(found) if each.parsed.reason in RETRY_REASONS]
        if not unusable:
            break
        again = [requests[i]._replace(attempt=attempt) for i in unusable]
        answers = get_answers(again, step.annotator, step.store, step.stats, on_answer=on_answer)
        for i, request, (key, answer) in zip(unusable, again, answers, strict=True):
            earlier = found[i].answer
            total = answer._replace(
                tokens_in=earlier.tokens_in + answer.tokens_in, tokens_out=earlier.tokens_out + answer.tokens_out
            )
            found[i] = ParsedAnswer(key, total, parsed(request, answer))
    return found


def _examples(step: Step, request: Request) -> list[str]:
    """The instructions that the prompt shows for other pairs. Only those of the prompt that came with this check: what the others
    were answered, long ago and for money, is read as it was."""
    if prompt_name(request.kind, step.settings) != "instruct_captions":
        return []
    return [text for shown in demonstrations_of(request, step.settings) for text in shown.instructions]


def _judge(step: Step, batch: Sequence[PairRequest], outcomes: Sequence[Outcome], progress: RowProgress) -> list[Outcome]:
    """``outcomes``, those with texts judged by a further request."""
    requests = {pair.pair_id: pair.request for pair in batch if pair.request is not None}
    questions = {o.pair_id: judge_request(requests[o.pair_id], o.texts) for o in outcomes if o.status == "ok"}
    answers = dict(zip(questions, parsed_answers(step, list(questions.values()), "scores", progress), strict=True))
    return [
        _apply_verdict(step, outcome, answers[outcome.pair_id]) if outcome.pair_id in answers else outcome for outcome in outcomes
    ]


def _apply_verdict(step: Step, outcome: Outcome, scored: ParsedAnswer) -> Outcome:
    status, reason = verdict(scored.parsed, step.settings)
    return outcome._replace(
        status=status,
        reason=reason,
        tokens_in=outcome.tokens_in + scored.answer.tokens_in,
        tokens_out=outcome.tokens_out + scored.answer.tokens_out,
    )


def _record_batch(step: Step, outcomes: Sequence[Outcome]) -> pa.RecordBatch:
    if step.table == "descriptions":
        texts: dict[str, list] = {"text": [o.texts[0] if o.texts else None for o in outcomes]}
    else:
        texts = {"texts": [list(o.texts) for o in outcomes]}
    columns = {
        "pair_id": [o.pair_id for o in outcomes],
        "request_key": [o.request_key for o in outcomes],
        **texts,
        "model": [step.annotator.model_for(step.kind)] * len(outcomes),
        "prompt_version": [step.annotator.prompt_version(step.kind)] * len(outcomes),
        "parser_version": [parser_version(step.annotator.uses_model)] * len(outcomes),
        "status": [o.status for o in outcomes],
        "reason": [o.reason or None for o in outcomes],
        "tokens_in": [o.tokens_in for o in outcomes],
        "tokens_out": [o.tokens_out for o in outcomes],
    }
    return pa.RecordBatch.from_pydict(columns, schema=step.schema)
