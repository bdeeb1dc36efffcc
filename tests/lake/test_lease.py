"""Leases: one holder at a time, told by the kernel's locks; who only asks is never in the way; a killed holder is noticed."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pyarrow as pa
import pytest

from mmret.errors import UserError
from mmret.lake import Lake, store_lease
from mmret.lake.lease import exclusive, is_leased

HOLD = """
import sys
from mmret.lake import Lake, store_lease
from mmret.lake.lease import exclusive

with exclusive(Lake(sys.argv[1]), "mmret study"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(lake: Lake) -> subprocess.Popen:
    """Another process that holds the lease until its standard input ends."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(lake.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_holder_is_refused_and_the_lease_is_free_after_the_block(tmp_path):
    lake = Lake(tmp_path / "lake")
    assert not is_leased(lake) and not lake.root.exists(), "asking makes nothing"
    with exclusive(lake) as lease:
        assert not lease.unfinished and is_leased(lake)
        with pytest.raises(UserError, match=r"another `mmret run` \(host .+, since 20.+\) is working on"), exclusive(lake):
            pass
        assert is_leased(lake), "who was refused has not taken the lease away"
    with exclusive(lake) as another:
        assert not another.unfinished and another.id != lease.id
    assert not is_leased(lake)


def test_a_holder_in_another_process_is_named_with_its_command_and_start_and_a_killed_one_is_unfinished(tmp_path):
    lake = Lake(tmp_path)
    process = holder(lake)
    try:
        named = rf"another `mmret study` \(host \S+, process {process.pid}, since 20\d\d-\S+\) is working on"
        assert is_leased(lake)
        with pytest.raises(UserError, match=named), exclusive(lake):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not is_leased(lake), "the kernel has dropped the lock of the killed process"
    with exclusive(lake) as lease:
        assert lease.unfinished


def test_a_holder_that_ends_well_leaves_nothing_unfinished_and_one_that_fails_does(tmp_path):
    lake = Lake(tmp_path)
    process = holder(lake)
    process.communicate(b"")
    with pytest.raises(ZeroDivisionError, match="division"), exclusive(lake) as lease:
        assert not lease.unfinished
        1 / 0  # noqa: B018
    with exclusive(lake) as lease:
        assert lease.unfinished


@pytest.mark.parametrize("left", ["12345", '{"lease": "of a killed run"}', "{"])
def test_whoever_asks_whether_the_lake_is_busy_never_makes_a_start_fail(tmp_path, left):
    """With the text that a killed run left, each question locks the file for a moment."""
    lake, done = Lake(tmp_path), threading.Event()

    def ask() -> None:
        while not done.is_set():
            is_leased(lake)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            (tmp_path / ".run.lock").write_text(left)
            with exclusive(lake) as lease:
                assert lease.unfinished
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_a_shared_lock_is_waited_for_and_not_taken_for_a_holder(tmp_path):
    import fcntl

    lake = Lake(tmp_path)
    with exclusive(lake):
        pass
    with open(tmp_path / ".run.lock") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        threading.Timer(0.3, fcntl.flock, (asking.fileno(), fcntl.LOCK_UN)).start()
        with exclusive(lake) as lease:
            assert not lease.unfinished and is_leased(lake)


def test_liveness_needs_no_process_ids(tmp_path, monkeypatch):
    """The id on record may be anybody's: of another container, or given again."""
    lake = Lake(tmp_path)
    (tmp_path / ".run.lock").write_text(str(os.getpid()))
    assert not is_leased(lake)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("no process is asked"))
    with exclusive(lake) as lease:
        assert lease.unfinished


def test_the_lease_alone_lets_one_drop_lance_files_that_no_version_refers_to(tmp_path):
    lake = Lake(tmp_path)
    assert not hasattr(lake, "recover")
    table = lake.lance("t", pa.schema([("x", pa.int64())]))
    table.add(pa.table({"x": [1]}))
    data = next((tmp_path / "lance" / "t.lance" / "data").iterdir())
    orphan = data.with_name("0000deadbeef.lance")
    orphan.write_bytes(data.read_bytes())
    uncommitted = tmp_path / "lance" / "half.lance" / "data"
    uncommitted.mkdir(parents=True)
    assert not lake.has_lance("half") and lake.has_lance("t")
    with exclusive(lake) as lease:
        assert lease.recover() == 2
    assert not uncommitted.exists() and not orphan.exists() and data.exists() and table.count_rows() == 1
    with pytest.raises(RuntimeError, match="lease is over"):
        lease.recover()


# -- a lake in an object store ----------------------------------------------------------------------------------------


def on_another_machine(monkeypatch, tmp_path, name: str) -> None:
    """What follows looks at lakes in object stores from a machine of its own."""
    monkeypatch.setenv("MMRET_SCRATCH", str(tmp_path / name))
    monkeypatch.setattr(socket, "gethostname", lambda: name)


def long_ago(monkeypatch, storage, by: int) -> None:
    """Let the lease be renewed ``by`` seconds ago by the store's clock, and nothing else."""
    entry = type(storage).entry

    def older(asked, key):
        found = entry(asked, key)
        return found and found._replace(modified_ns=found.modified_ns - by * 10**9 * key.endswith("lease.json"))

    monkeypatch.setattr(type(storage), "entry", older)


def test_a_lease_in_an_object_store_is_seen_from_other_machines_and_given_back(object_lake, tmp_path, monkeypatch):
    with exclusive(object_lake, "mmret study") as lease:
        lease.check()
        on_another_machine(monkeypatch, tmp_path, "second")
        there = Lake(object_lake.address)
        named = rf"another `mmret study` \(host \S+, process {os.getpid()}, since 20\d\d-\S+\) is working on s3://tests/lakes/small"
        with pytest.raises(UserError, match=named), exclusive(there):
            pass
        assert is_leased(there)
    assert not is_leased(there)
    with exclusive(there) as lease:
        assert not lease.unfinished


def test_a_holder_that_was_not_heard_of_is_taken_over_and_notices_before_it_launches_more(object_lake, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"`mmret run` \(host second.*has taken over"), exclusive(object_lake) as lease:
        on_another_machine(monkeypatch, tmp_path, "second")
        there = Lake(object_lake.address)
        with monkeypatch.context() as patch:
            long_ago(patch, there.storage, store_lease.DEAD_AFTER_S - 60)
            with pytest.raises(UserError, match="Had it been killed"), exclusive(there):
                pass
        long_ago(monkeypatch, there.storage, store_lease.DEAD_AFTER_S + 60)
        with exclusive(there) as another:
            assert another.unfinished
            lease.check()
    assert not is_leased(there), "who lost the lease gives back nothing of the other's"


def test_a_killed_holder_on_the_same_machine_is_taken_over_at_once(object_lake):
    lease = exclusive(object_lake)
    held = lease.__enter__()
    held._in_store._ended.set()  # as a kill leaves it: the lease stays, and the kernel drops the lock
    held._lock.close()
    assert is_leased(object_lake)
    with exclusive(object_lake) as after:
        assert after.unfinished and after.id != held.id


def test_one_that_fails_leaves_its_lease_free_and_its_work_unfinished(object_lake, tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError, match="division"), exclusive(object_lake):
        1 / 0  # noqa: B018
    assert not is_leased(object_lake)
    on_another_machine(monkeypatch, tmp_path, "second")
    with exclusive(Lake(object_lake.address)) as lease:
        assert lease.unfinished


def test_of_many_machines_that_start_at_once_one_works(object_lake):
    start, got = threading.Barrier(8), []

    def take(n: int) -> None:
        lease = store_lease.StoreLease(
            object_lake.storage, {"lease": str(n), "command": "c", "host": "h", "process": n, "since": ""}
        )
        start.wait()
        try:
            lease.take()
        except UserError:
            return
        got.append(lease)

    threads = [threading.Thread(target=take, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    got[0].give_back(well=True)


def test_files_of_other_writers_are_never_dropped_in_an_object_store(object_lake, tmp_path):
    table = object_lake.lance("t", pa.schema([("x", pa.int64())]))
    table.add(pa.table({"x": [1]}))
    data = next(tmp_path.rglob("t.lance/data/*"))
    uncommitted = data.with_name("0000deadbeef.lance")
    uncommitted.write_bytes(data.read_bytes())
    with exclusive(object_lake) as lease:
        assert lease.recover() == 0
    assert uncommitted.exists()
