"""Pins of the dry run: it sends nothing, counts what is stored, prices what is not, and believes measured tokens
first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from mmret.annotate.backends.base import ModelAnnotator
from mmret.annotate.backends.captions import CaptionsAnnotator
from mmret.annotate.describe import describe
from mmret.annotate.estimate import Estimate, estimate, estimate_lake, requests_per_second
from mmret.annotate.instruct import instruct
from mmret.annotate.kinds import AnnotationTable
from mmret.annotate.protocol import Annotator, Answer, Request
from mmret.annotate.store import AnswerStore
from mmret.errors import UserError
from mmret.hashing import pair_id
from mmret.lake import Lake
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


def both(annotator: Annotator) -> dict[AnnotationTable, Annotator]:
    """The same back-end for both steps."""
    return {"descriptions": annotator, "instructions": annotator}


def test_before_anything_is_spent_tokens_are_guessed_and_nothing_is_sent(tmp_path: Path) -> None:
    annotator = Counted(_settings())
    describing, instructing = estimate(PAIRS, {}, both(annotator), annotator.settings, AnswerStore(tmp_path))
    assert annotator.sent == 0
    assert (describing.requests, describing.stored, describing.measured) == (30, 0, False)
    assert 30 * 512 < describing.tokens_in < 30 * 1500 and 30 * 60 < describing.tokens_out < 30 * 200
    assert 30 * 300 < instructing.tokens_in < 30 * 1500
    assert describing.cost == pytest.approx((2 * describing.tokens_in + 10 * describing.tokens_out) / 1e6)
    assert describing.seconds(10) == 3


def test_what_is_stored_costs_nothing_and_its_tokens_are_believed(tmp_path: Path) -> None:
    annotator, store = Counted(_settings()), AnswerStore(tmp_path)
    describe(PAIRS.slice(0, 10), {}, annotator, annotator.settings, store)
    describing, instructing = estimate(PAIRS, {}, both(annotator), annotator.settings, store)
    assert (describing.stored, describing.measured, describing.tokens_in) == (10, True, 20_000)
    described = describe(PAIRS, {}, annotator, annotator.settings, store)
    instruct(described, PAIRS, {}, annotator, annotator.settings, store)
    assert [(e.stored, e.tokens_in, e.cost) for e in estimate(PAIRS, {}, both(annotator), annotator.settings, store)] == [
        (30, 0, 0.0),
        (30, 0, 0.0),
    ]


def test_kinds_follow_the_settings(tmp_path: Path) -> None:
    annotator = Counted(_settings(one_step=True, judge=True))
    assert [e.kind for e in estimate(PAIRS, {}, both(annotator), annotator.settings, AnswerStore(tmp_path))] == [
        "both",
        "judge",
    ]
    free = estimate(PAIRS, {}, both(CaptionsAnnotator()), AnnotateSettings(), AnswerStore(tmp_path))
    assert [(e.kind, e.cost, e.tokens_in) for e in free] == [("describe", 0.0, 0), ("instruct", 0.0, 0)]


def _guess(tmp_path: Path, kind: str = "describe", **changes: Any) -> Any:
    engine = {"model": "m", **{k: v for k, v in changes.items() if k in EngineSettings.model_fields}}
    rest = {k: v for k, v in changes.items() if k in AnnotateSettings.model_fields}
    settings = AnnotateSettings(backend="openai", vision=EngineSettings(**engine), **rest)
    found = estimate(PAIRS, {}, both(Counted(settings)), settings, AnswerStore(tmp_path))
    return next(each for each in found if each.kind == kind)


def test_a_guess_has_the_texts_and_pictures_that_a_request_will_have(tmp_path: Path) -> None:
    few, many = (_guess(tmp_path, "judge", judge=True, instructions_per_pair=n) for n in (3, 10))
    assert many.tokens_in - few.tokens_in == pytest.approx(30 * 7 * len('"' + "word " * 10 + '", ') / 4, rel=0.02)
    assert many.tokens_out == few.tokens_out == round(30 * 12 * 1.35)
    small, large = (_guess(tmp_path, image_size=side) for side in (280, 560))
    assert large.tokens_in - small.tokens_in == pytest.approx(30 * 2 * (560**2 - 280**2) / 28**2, abs=1)
    blind = [_guess(tmp_path, "instruct", image_size=side).tokens_in for side in (280, 560)]
    assert blind[0] == blind[1]  # no pictures are sent with it
    assert _guess(tmp_path, max_tokens=16).tokens_out == 30 * 16
    short, long = (_guess(tmp_path, "instruct", words=words).tokens_in for words in ((20, 40), (120, 140)))
    assert long - short == pytest.approx(30 * 100 * len("word ") / 4, rel=0.1)


def test_an_estimate_of_more_pairs_is_that_of_a_pair_so_many_times() -> None:
    one = Estimate("describe", requests=10, stored=4, tokens_in=60, tokens_out=30, cost=1.5, measured=True)
    assert one.scale(2.5) == Estimate("describe", 25, 10, 150, 75, 3.75, True)
    assert one.seconds(3.0) == 2.0


class Noted:
    """A lake of which only the notes of partitions are read."""

    def __init__(self, **notes: list[dict[str, Any] | None]):
        self.notes = notes

    def partitions(self, table: str) -> list[int]:
        return list(range(len(self.notes.get(table, ()))))

    def facts(self, table: str, shard: int) -> Any:
        notes = self.notes[table][shard]
        return None if notes is None else SimpleNamespace(notes=notes)


def test_a_rate_is_that_of_the_most_requests_of_the_model_and_of_no_few() -> None:
    def note(sent: int, rate: float, model: str = "m") -> dict[str, Any]:
        return {"requests_sent": sent, "sent_per_second": rate, "model": model}

    lake = Noted(
        descriptions=[note(50, 2.0), None, note(60, 3.0), note(55, 9.0), note(9000, 7.0, "other"), {"model": "m"}],
        instructions=[note(50, 5.0)],
    )
    assert requests_per_second(lake, "describe", "m") == requests_per_second(lake, "both", "m") == 3.0
    assert requests_per_second(lake, "instruct", "m") == 5.0
    assert requests_per_second(lake, "describe", "nobody") is None
    assert requests_per_second(Noted(descriptions=[note(49, 2.0)]), "describe", "m") is None
    assert requests_per_second(Noted(descriptions=[note(50, 0.0)]), "describe", "m") is None


def test_a_lake_without_pairs_is_told_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no pairs yet.*--dry-run"):
        estimate_lake(Lake(tmp_path), _settings())
