"""Pins of failed requests over several runs: a partition with unanswered rows is not current, a later run sends those requests
and no others, and what is refused for good, or every time, is not sent for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from mmret.annotate.retry import needs_retry, retry_notes, unanswered
from mmret.freshness import fingerprints, survey
from mmret.schemas import DESCRIPTIONS
from tests.annotate.annotation_run import SHARD, AnnotationRun
from tests.annotate.server import Status
from tests.annotate.test_openai_server import _answer, _nobody


def _failing(act: Any, share: int = 10) -> Callable[[dict[str, Any], int], Any]:
    """``act`` for one request in ``share``, always the same ones, whatever the stage."""
    return lambda body, number: act if body["seed"] % share == 0 else _answer(body)


def test_a_later_run_sends_what_failed_and_nothing_else(annotation: AnnotationRun, reference: AnnotationRun) -> None:
    pairs = annotation.lake.facts("pairs", SHARD).rows
    assert reference.run() == (2 * pairs, 2 * pairs)
    annotation.run(_failing(Status(500)))
    failed = int(sum(unanswered(annotation.lake.read("descriptions", SHARD)).to_pylist()))
    silent = int(sum(unanswered(annotation.lake.read("instructions", SHARD)).to_pylist()))
    assert failed
    assert fingerprints.current_facts(annotation.lake, annotation.profile("http://any"), "descriptions", SHARD) is None
    told = {(s.table, s.partition): s for s in survey.survey(annotation.lake, annotation.profile("http://any"))}
    assert f"{failed:,} requests got no answer" in told["descriptions", SHARD].reasons
    sent, rows = annotation.run()
    assert sent == failed + silent + failed  # those described now are instructed for the first time
    assert rows == failed + pairs
    assert annotation.tables() == reference.tables()
    assert annotation.run() == (0, 0)


def test_nothing_by_itself_asks_again_so_soon(annotation: AnnotationRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sensor looks every half minute: a server that is down for ten must not use up the attempts, nor fill the history."""
    annotation.run(_failing(Status(500)))
    profile = annotation.profile("http://any")

    def work() -> list[str]:
        return [t for w in survey.due(survey.survey(annotation.lake, profile)) if w.partition == SHARD for t in w.tables]

    assert "descriptions" not in work() and "triplets" in work()  # what was written goes on
    monkeypatch.setattr(survey, "RETRY_SECONDS", 0)
    assert "descriptions" in work()


def test_what_fails_every_time_is_left_after_so_many_runs(annotation: AnnotationRun) -> None:
    always = _failing(Status(500), 7)
    annotation.run(always)
    sent = [annotation.run(always)[0] for _ in range(4)]
    assert sent[0] > 0 and sent[0] == sent[1] and sent[2:] == [0, 0]
    assert annotation.lake.facts("descriptions", SHARD).notes["retries"] == 2
    raised = annotation.profile("http://any", retries=3)
    assert fingerprints.current_facts(annotation.lake, raised, "descriptions", SHARD) is None


def test_what_is_refused_for_good_is_not_sent_again_with_what_is_retried(annotation: AnnotationRun) -> None:
    def refusing(body: dict[str, Any], number: int) -> Any:
        return Status(400) if body["seed"] % 10 == 1 else Status(503) if body["seed"] % 10 == 2 else _answer(body)

    annotation.run(refusing)
    reasons = annotation.lake.facts("descriptions", SHARD).notes["reasons"]
    assert reasons["http_400"] and reasons["http_503"]
    seeds: list[int] = []
    annotation.run(lambda body, number: seeds.append(body["seed"]) or _answer(body))
    assert seeds and not [s for s in seeds if s % 10 == 1]
    assert annotation.lake.facts("descriptions", SHARD).notes["reasons"] == {"http_400": reasons["http_400"]}
    assert annotation.run() == (0, 0)


def test_a_server_that_is_not_there_costs_no_attempt(annotation: AnnotationRun) -> None:
    with pytest.raises(dg.Failure, match="unreachable"):
        annotation.annotate(annotation.profile(_nobody(), patience=0.8))
    annotation.run(_failing(Status(503), 3))
    for _ in range(3):
        annotation.annotate(annotation.profile(_nobody(), patience=0.8))
    notes = annotation.lake.facts("descriptions", SHARD).notes
    assert set(notes["reasons"]) == {"unreachable"} and notes["retries"] == 0
    annotation.run()
    assert annotation.lake.facts("instructions", SHARD).notes["reasons"] == {} and annotation.run() == (0, 0)


def _rows(*reasons: str | None) -> pa.Table:
    rows = [{"pair_id": str(i), "request_key": "k", "status": "failed" if r else "ok", "reason": r} for i, r in enumerate(reasons)]
    return pa.Table.from_pylist(rows, DESCRIPTIONS)


def test_only_transport_trouble_counts_as_unanswered() -> None:
    passing, lasting = ["timeout", "http_503", "judge_connection"], ["http_400", "refusal", "image_gone", "prompt_refused"]
    rows = _rows(None, *passing, *lasting)
    assert unanswered(rows).to_pylist() == [False] + [True] * 3 + [False] * 4
    carried = rows.set_column(1, "request_key", pa.array([None] * len(rows), pa.string()))
    assert not any(unanswered(carried).to_pylist())


def test_retries_are_counted_where_nothing_heals_and_somebody_answered() -> None:
    assert retry_notes(_rows("timeout", "timeout"), None) == {"unanswered": 2, "retries": 0}
    assert retry_notes(_rows("timeout", "timeout"), {"unanswered": 2, "retries": 1}) == {"unanswered": 2, "retries": 2}
    assert retry_notes(_rows("timeout", None), {"unanswered": 2, "retries": 1}) == {"unanswered": 1, "retries": 0}
    assert retry_notes(_rows("unreachable"), {"unanswered": 1, "retries": 1}) == {"unanswered": 1, "retries": 1}
    assert not needs_retry({"unanswered": 1, "retries": 2}, 2) and needs_retry({"unanswered": 1, "retries": 1}, 2)
    assert not needs_retry({}, 2)  # what an earlier version wrote
