"""An annotation step tells how far it is while its answers come: rows never fall back, rejects and money are those of its notes."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from mmret.annotate.answers import Stats
from mmret.annotate.describe import describe
from mmret.annotate.instruct import instruct
from mmret.annotate.store import AnswerStore
from mmret.progress import Counts, advance, also_reporting, reporting
from tests.annotate.server import RudeServer, Slow, Status
from tests.annotate.test_openai_server import DESCRIPTION, INSTRUCTIONS, _annotator, _pairs, _settings

PRICES = {"price_in": 1000.0, "price_out": 2000.0}


class Told(list):
    """A reporter that keeps what it is told: (task, done, total, counts)."""

    def __call__(self, task: str, done: int, total: int | None, note: str = "", counts: Counts | None = None) -> None:
        self.append((task, done, total, Counts(dict(counts.rejects), counts.tokens_in, counts.tokens_out, counts.cost)))


def test_rows_rejects_and_money_are_told_while_a_slow_server_answers(tmp_path, monkeypatch):
    monkeypatch.setattr("mmret.annotate.row_progress._EVERY", 0.0)

    def behave(body: dict[str, Any], number: int) -> Any:
        return Slow(0.02, Status(400, "not this one") if number % 10 == 5 else DESCRIPTION)

    told, stats = Told(), Stats()
    with RudeServer(behave) as server:
        settings = _settings(server.url, concurrency=1, **PRICES)
        with reporting(told):
            rows = describe(_pairs(40), {}, _annotator(settings), settings, AnswerStore(tmp_path), stats)
    assert {(task, total) for task, _, total, _ in told} == {("descriptions", 40)}
    done = [d for _, d, _, _ in told]
    assert done == sorted(done) and len(set(done)) == 40 and done[-1] == 40, "an answer at a time, not a batch"
    middle = told[len(told) // 2][3]
    assert middle.rejects == {"http_400": 2} or middle.rejects == {"http_400": 3}
    assert 0 < middle.tokens_in < stats.tokens_in and 0 < middle.cost < stats.cost
    last = told[-1][3]
    failed = [r for r in rows["reason"].to_pylist() if r]
    assert last.rejects == {"http_400": len(failed)} and len(failed) == 4
    assert (last.tokens_in, last.tokens_out, last.cost) == (stats.tokens_in, stats.tokens_out, stats.cost)
    assert last.cost == pytest.approx(36 * (7 * 1000 + 3 * 2000) / 1e6)


def test_a_judged_row_is_done_when_it_is_judged_and_what_no_description_has_is_no_reject_of_this_step(monkeypatch):
    monkeypatch.setattr("mmret.annotate.row_progress._EVERY", 0.0)
    pairs = _pairs(20)
    described = pa.table(
        {
            "pair_id": pairs["pair_id"],
            "text": [DESCRIPTION] * 20,
            "status": ["ok"] * 16 + ["failed"] * 4,
            "reason": pa.array([None] * 16 + ["truncated"] * 4, pa.string()),
        }
    )

    def behave(body: dict[str, Any], number: int) -> Any:
        text = json.dumps(body["messages"])
        return INSTRUCTIONS if "search queries" in text else json.dumps({"fidelity": 5, "discretion": 5})

    told = Told()
    with RudeServer(behave) as server:
        settings = _settings(server.url, concurrency=1, judge=True)
        with reporting(told):
            rows = instruct(described, pairs, {}, _annotator(settings), settings, None)
    done = [d for _, d, _, _ in told]
    assert done == sorted(done) and done[-1] == 20
    assert done[15] == 10, "sixteen questions answered, none judged"
    assert rows["reason"].to_pylist().count("truncated") == 4 and "truncated" not in told[-1][3].rejects


def test_a_reporter_without_counts_hears_of_loops_that_have_none_and_beside_others():
    old, new = [], []
    with reporting(lambda task, done, total, note="": old.append((task, done, total, note))):
        advance("pairs", 1, 2)
        with also_reporting(lambda task, done, total, note="", counts=None: new.append((done, counts))):
            advance("pairs", 2, 2, "end")
        advance("pairs", 0, None)
    assert old == [("pairs", 1, 2, ""), ("pairs", 2, 2, "end"), ("pairs", 0, None, "")] and new == [(2, None)]
    with also_reporting(lambda task, done, total, note="", counts=None: new.append((done, counts))):
        advance("images", 3, None, counts=Counts({"damaged": 1}))
    assert new[-1] == (3, Counts({"damaged": 1}))
