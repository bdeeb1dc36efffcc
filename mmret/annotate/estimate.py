"""What annotating a lake would cost, before anything is spent: requests not yet answered, tokens, money, time.

Sends nothing. Tokens a request are the mean of stored answers where there are any, else a guess: of prompts composed for a
sample, at four characters a token, and of the picture size, at one token per 28 by 28 pixels. So before the first answer expect
half or twice the figure. Cost: composing the keys of a sample of the pairs (about 0.4 ms each, ``PAIRS`` of them at most) and
one look-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from mmret.annotate.answers import BATCH
from mmret.annotate.backends.load import load_annotators
from mmret.annotate.compose import compose
from mmret.annotate.kinds import AnnotationTable, engine_of, request_kinds, table_of
from mmret.annotate.protocol import Annotator, Answer, Kind, Request
from mmret.annotate.rows import pair_request
from mmret.annotate.store import AnswerStore
from mmret.errors import UserError
from mmret.hashing import uniform
from mmret.ingest.pictures.pair_images import captions_of
from mmret.lake import Lake
from mmret.settings import AnnotateSettings

SAMPLE = 200
"""Requests whose prompts are measured."""
PAIRS = 20_000
"""Pairs of a lake that are looked at; of a larger lake, a sample by hash whose figures are scaled up."""
_CHARACTERS_PER_TOKEN = 4
_PIXELS_PER_TOKEN = 28 * 28
_TOKENS_PER_WORD = 1.35
_WORDS_PER_INSTRUCTION = 12
_WORDS_OF_JSON = 10
_WORDS_OF_A_CAPTION = 18
_REQUESTS_FOR_A_RATE = 50  # fewer are no measurement


@dataclass(frozen=True)
class Estimate:
    """Estimate for one kind of request. ``requests``: their number; ``stored``: how many of them are answered already. Tokens and
    ``cost`` are those of the others.

    ``measured``: whether tokens a request are the mean of stored answers and not a guess.
    """

    kind: Kind
    requests: int
    stored: int
    tokens_in: int
    tokens_out: int
    cost: float
    measured: bool

    def seconds(self, requests_per_second: float) -> float:
        """Time for what is not stored, at the rate of an earlier run."""
        return (self.requests - self.stored) / requests_per_second

    def scale(self, factor: float) -> Estimate:
        """The estimate of ``factor`` times as many pairs."""
        scaled = {name: round(getattr(self, name) * factor) for name in ("requests", "stored", "tokens_in", "tokens_out")}
        return replace(self, **scaled, cost=self.cost * factor)


def estimate_lake(lake: Lake, settings: AnnotateSettings) -> list[Estimate]:
    """One estimate per kind of request for all pairs of the lake, with back-end and prices of ``settings``.

    Raises UserError where no pairs have been mined.

    >>> sum(each.cost for each in estimate_lake(lake, profile.annotate))
    """
    shards = lake.partitions("pairs")
    total = sum(facts.rows for shard in shards if (facts := lake.facts("pairs", shard)))
    if not total:
        raise UserError(
            f"{lake.address} has no pairs yet, and what they cost to annotate depends on them: run "
            f"`mmret run --lake {lake.address} --dry-run` first, which mines and sends nothing"
        )
    share = min(1.0, PAIRS / total)
    columns = ["pair_id", "query_id", "target_id"]
    pairs = pa.concat_tables([_sample(lake.read("pairs", shard, columns=columns), share) for shard in shards])
    store = AnswerStore(lake.storage)
    estimates = estimate(pairs, captions_of(lake, pairs), load_annotators(settings), settings, store)
    return [each.scale(total / pairs.num_rows) for each in estimates] if pairs.num_rows else estimates


def _sample(pairs: pa.Table, share: float) -> pa.Table:
    """``share`` of ``pairs``, chosen by hash."""
    if share >= 1:
        return pairs
    return pairs.filter(pa.array([uniform("estimate pairs", i) < share for i in pairs["pair_id"].to_pylist()]))


def requests_per_second(lake: Lake, kind: Kind, model: str) -> float | None:
    """Requests a second that ``model`` answered, from the partition with most requests sent; None if those were too few."""
    table = {"instruct": "instructions", "caption": "written_captions"}.get(kind, "descriptions")
    notes = [facts.notes for shard in lake.partitions(table) if (facts := lake.facts(table, shard))]
    sent = [(n.get("requests_sent", 0), n.get("sent_per_second", 0.0)) for n in notes if n.get("model") == model]
    requests, rate = max(sent, default=(0, 0.0))
    return rate if requests >= _REQUESTS_FOR_A_RATE and rate else None


def estimate(
    pairs: pa.Table,
    captions: Mapping[str, str],
    annotators: Mapping[AnnotationTable, Annotator],
    settings: AnnotateSettings,
    store: AnswerStore,
) -> list[Estimate]:
    """One estimate per kind of request that annotating ``pairs`` would send: two (one in one-step mode), and the judge.

    The prompts for instructions contain descriptions, which may not be written yet: those are measured with a text of the
    expected length, and an instruction counts as stored only if its description is. ``pairs``: columns pair_id, query_id,
    target_id. ``annotators``: of each step.
    """
    descriptions: dict[str, str] = {}
    return [
        _estimate(kind, pairs, captions, annotators[table_of(kind)], settings, store, descriptions)
        for kind in request_kinds(settings, annotators)
    ]


def estimate_requests(
    kind: Kind, pairs: pa.Table, annotator: Annotator, settings: AnnotateSettings, store: AnswerStore
) -> Estimate:
    """The estimate of one ``kind`` whose prompts contain no other texts. ``pairs``: columns pair_id, query_id, target_id."""
    return _estimate(kind, pairs, {}, annotator, settings, store, {})


def estimate_questions(
    requests: Sequence[Request], annotator: Annotator, settings: AnnotateSettings, store: AnswerStore
) -> Estimate:
    """The estimate of ``requests`` of kind `candidate`."""
    stored, answers = 0, []
    for start in range(0, len(requests), BATCH):
        known = store.look_up("candidate", [annotator.key(request) for request in requests[start : start + BATCH]])
        stored += len(known)
        answers += list(known.values())[: SAMPLE - len(answers)]
    sample = [r for r in requests if uniform("estimate", r.pair_id) < SAMPLE / max(SAMPLE, len(requests))]
    return _priced("candidate", len(requests), stored, answers, sample, annotator, settings)


def _estimate(
    kind: Kind,
    pairs: pa.Table,
    captions: Mapping[str, str],
    annotator: Annotator,
    settings: AnnotateSettings,
    store: AnswerStore,
    descriptions: dict[str, str],
) -> Estimate:
    """The estimate of one kind. ``descriptions``: stored texts by pair id; ``describe`` fills it and ``instruct`` reads it."""
    stored, answers, sample = 0, [], []
    for start in range(0, pairs.num_rows, BATCH):
        rows = pairs.slice(start, BATCH).select(["pair_id", "query_id", "target_id"]).to_pylist()
        requests = [_request(kind, row, captions, settings, descriptions) for row in rows]
        keys = [annotator.key(request) for request in requests]
        known = store.look_up(kind, keys)
        for request, key in zip(requests, keys, strict=True):
            if answer := known.get(key):
                stored += 1
                if kind == "describe":
                    descriptions[request.pair_id] = " ".join(answer.text.split()).strip('"“” ')
        answers += list(known.values())[: SAMPLE - len(answers)]
        sample += [r for r in requests if uniform("estimate", r.pair_id) < SAMPLE / max(SAMPLE, pairs.num_rows)]
    if not annotator.uses_model:
        if kind == "describe":  # costs nothing, and prompts may contain it
            descriptions |= {sample[i].pair_id: answer.text for i, answer in annotator.answers(sample) if answer.text}
        return Estimate(kind, pairs.num_rows, stored, tokens_in=0, tokens_out=0, cost=0.0, measured=True)
    return _priced(kind, pairs.num_rows, stored, answers, sample, annotator, settings)


def _priced(
    kind: Kind,
    requests: int,
    stored: int,
    answers: Sequence[Answer],
    sample: Sequence[Request],
    annotator: Annotator,
    settings: AnnotateSettings,
) -> Estimate:
    """The estimate of so many requests: tokens of each by ``answers`` that are stored, else by the prompts of ``sample``."""
    mean = _mean_tokens(answers)
    per_request = mean or _guess_tokens(kind, sample, settings)
    tokens_in, tokens_out = (round((requests - stored) * tokens) for tokens in per_request)
    cost = annotator.cost(kind, tokens_in, tokens_out)
    return Estimate(kind, requests, stored, tokens_in, tokens_out, cost, measured=mean is not None)


def _request(
    kind: Kind, row: dict[str, str], captions: Mapping[str, str], settings: AnnotateSettings, descriptions: Mapping[str, str]
) -> Request:
    """The request as it will be, with texts of the expected length where they are not written yet."""
    if kind == "instruct":
        expected = "word " * (sum(settings.words) // 2)
        return pair_request(kind, row, captions, settings, description=descriptions.get(row["pair_id"], expected))
    texts = ("word " * 10,) * settings.instructions_per_pair if kind == "judge" else ()
    return pair_request(kind, row, captions, settings, instructions=texts)


def _mean_tokens(answers: Sequence[Answer]) -> tuple[float, float] | None:
    """Tokens in and out per request, measured; None where no answer says how many it took."""
    counted = [answer for answer in answers if answer.tokens_in]
    if not counted:
        return None
    return sum(a.tokens_in for a in counted) / len(counted), sum(a.tokens_out for a in counted) / len(counted)


def _guess_tokens(kind: Kind, sample: Sequence[Request], settings: AnnotateSettings) -> tuple[float, float]:
    """Tokens in and out per request, from the prompts of ``sample`` and the length of texts that the settings ask for."""
    engine = engine_of(kind, settings)
    questions = [compose(request, settings) for request in sample]
    characters = sum(len(q.system) + len(q.user) for q in questions) / max(1, len(questions))
    pictures = max((len(q.images) for q in questions), default=0)
    tokens_in = characters / _CHARACTERS_PER_TOKEN + pictures * engine.image_size**2 / _PIXELS_PER_TOKEN
    description = sum(settings.words) / 2
    instructions = _WORDS_PER_INSTRUCTION * settings.instructions_per_pair + _WORDS_OF_JSON
    words = {
        "caption": _WORDS_OF_A_CAPTION,
        "describe": description,
        "instruct": instructions,
        "judge": 12,
        "candidate": 6,
        "both": description + instructions,
    }[kind]
    return tokens_in, min(words * _TOKENS_PER_WORD, engine.max_tokens)
