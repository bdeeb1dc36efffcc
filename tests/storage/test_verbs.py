"""Every verb of a storage means the same in a local folder and in an object store, also where several use it at once."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmret.storage import open_storage
from mmret.storage.protocol import ObjectChanged
from tests.storage.stores import in_memory

MARK = """
import sys
from mmret.storage import open_storage

with open_storage(sys.argv[1]).mark("m"):
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["local", "objects"])
def storage(request, tmp_path, monkeypatch):
    if request.param == "local":
        return open_storage(tmp_path / "lake")
    in_memory(monkeypatch, tmp_path)
    return open_storage("s3://tests/lake")


def test_opening_and_asking_make_nothing(storage, tmp_path):
    assert not storage.exists("a") and storage.token("a") is None and storage.entry("a") is None
    assert storage.list() == [] == storage.folders() and not storage.has_folder("f") and not storage.is_marked("m")
    assert storage.read_with_token("a") == (None, None)
    for missing in (storage.read, storage.open, storage.local, storage.local_folder):
        with pytest.raises(FileNotFoundError, match=r"o such|a"):
            missing("a")
    storage.delete(["a", "b"])
    storage.delete_below("a")
    assert not list(tmp_path.iterdir())


def test_what_is_written_is_read_listed_copied_and_deleted(storage):
    storage.write("t/a.bin", b"one")
    storage.write("t/below/b.bin", b"two")
    storage.write("t/.hidden", b"x")
    storage.write("u/c.bin", b"three")
    assert storage.read("t/a.bin") == b"one" and storage.exists("t/a.bin") and not storage.exists("t")
    assert [e.key for e in storage.list()] == ["t/a.bin", "t/below/b.bin", "u/c.bin"]
    assert [e.key for e in storage.list("t", below=False)] == ["t/a.bin"] and storage.names("t") == ["a.bin"]
    assert storage.tokens("t") == {"a.bin": storage.token("t/a.bin")} and storage.tokens("none") == {}
    assert storage.folders() == ["t", "u"] and storage.folders("t") == ["below"]
    entry = storage.list("t")[0]
    assert entry == storage.entry("t/a.bin") and entry.size == 3 and entry.token == storage.token("t/a.bin")
    storage.copy("t/a.bin", "v/a.bin")
    storage.write("t/a.bin", b"another")
    assert storage.read("v/a.bin") == b"one" and storage.local("v/a.bin").read_bytes() == b"one"
    storage.delete(["t/a.bin", "t/no-such", "v/a.bin"])
    assert [e.key for e in storage.list()] == ["t/below/b.bin", "u/c.bin"]
    storage.delete_below("t")
    assert "t" not in storage.folders()


def test_a_token_is_another_after_every_replacement_and_a_local_copy_follows(storage):
    seen = set()
    for content in (b"a", b"b", b"c"):
        storage.write("k", content)
        seen.add(storage.token("k"))
        assert storage.local("k").read_bytes() == content
    assert len(seen) == 3


def test_replacing_publishes_whole_content_or_nothing_and_keeps_its_version(storage):
    with storage.replacing("t/p.parquet", "history/t/p/1.parquet") as aside:
        aside.write_bytes(b"first")
        assert not storage.exists("t/p.parquet")
    with pytest.raises(ZeroDivisionError, match="division"), storage.replacing("t/p.parquet", "history/t/p/2.parquet") as aside:
        aside.write_bytes(b"half")
        1 / 0  # noqa: B018
    assert storage.read("t/p.parquet") == b"first" and not storage.exists("history/t/p/2.parquet")
    with storage.replacing("t/p.parquet", "history/t/p/3.parquet") as aside:
        aside.write_bytes(b"third")
    assert storage.read("t/p.parquet") == b"third" == storage.read("history/t/p/3.parquet")
    assert storage.read("history/t/p/1.parquet") == b"first"
    assert storage.sweep() == 0


def test_a_folder_is_published_whole_and_stays_readable_while_it_is_replaced(storage):
    def publish(files):
        with storage.replacing_folder("checkpoints/demo") as folder:
            for name, text in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(text)

    publish({"model.bin": "1", "sub/config.json": "1", "only-old": "1"})
    assert storage.has_folder("checkpoints/demo")
    before = storage.local_folder("checkpoints/demo")
    assert before.name == "demo" and (before / "sub/config.json").read_text() == "1"
    with pytest.raises(ZeroDivisionError, match="division"), storage.replacing_folder("checkpoints/demo") as folder:
        (folder / "model.bin").write_text("half")
        1 / 0  # noqa: B018
    assert (storage.local_folder("checkpoints/demo") / "model.bin").read_text() == "1"
    publish({"model.bin": "2", "sub/config.json": "2"})
    now = storage.local_folder("checkpoints/demo")
    assert sorted(p.relative_to(now).as_posix() for p in now.rglob("*") if p.is_file()) == ["model.bin", "sub/config.json"]
    assert {p.read_text() for p in now.rglob("*") if p.is_file()} == {"2"}
    if not storage.is_local:
        assert (before / "only-old").read_text() == "1", "who reads the folder of before goes on"


def test_of_sixteen_that_create_one_object_one_succeeds(storage):
    start = threading.Barrier(16)

    def create(n):
        start.wait()
        return storage.create("once", str(n).encode())

    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(create, range(16)))
    assert made.count(True) == 1 and storage.read("once") == str(made.index(True)).encode()


def test_four_times_twenty_five_updates_lose_none(storage):
    def add(n):
        for at in range(25):
            storage.update("log", lambda data, line=f"{n}-{at}\n": (data or b"") + line.encode())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    lines = storage.read("log").decode().splitlines()
    assert len(lines) == 100 == len(set(lines))


def test_a_swap_succeeds_only_on_the_content_that_was_read(storage):
    assert storage.swap("k", b"1", None) and not storage.swap("k", b"2", None)
    data, token = storage.read_with_token("k")
    assert data == b"1" and storage.swap("k", b"2", token)
    assert not storage.swap("k", b"3", token) and storage.read("k") == b"2"
    assert not storage.swap("missing", b"4", token) and not storage.exists("missing")


def test_an_opened_file_is_read_in_ranges_and_is_of_one_content(storage, tmp_path):
    rows = pa.table({"n": range(200_000), "s": [str(n) for n in range(200_000)]})
    with storage.replacing("t/p.parquet") as aside:
        pq.write_table(rows, aside, row_group_size=20_000)
    with storage.open("t/p.parquet") as file:
        assert pq.read_table(file, columns=["n"], filters=[("n", "<", 5)])["n"].to_pylist() == list(range(5))
    with storage.open("t/p.parquet") as file:
        opened = pq.ParquetFile(file)
        with storage.replacing("t/p.parquet") as aside:
            pq.write_table(pa.table({"n": [1], "s": [""]}), aside)
        if storage.is_local:
            assert opened.read().num_rows == 200_000
        else:
            with pytest.raises(ObjectChanged, match="was replaced while it was read"):
                opened.read()


def test_a_mark_is_there_while_its_block_runs(storage):
    with storage.mark("marks/a.held"):
        assert storage.is_marked("marks/a.held")
    assert not storage.is_marked("marks/a.held") and storage.list("marks") == []


def test_the_mark_of_a_killed_writer_of_this_machine_dies_with_it(tmp_path):
    storage = open_storage(tmp_path)
    writer = subprocess.Popen([sys.executable, "-c", MARK, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"in\n" and storage.is_marked("m")
    writer.kill()
    writer.wait()
    assert not storage.is_marked("m") and not os.path.exists(tmp_path / "m")


def test_the_mark_of_a_killed_writer_in_an_object_store_dies_of_age(tmp_path, monkeypatch):
    import time

    in_memory(monkeypatch, tmp_path)
    storage = open_storage("s3://tests/lake")
    storage.write("m", str(time.time()).encode())
    assert storage.is_marked("m")
    storage.write("m", str(time.time() - 3600).encode())
    assert not storage.is_marked("m") and not storage.exists("m")


def test_files_of_a_folder_that_somebody_is_still_uploading_are_not_removed_by_another_who_publishes(tmp_path, monkeypatch):
    in_memory(monkeypatch, tmp_path)
    storage = open_storage("s3://tests/lake")
    storage.write("checkpoints/demo/digest-of-a-slow-writer/model.bin", b"half of it")
    with storage.replacing_folder("checkpoints/demo") as folder:
        (folder / "model.bin").write_text("whole")
    assert storage.exists("checkpoints/demo/digest-of-a-slow-writer/model.bin")
    assert json.loads(storage.read("checkpoints/demo/folder.json"))["files"].keys() == {"model.bin"}


def test_an_update_whose_answer_was_lost_is_not_made_twice(tmp_path, monkeypatch):
    in_memory(monkeypatch, tmp_path)
    storage = open_storage("s3://tests/lake")
    swap = type(storage).swap
    monkeypatch.setattr(type(storage), "swap", lambda s, *given: swap(s, *given) and False)
    storage.update("log", lambda data: (data or b"") + b"line\n")
    assert storage.read("log") == b"line\n"
