"""Pins of the answers in an object store: each file is fetched once by a machine, merging takes nothing from a reader, and what
another has stored is not sent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mmret.annotate import answers as answer_module
from mmret.annotate import segments
from mmret.annotate.answers import Stats, get_answers
from mmret.annotate.backends.captions import CaptionsAnnotator
from mmret.annotate.merging import READABLE_S, merge_answers
from mmret.annotate.protocol import Answer, Request, request_key
from mmret.annotate.store import AnswerStore
from tests.annotate.remote import Remote


def _answers(count: int, salt: str = "") -> dict[str, Answer]:
    return {request_key(salt, i): Answer(f"text {salt} {i}", "stop", i, 2 * i) for i in range(count)}


def _stored(store: AnswerStore, answers: dict[str, Answer], files: int) -> None:
    keys, size = list(answers), -(-len(answers) // files)
    for start in range(0, len(keys), size):
        store.append("describe", keys[start : start + size], [answers[k] for k in keys[start : start + size]])


def test_a_machine_fetches_each_file_once_and_its_own_never(tmp_path: Path) -> None:
    writer, reader = Remote(tmp_path / "lake", tmp_path / "a"), Remote(tmp_path / "lake", tmp_path / "b")
    answers = _answers(60)
    _stored(AnswerStore(writer), answers, files=6)
    assert AnswerStore(writer).look_up("describe", list(answers)) == answers and writer.asked["read"] == 0
    for turn in range(3):
        assert AnswerStore(reader).look_up("describe", list(answers)) == answers
        assert (reader.asked["read"], reader.asked["list"]) == (6, turn + 1)


def test_of_a_large_file_only_the_keys_are_fetched_until_an_answer_is_wanted(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(segments, "_SMALL_BYTES", 100)
    answers, other = _answers(50), _answers(50, "other")
    _stored(AnswerStore(Remote(tmp_path / "lake", tmp_path / "a")), answers, files=2)
    storage = Remote(tmp_path / "lake", tmp_path / "b")
    for _ in range(2):
        assert AnswerStore(storage).look_up("describe", list(other)) == {}
        assert (storage.asked["read"], storage.asked["open"]) == (0, 2)
    key = next(iter(answers))
    assert AnswerStore(storage).look_up("describe", [key]) == {key: answers[key]} and storage.asked["read"] == 1


def test_merging_keeps_every_answer_for_whoever_listed_before_and_after(tmp_path: Path) -> None:
    storage = Remote(tmp_path / "lake", tmp_path / "a")
    store, answers = AnswerStore(storage), _answers(90)
    _stored(store, answers, files=30)
    listed, now = store._segments.of("describe"), time.time_ns()
    assert merge_answers(storage, now)["answer_files_made"] == 1
    elsewhere = AnswerStore(Remote(tmp_path / "lake", tmp_path / "b"))
    assert all(elsewhere._segments.table(segment).num_rows == 3 for segment in listed)
    assert elsewhere.look_up("describe", list(answers)) == answers
    assert merge_answers(storage, now + 2 * READABLE_S * 10**9)["answer_files_dropped"] == 30
    fresh = AnswerStore(Remote(tmp_path / "lake", tmp_path / "c"))
    assert fresh.look_up("describe", list(answers)) == answers and fresh.count("describe") == 90
    assert len(list((tmp_path / "a/answers/describe").glob("*.arrow"))) == 1, "copies of what is gone are dropped"


def test_files_that_go_between_listing_and_reading_are_listed_again(tmp_path: Path, monkeypatch) -> None:
    storage = Remote(tmp_path / "lake", tmp_path / "a")
    answers = _answers(40)
    _stored(AnswerStore(storage), answers, files=10)
    reader = AnswerStore(Remote(tmp_path / "lake", tmp_path / "b"))
    listed, merged = reader._segments.of("describe"), []

    def stale(kind: str) -> list[segments.Segment]:
        if merged:
            return segments.CachedSegments.of(reader._segments, kind)
        merged.append(merge_answers(storage, time.time_ns()))
        merged.append(merge_answers(storage, time.time_ns() + 2 * READABLE_S * 10**9))
        return listed

    monkeypatch.setattr(reader._segments, "of", stale)
    assert reader.look_up("describe", list(answers)) == answers and merged[1]["answer_files_dropped"] == 10


def test_a_maintainer_killed_before_its_note_loses_nothing_and_doubles_nothing(tmp_path: Path, monkeypatch) -> None:
    storage = Remote(tmp_path / "lake", tmp_path / "a")
    store, answers = AnswerStore(storage), _answers(40)
    _stored(store, answers, files=10)
    with monkeypatch.context() as killed:
        killed.setattr(storage, "write", lambda key, data: (_ for _ in ()).throw(KeyboardInterrupt) if "merged" in key else
                       Remote.write(storage, key, data))  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            merge_answers(storage, time.time_ns())
    merge_answers(storage, time.time_ns())
    merge_answers(storage, time.time_ns() + 2 * READABLE_S * 10**9)
    assert store.count("describe") == 40 and store.look_up("describe", list(answers)) == answers


def test_a_spoilt_copy_is_fetched_again(tmp_path: Path) -> None:
    storage = Remote(tmp_path / "lake", tmp_path / "a")
    store, answers = AnswerStore(storage), _answers(4)
    _stored(store, answers, files=1)
    copy = next((tmp_path / "a/answers/describe").glob("*.arrow"))
    copy.write_bytes(copy.read_bytes()[:100])
    assert store.look_up("describe", list(answers)) == answers and storage.asked["read"] == 1


def test_forgetting_reaches_files_that_wait_to_be_dropped(tmp_path: Path) -> None:
    storage = Remote(tmp_path / "lake", tmp_path / "a")
    store, answers = AnswerStore(storage), _answers(40)
    _stored(store, answers, files=10)
    merge_answers(storage, time.time_ns())
    gone = list(answers)[:5]
    assert store.remove(gone) == 10  # in the merged file and in those that it stands for
    merge_answers(storage, time.time_ns() + 2 * READABLE_S * 10**9)
    assert set(AnswerStore(Remote(tmp_path / "lake", tmp_path / "b")).look_up("describe", list(answers))) == set(list(answers)[5:])


class _WithAnother(CaptionsAnnotator):
    """Answers in order; before the tenth answer another machine stores ``theirs``."""

    def __init__(self, theirs: AnswerStore, requests: Sequence[Request]):
        self.theirs, self.requests = theirs, requests
        self.sent: list[str] = []

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for i, request in enumerate(requests):
            if self.skip is not None and self.skip(i):
                continue
            if len(self.sent) == 10:
                keys = [self.key(r) for r in self.requests]
                self.theirs.append(request.kind, keys, [Answer(f"theirs {r.pair_id}") for r in self.requests])
            self.sent.append(request.pair_id)
            yield i, Answer(f"ours {request.pair_id}")


def test_what_another_stored_meanwhile_is_sent_no_more_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_module, "OBJECT_STORE_FLUSH_SECONDS", -1.0)  # looks after each answer
    requests = [Request("describe", f"{i:032x}", "q", "t", f"red {i}", f"blue {i}") for i in range(30)]
    theirs, ours = (AnswerStore(Remote(tmp_path / "lake", tmp_path / name)) for name in "ab")
    annotator, stats = _WithAnother(theirs, requests[20:]), Stats()
    got = get_answers(requests, annotator, ours, stats)
    assert [key for key, _ in got] == [annotator.key(r) for r in requests]
    early = set(annotator.sent[:11])  # sent before theirs were there to be found
    assert len(annotator.sent) == len(set(annotator.sent)) and set(annotator.sent) >= {r.pair_id for r in requests[:20]}
    for request, (_, answer) in zip(requests, got, strict=True):
        whose = "ours" if request.pair_id in early or request in requests[:20] else "theirs"
        assert answer.text == f"{whose} {request.pair_id}"
    assert (stats.sent, stats.stored) == (len(annotator.sent), 30 - len(annotator.sent)) and stats.sent < 30


def test_machines_with_the_same_shard_do_not_go_through_it_side_by_side(tmp_path: Path) -> None:
    requests = [Request("describe", f"{i:032x}", "q", "t", f"red {i}", f"blue {i}") for i in range(200)]
    orders = set()
    for name in "abc":
        annotator = _WithAnother(AnswerStore(Remote(tmp_path / name, tmp_path / "s")), [])
        get_answers(requests, annotator, AnswerStore(Remote(tmp_path / name, tmp_path / "s")), Stats())
        orders.add(annotator.sent[0])
        assert len(annotator.sent) == 200
    assert len(orders) > 1
