"""Pins of the answer store: found again byte for byte, the later answer counts, merging changes nothing, several
writers."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import random
import time
from pathlib import Path

import pyarrow as pa
import pytest

from mmret.annotate.merging import READABLE_S, merge_answers
from mmret.annotate.protocol import Answer, request_key
from mmret.annotate.segments import ANSWERS
from mmret.annotate.store import AnswerStore
from mmret.errors import UserError


def _answers(count: int, salt: str = "") -> dict[str, Answer]:
    return {request_key(salt, i): Answer(f"text {salt} {i} \x00 “é猫” \n", "stop", i, 2 * i) for i in range(count)}


def test_what_was_put_in_is_found_by_another_store(tmp_path: Path) -> None:
    stored = _answers(500)
    store = AnswerStore(tmp_path)
    for start in range(0, 500, 50):
        store.append("describe", list(stored)[start : start + 50], list(stored.values())[start : start + 50])
    keys = list(stored) + list(_answers(20, "absent"))
    random.Random(1).shuffle(keys)
    assert AnswerStore(tmp_path).look_up("describe", keys) == stored
    assert AnswerStore(tmp_path).look_up("instruct", keys) == {} == AnswerStore(tmp_path).look_up("describe", [])


def test_merging_keeps_every_answer_and_few_files(tmp_path: Path) -> None:
    store, stored = AnswerStore(tmp_path), _answers(130)
    for key, answer in stored.items():
        store.append("describe", [key], [answer])
    assert len(list((tmp_path / "answers/describe").glob("*.arrow"))) < 30
    assert store.count("describe") == 130 and store.look_up("describe", list(stored)) == stored


def test_without_locks_files_are_merged_by_maintenance_alone_and_can_be_read_for_an_hour(tmp_path, monkeypatch) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.EBADF, "no locks here")  # what NFS says of a lock on a folder

    monkeypatch.setattr(fcntl, "flock", refuse)
    store, stored = AnswerStore(tmp_path), _answers(40)
    for key, answer in stored.items():
        store.append("describe", [key], [answer])
    files = set((tmp_path / "answers/describe").glob("*.arrow"))
    assert len(files) == 40 and store.look_up("describe", list(stored)) == stored
    now = time.time_ns()
    done = merge_answers(store.storage, now)
    assert done == {"answer_files_merged": 40, "answer_files_made": 1, "answer_files_dropped": 0}
    assert files < set((tmp_path / "answers/describe").glob("*.arrow")), "another machine may be reading them"
    assert not any(merge_answers(store.storage, now).values()), "they wait"
    assert merge_answers(store.storage, now + READABLE_S * 10**9 + 10**11)["answer_files_dropped"] == 40
    assert len(list((tmp_path / "answers/describe").glob("*.arrow"))) == 1 and store.look_up("describe", list(stored)) == stored


def test_with_locks_maintenance_leaves_the_answers_of_a_folder_alone(tmp_path: Path) -> None:
    store, stored = AnswerStore(tmp_path), _answers(7)
    for key, answer in stored.items():
        store.append("describe", [key], [answer])
    assert not any(merge_answers(store.storage, time.time_ns() + 10**15).values())
    assert len(list((tmp_path / "answers/describe").glob("*.arrow"))) == 7


def test_keys_with_zero_bytes_are_told_apart(tmp_path: Path) -> None:
    store, keys = AnswerStore(tmp_path), ["00" * 16, "00" * 15 + "01", "01" + "00" * 15, "ff" * 16]
    store.append("describe", keys[:3], [Answer(k) for k in keys[:3]])
    assert {k: a.text for k, a in store.look_up("describe", keys).items()} == {k: k for k in keys[:3]}


def test_the_later_answer_counts_before_and_after_merging(tmp_path: Path) -> None:
    store, key = AnswerStore(tmp_path), request_key("k")
    for i in range(20):
        store.append("describe", [key], [Answer(str(i))])
        assert store.look_up("describe", [key])[key].text == str(i)


def test_a_lone_surrogate_does_not_stop_a_run(tmp_path: Path) -> None:
    AnswerStore(tmp_path).append("describe", [request_key("x")], [Answer("a\ud83d b")])
    assert AnswerStore(tmp_path).look_up("describe", [request_key("x")])[request_key("x")].text == "a? b"


def test_a_half_written_file_is_not_seen_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    store, stored = AnswerStore(tmp_path), _answers(5)
    store.append("describe", list(stored), list(stored.values()))
    (tmp_path / "answers/describe" / ".000000009-ab.arrow.0123456789ab.tmp").write_bytes(b"half")
    assert store.look_up("describe", list(stored)) == stored
    (tmp_path / "answers/describe" / "000000009-ab.arrow").write_bytes(b"ARROW1 nonsense")
    with pytest.raises(UserError, match="000000009-ab.arrow is damaged"):
        store.look_up("describe", list(stored))


def _write(root: Path, salt: str) -> None:
    store = AnswerStore(root)
    for key, answer in _answers(60, salt).items():
        store.append("describe", [key], [answer])


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.starmap(_write, [(tmp_path, s) for s in "abc"])
        pool.close()
        pool.join()  # a worker that is ended by a signal may wait for ever for a lock of another
    wanted = {k: v for s in "abc" for k, v in _answers(60, s).items()}
    assert AnswerStore(tmp_path).look_up("describe", list(wanted)) == wanted


def test_files_of_an_older_version_are_read_merged_and_said_to_be_about_unknown_pictures(tmp_path, monkeypatch):
    store, stored = AnswerStore(tmp_path), _answers(8)
    with monkeypatch.context() as older:
        older.setattr("mmret.annotate.store.ANSWERS", pa.schema(list(ANSWERS)[:6]))
        table = pa.table
        older.setattr(pa, "table", lambda columns, schema: table({n: columns[n] for n in schema.names}, schema=schema))
        for key in list(stored)[:7]:
            store.append("judge", [key], [stored[key]])
    assert store.look_up("judge", list(stored)[:7]) == dict(list(stored.items())[:7])
    new = list(stored)[7]
    store.append("judge", [new], [stored[new]], [("a" * 32, "b" * 32)])
    assert len(list((tmp_path / "answers/judge").glob("*.arrow"))) == 1 and store.look_up("judge", list(stored)) == stored
    assert store.keys_about(pa.array(["b" * 32])) == ({new}, set(stored) - {new})
    assert store.remove([new]) == 1 and set(store.look_up("judge", list(stored))) == set(stored) - {new}
