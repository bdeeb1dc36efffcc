"""Pins of the dry run: it sends nothing, counts what is stored, prices what is not, and believes measured tokens
first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mmret.annotate.backends.base import ModelAnnotator
from mmret.annotate.backends.captions import CaptionsAnnotator
from mmret.annotate.describe import describe
from mmret.annotate.estimate import estimate
from mmret.annotate.instruct import instruct
from mmret.annotate.protocol import Answer, Request
from mmret.annotate.store import AnswerStore
from mmret.hashing import pair_id
from mmret.settings import AnnotateSettings, EngineSettings

IDS = [f"{i:032x}" for i in range(31)]
PAIRS = pa.table({"pair_id": list(map(pair_id, IDS, IDS[1:])), "query_id": IDS[:-1], "target_id": IDS[1:]})


class Counted(ModelAnnotator):
    sent = 0

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for i, request in enumerate(requests):
            self.sent += 1
            text = "Both images show x." if request.kind == "describe" else '["be blue", "make it blue", "now blue"]'
            yield i, Answer(text, "stop", 1000, 50)


def _settings(**changes: Any) -> AnnotateSettings:
    engine = EngineSettings(model="m", price_in=2.0, price_out=10.0)
    return AnnotateSettings(backend="openai", vision=engine, **changes)


def test_before_anything_is_spent_tokens_are_guessed_and_nothing_is_sent(tmp_path: Path) -> None:
    annotator = Counted(_settings())
    describing, instructing = estimate(PAIRS, {}, annotator, annotator.settings, AnswerStore(tmp_path))
    assert annotator.sent == 0
    assert (describing.requests, describing.stored, describing.measured) == (30, 0, False)
    assert 30 * 512 < describing.tokens_in < 30 * 1500 and 30 * 60 < describing.tokens_out < 30 * 200
    assert 30 * 300 < instructing.tokens_in < 30 * 1500
    assert describing.cost == pytest.approx((2 * describing.tokens_in + 10 * describing.tokens_out) / 1e6)
    assert describing.seconds(10) == 3


def test_what_is_stored_costs_nothing_and_its_tokens_are_believed(tmp_path: Path) -> None:
    annotator, store = Counted(_settings()), AnswerStore(tmp_path)
    describe(PAIRS.slice(0, 10), {}, annotator, annotator.settings, store)
    describing, instructing = estimate(PAIRS, {}, annotator, annotator.settings, store)
    assert (describing.stored, describing.measured, describing.tokens_in) == (10, True, 20_000)
    described = describe(PAIRS, {}, annotator, annotator.settings, store)
    instruct(described, PAIRS, {}, annotator, annotator.settings, store)
    assert [(e.stored, e.tokens_in, e.cost) for e in estimate(PAIRS, {}, annotator, annotator.settings, store)] == [
        (30, 0, 0.0),
        (30, 0, 0.0),
    ]


def test_kinds_follow_the_settings(tmp_path: Path) -> None:
    annotator = Counted(_settings(one_step=True, judge=True))
    assert [e.kind for e in estimate(PAIRS, {}, annotator, annotator.settings, AnswerStore(tmp_path))] == [
        "both",
        "judge",
    ]
    free = estimate(PAIRS, {}, CaptionsAnnotator(), AnnotateSettings(), AnswerStore(tmp_path))
    assert [(e.kind, e.cost, e.tokens_in) for e in free] == [("describe", 0.0, 0), ("instruct", 0.0, 0)]
