"""Writing aside and renaming: whole or not at all, what a crash left goes, what is being written stays, whoever writes it."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mmret.atomic import (
    is_locked,
    lock_file,
    lock_unless_used,
    remove_abandoned,
    replacing,
    replacing_folder,
    temporary,
    write_text,
)

WRITER = """
import sys, time
from pathlib import Path
from mmret.atomic import replacing, replacing_folder
with replacing(Path(sys.argv[1]) / "file") as file, replacing_folder(Path(sys.argv[1]) / "folder") as folder:
    file.write_text("half")
    (folder / "part").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def left_behind(folder: Path) -> list[Path]:
    return list(folder.glob(".*.tmp"))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    out = tmp_path / "new" / "out"
    with replacing(out) as aside:
        aside.write_text("old")
        assert not out.exists()
    with pytest.raises(RuntimeError, match="^disk$"), replacing(out) as aside:
        aside.write_text("half")
        raise RuntimeError("disk")
    assert out.read_text() == "old" and not left_behind(out.parent)


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    with replacing_folder(out) as aside:
        (aside / "a").write_text("old")
    with pytest.raises(RuntimeError, match="^disk$"), replacing_folder(out) as aside:
        (aside / "a").write_text("half")
        raise RuntimeError("disk")
    assert (out / "a").read_text() == "old"
    with replacing_folder(out) as aside:
        (aside / "b").write_text("new")
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "b"]


def test_a_sweep_spares_what_another_process_writes_and_takes_what_it_leaves_when_killed(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "writing\n"
        assert remove_abandoned(tmp_path.rglob(".*.tmp")) == 0 and len(left_behind(tmp_path)) == 2
    finally:
        writer.kill()
        writer.wait()
    assert remove_abandoned(tmp_path.rglob(".*.tmp")) == 2 and not left_behind(tmp_path)


def test_a_sweep_asks_for_no_process_id(tmp_path, monkeypatch):
    """Of another container's process there is no /proc entry here, and a process id of a dead one may be anybody's."""
    monkeypatch.setattr("os.getpid", lambda: pytest.fail("a process id was asked for"))
    with replacing(tmp_path / "out") as aside:
        assert remove_abandoned(iter([aside])) == 0
        aside.write_text("whole")
    assert (tmp_path / "out").read_text() == "whole"


def test_files_that_an_earlier_version_left_go_too(tmp_path):
    (tmp_path / ".demo.parquet.1-abcd1234.tmp").write_text("half")  # process 1 always lives
    assert remove_abandoned(tmp_path.glob(".*.tmp")) == 1


def test_eight_writers_beside_a_sweep_lose_nothing(tmp_path):
    stop, failures = threading.Event(), []

    def sweep() -> None:
        while not stop.is_set():
            remove_abandoned(tmp_path.glob(".*.tmp"))

    def write(number: int) -> None:
        try:
            for turn in range(25):
                with replacing(tmp_path / f"{number}") as aside:
                    aside.write_text(str(turn))
        except OSError as error:
            failures.append(error)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    writers = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    sweeper.join()
    assert not failures and [(tmp_path / f"{n}").read_text() for n in range(8)] == ["24"] * 8


def test_a_mark_is_held_as_long_as_its_block_and_no_longer(tmp_path):
    mark = tmp_path / "state.held"
    with lock_file(mark):
        assert is_locked(mark)
    assert not mark.exists() and not is_locked(mark)
    mark.touch()  # of a process that was killed
    assert not is_locked(mark) and not mark.exists()


def test_where_locks_do_not_work_age_decides(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError("not supported")

    monkeypatch.setattr("fcntl.flock", refused)
    new, old = temporary(tmp_path / "new"), temporary(tmp_path / "old")
    new.touch()
    old.touch()
    written = new.stat().st_mtime
    monkeypatch.setattr(time, "time", lambda: written + 60)
    assert remove_abandoned(tmp_path.glob(".*.tmp")) == 0
    monkeypatch.setattr(time, "time", lambda: written + 25 * 3600)
    assert remove_abandoned(tmp_path.glob(".*.tmp")) == 2


def test_a_folder_that_is_renamed_before_it_is_locked_is_somebody_else_s(tmp_path, monkeypatch):
    """A writer that ends between the two has put it in its place: what is locked is the finished folder."""
    import fcntl

    partial, lock = tmp_path / "partial", fcntl.flock
    partial.mkdir()

    def late(*arguments):
        partial.rename(tmp_path / "out")
        lock(*arguments)

    with lock_unless_used(partial) as used:
        assert not used
    monkeypatch.setattr("fcntl.flock", late)
    with lock_unless_used(partial) as used:
        assert used


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "whole")
    reader.join(10)
    assert got == ["whole"] and pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


@pytest.mark.parametrize("had", [False, True])
def test_of_two_that_replace_a_folder_at_once_one_comes_after_the_other(tmp_path, monkeypatch, had):
    out = tmp_path / "out"
    if had:
        out.mkdir()
    replace, others = os.replace, iter(["theirs"])

    def meanwhile(source, target):
        if (name := next(others, None)) is not None:  # between looking and renaming
            if had:
                out.rmdir()
            out.mkdir(exist_ok=True)
            (out / name).write_text("")
            if had:
                raise FileNotFoundError(errno.ENOENT, "gone", str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", meanwhile)
    with replacing_folder(out) as aside:
        (aside / "ours").write_text("")
    assert [path.name for path in out.iterdir()] == ["ours"] and [path.name for path in tmp_path.iterdir()] == ["out"]
