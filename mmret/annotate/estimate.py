"""What a backfill would cost, before anything is spent: requests not yet answered, tokens, money, time.

Sends nothing. Tokens come from answers already stored where there are any (their mean), else from the length of
composed prompts of a sample, at four characters a token, and from the picture size, at one token per 28 by 28 pixels;
so before the first answer expect half or twice the figure. Cost: composing the keys of a sample of the pairs (about
0.4 ms each, ``PAIRS`` of them at most) and one look-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from mmret.annotate.answers import BATCH
from mmret.annotate.backends.load import load_annotator
from mmret.annotate.compose import compose, engine_of
from mmret.annotate.protocol import Annotator, Answer, Kind, Request
from mmret.annotate.store import AnswerStore
from mmret.errors import UserError
from mmret.hashing import uniform
from mmret.lake import Lake
from mmret.settings import AnnotateSettings

SAMPLE = 200
"""Requests whose prompts are measured."""
PAIRS = 20_000
"""Pairs of a lake that are looked at; of more, a sample by hash stands for all."""
_CHARACTERS_PER_TOKEN = 4
_PIXELS_PER_TOKEN = 28 * 28
_WORDS_TO_TOKENS = 1.35
_ENOUGH = 50  # requests after which a rate is believed


@dataclass(frozen=True)
class Estimate:
    """Of one kind of request. ``measured``: tokens are means of stored answers, not guesses."""

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

    def times(self, factor: float) -> Estimate:
        """The estimate of ``factor`` times as many pairs."""
        scaled = {name: round(getattr(self, name) * factor) for name in ("requests", "stored", "tokens_in", "tokens_out")}
        return replace(self, **scaled, cost=self.cost * factor)


def estimate_lake(lake: Lake, settings: AnnotateSettings) -> list[Estimate]:
    """One estimate per kind of request for all pairs of the lake, with back-end and prices of ``settings``.

    Raises UserError where no pairs have been mined.
    """
    ready = lake.partitions("pairs")
    total = sum(facts.rows for shard in ready if (facts := lake.facts("pairs", shard)))
    if not total:
        raise UserError(
            f"{lake.root} has no pairs yet, and what they cost to annotate depends on them: run "
            f"`mmret run --lake {lake.root} --dry-run` first, which mines and sends nothing"
        )
    share = min(1.0, PAIRS / total)
    pairs = pa.concat_tables(
        [_some(lake.read("pairs", shard, columns=["pair_id", "query_id", "target_id"]), share) for shard in ready]
    )
    named = pa.array(sorted({i for side in ("query_id", "target_id") for i in pairs[side].to_pylist()}), pa.string())
    images = lake.read("images", columns=["image_id", "caption"], filters=pc.field("image_id").isin(named))
    captions = dict(zip(images["image_id"].to_pylist(), images["caption"].to_pylist(), strict=True))
    store = AnswerStore(lake.root / "answers")
    found = estimate(pairs, captions, load_annotator(settings), settings, store)
    return [each.times(total / pairs.num_rows) for each in found] if pairs.num_rows else found


def _some(pairs: pa.Table, share: float) -> pa.Table:
    if share >= 1:
        return pairs
    return pairs.filter(pa.array([uniform("estimate pairs", i) < share for i in pairs["pair_id"].to_pylist()]))


def known_rate(lake: Lake, kind: Kind, model: str) -> float | None:
    """Requests/s that ``model`` answered in the partition where most were sent to it; None where it has sent too few to tell."""
    table = "instructions" if kind == "instruct" else "descriptions"
    notes = [facts.notes for shard in lake.partitions(table) if (facts := lake.facts(table, shard))]
    sent = [(n.get("requests_sent", 0), n.get("sent_per_second", 0.0)) for n in notes if n.get("model") == model]
    requests, rate = max(sent, default=(0, 0.0))
    return rate if requests >= _ENOUGH and rate else None


def estimate(
    pairs: pa.Table, captions: Mapping[str, str], annotator: Annotator, settings: AnnotateSettings, store: AnswerStore
) -> list[Estimate]:
    """One estimate per kind of request that annotating ``pairs`` would send: two (one in one-step mode), and the judge.

    Instructions are asked from descriptions that are not written yet: their prompts are measured with a text of the
    expected length, and none of them counts as stored unless its description is. ``pairs``: pair_id, query_id,
    target_id.
    """
    kinds: list[Kind] = ["both"] if settings.one_step and annotator.sampled else ["describe", "instruct"]
    if settings.judge and annotator.sampled:
        kinds.append("judge")
    rows = pairs.select(["pair_id", "query_id", "target_id"])
    described: dict[str, str] = {}
    found: list[Estimate] = []
    for kind in kinds:
        stored, answers, sample = 0, [], []
        for start in range(0, rows.num_rows, BATCH):
            asked = [_request(kind, row, captions, settings, described) for row in rows.slice(start, BATCH).to_pylist()]
            known = store.look_up(kind, [annotator.key(r) for r in asked])
            for request in asked:
                answer = known.get(annotator.key(request))
                stored += answer is not None
                if answer is not None and kind == "describe":
                    described[request.pair_id] = " ".join(answer.text.split()).strip('"“” ')
            answers += list(known.values())[: SAMPLE - len(answers)]
            sample += [r for r in asked if uniform("estimate", r.pair_id) < SAMPLE / max(SAMPLE, rows.num_rows)]
        found.append(_estimate(kind, rows.num_rows, stored, answers, sample, annotator, settings))
    return found


def _request(
    kind: Kind,
    row: dict[str, str],
    captions: Mapping[str, str],
    settings: AnnotateSettings,
    described: Mapping[str, str],
) -> Request:
    expected = "word " * (sum(settings.words) // 2)
    return Request(
        kind,
        row["pair_id"],
        row["query_id"],
        row["target_id"],
        captions.get(row["query_id"]) or "",
        captions.get(row["target_id"]) or "",
        described.get(row["pair_id"], expected) if kind == "instruct" else "",
        settings.instructions_per_pair,
        settings.seed,
        instructions=("word " * 10,) * settings.instructions_per_pair if kind == "judge" else (),
    )


def _estimate(
    kind: Kind,
    requests: int,
    stored: int,
    answers: Sequence[Answer],
    sample: Sequence[Request],
    annotator: Annotator,
    settings: AnnotateSettings,
) -> Estimate:
    todo = requests - stored
    if not annotator.sampled:
        return Estimate(kind, requests, stored, 0, 0, 0.0, True)
    engine = engine_of(kind, settings)
    measured = [a for a in answers if a.tokens_in]
    if measured:
        per_in = sum(a.tokens_in for a in measured) / len(measured)
        per_out = sum(a.tokens_out for a in measured) / len(measured)
    else:
        questions = [compose(r, settings) for r in sample]
        characters = sum(len(q.system) + len(q.user) for q in questions) / max(1, len(questions))
        pictures = max((len(q.images) for q in questions), default=0)
        per_in = characters / _CHARACTERS_PER_TOKEN + pictures * engine.image_size**2 / _PIXELS_PER_TOKEN
        words = {
            "describe": sum(settings.words) / 2,
            "instruct": 12 * settings.instructions_per_pair + 10,
            "judge": 12,
            "both": sum(settings.words) / 2 + 12 * settings.instructions_per_pair + 10,
        }[kind]
        per_out = min(words * _WORDS_TO_TOKENS, engine.max_tokens)
    tokens_in, tokens_out = round(todo * per_in), round(todo * per_out)
    cost = annotator.cost(kind, tokens_in, tokens_out)
    return Estimate(kind, requests, stored, tokens_in, tokens_out, cost, bool(measured))
