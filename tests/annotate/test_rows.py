"""Pins of the stages: every pair is a row, a request is sent once, a changed prompt or parser redoes only what it
changes, and the tables do not depend on batches, order or crashes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from mmret.annotate import answers as answer_module
from mmret.annotate import rows as row_module
from mmret.annotate.answers import Stats
from mmret.annotate.backends.captions import CaptionsAnnotator
from mmret.annotate.describe import describe
from mmret.annotate.instruct import instruct
from mmret.annotate.protocol import Answer, Request
from mmret.annotate.store import AnswerStore
from mmret.hashing import pair_id
from mmret.schemas import DESCRIPTIONS, INSTRUCTIONS
from mmret.settings import AnnotateSettings

SETTINGS = AnnotateSettings()
TONES = ["light", "medium-light", "medium", "medium-dark", "dark"]
CAPTIONS = {
    f"{i:032x}": f"person {verb}: {tone} skin tone"
    for i, (verb, tone) in enumerate((v, t) for v in ["walking", "running", "kneeling"] for t in TONES)
}
CAPTIONS |= {"e" * 32: "", "d" * 32: "Person walking: light skin tone."}


def _pairs() -> pa.Table:
    ids = sorted(CAPTIONS)
    rows = [(pair_id(a, b), a, b) for a in ids for b in ids if a != b]
    rows.append((pair_id("0" * 32, "f" * 32), "0" * 32, "f" * 32))  # a caption that is nowhere
    return pa.table(dict(zip(("pair_id", "query_id", "target_id"), map(list, zip(*rows, strict=True)), strict=True)))


class Counting(CaptionsAnnotator):
    """Counts what is asked; breaks off after ``limit`` answers."""

    def __init__(self, version: str = "1", limit: int | None = None):
        self.asked: list[Request] = []
        self.version, self.limit = version, limit

    def prompt_version(self, kind: str) -> str:
        return super().prompt_version(kind) if self.version == "1" or kind == "describe" else f"{kind}.{self.version}"

    def key(self, request: Request) -> str:
        key = super().key(request)
        return key if self.version == "1" or request.kind == "describe" else key[::-1]

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for i, answer in super().answers(requests):
            if self.limit is not None and len(self.asked) >= self.limit:
                raise KeyboardInterrupt
            self.asked.append(requests[i])
            yield i, answer


def _run(annotator: CaptionsAnnotator, store: AnswerStore | None, pairs: pa.Table | None = None) -> tuple[pa.Table, pa.Table]:
    pairs = _pairs() if pairs is None else pairs
    described = describe(pairs, CAPTIONS, annotator, SETTINGS, store)
    return described, instruct(described, pairs, CAPTIONS, annotator, SETTINGS, store)


def test_every_pair_is_a_row_with_a_status(tmp_path: Path) -> None:
    described, instructed = _run(CaptionsAnnotator(), AnswerStore(tmp_path))
    ids = sorted(_pairs()["pair_id"].to_pylist())
    for table, schema in ((described, DESCRIPTIONS), (instructed, INSTRUCTIONS)):
        assert table.schema.equals(schema) and table["pair_id"].to_pylist() == ids
        reasons = {row["pair_id"]: (row["status"], row["reason"]) for row in table.to_pylist()}
        assert reasons[pair_id("0" * 32, "d" * 32)] == ("failed", "identical_captions")
        assert reasons[pair_id("0" * 32, "e" * 32)] == reasons[pair_id("0" * 32, "f" * 32)] == ("failed", "no_caption")
        assert reasons[pair_id("0" * 32, f"{1:032x}")] == ("ok", None)
    assert all(
        len(t) == 3 for t, s in zip(instructed["texts"].to_pylist(), instructed["status"].to_pylist(), strict=True) if s == "ok"
    )


def test_second_run_asks_nothing(tmp_path: Path) -> None:
    first = _run(CaptionsAnnotator(), AnswerStore(tmp_path))
    again = Counting()
    assert _run(again, AnswerStore(tmp_path)) == first and not again.asked


def test_changed_instruction_prompt_leaves_descriptions_alone(tmp_path: Path) -> None:
    described, _ = _run(CaptionsAnnotator(), AnswerStore(tmp_path))
    changed = Counting("2")
    redescribed, instructed = _run(changed, AnswerStore(tmp_path))
    assert redescribed == described and {r.kind for r in changed.asked} == {"instruct"}
    assert set(instructed["prompt_version"].to_pylist()) == {"instruct.2"}


def test_changed_parser_reads_stored_answers_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(CaptionsAnnotator(), AnswerStore(tmp_path))
    monkeypatch.setattr(row_module, "parser_version", lambda uses_model: "other")
    again = Counting()
    described, instructed = _run(again, AnswerStore(tmp_path))
    assert not again.asked
    assert set(described["parser_version"].to_pylist() + instructed["parser_version"].to_pylist()) == {"other"}


def test_requests_go_out_by_query_image() -> None:
    counting = Counting()
    _run(counting, None, _pairs().take(pa.array(range(99, -1, -1))))
    queries = [r.query_id for r in counting.asked if r.kind == "describe"]
    assert queries == sorted(queries)


def test_rows_do_not_depend_on_batches_or_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = _run(CaptionsAnnotator(), None)
    monkeypatch.setattr(row_module, "BATCH", 7)
    monkeypatch.setattr(answer_module, "FLUSH_ROWS", 3)
    assert _run(CaptionsAnnotator(), AnswerStore(tmp_path), _pairs().sort_by([("target_id", "descending")])) == first


def test_a_run_broken_off_loses_no_stored_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_module, "FLUSH_ROWS", 10)
    whole, broken, rest = _run(CaptionsAnnotator(), None), Counting(limit=55), Counting()
    with pytest.raises(KeyboardInterrupt):
        _run(broken, AnswerStore(tmp_path))
    assert _run(rest, AnswerStore(tmp_path)) == whole
    assert not {r for r in broken.asked if r.kind == "describe"} & set(rest.asked)


def test_a_transport_error_is_a_failed_row_and_is_asked_again(tmp_path: Path) -> None:
    class Down(CaptionsAnnotator):
        def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
            for i, answer in super().answers(requests):
                yield i, Answer(error="timeout") if i % 3 == 0 else answer

    stats = Stats()
    described = describe(_pairs(), CAPTIONS, Down(), SETTINGS, AnswerStore(tmp_path), stats)
    assert stats.reasons["timeout"] == sum(r == "timeout" for r in described["reason"].to_pylist()) > 50
    again = Counting()
    assert _run(again, AnswerStore(tmp_path)) == _run(CaptionsAnnotator(), None)
    assert 0 < len([r for r in again.asked if r.kind == "describe"]) < described.num_rows / 2


def test_a_back_end_that_forgets_a_request_still_gives_a_row() -> None:
    class Forgetful(CaptionsAnnotator):
        def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
            yield from list(super().answers(requests))[1:]

    described = describe(_pairs(), CAPTIONS, Forgetful(), SETTINGS, None)
    assert described["reason"].to_pylist().count("no_answer") >= 1 and described.num_rows == _pairs().num_rows


def test_no_pairs_no_rows() -> None:
    assert [t.num_rows for t in _run(CaptionsAnnotator(), None, _pairs().slice(0, 0))] == [0, 0]
