"""What an object store refuses in the middle is never taken for an object that is not there or is damaged, and what is replaced
while it is read is read again."""

import json
import os
import time
from types import SimpleNamespace

import pyarrow as pa
import pytest

from mmret.annotate.servers import FOLDER, Registered, RegisteredServers, registered
from mmret.errors import UserError
from mmret.lake import Lake, holding
from mmret.lake.data_sets import data_set
from mmret.lake.inputs import read_inputs
from mmret.lake.store_lease import StoreLease, is_held
from mmret.schemas import DESCRIPTIONS, LEAKS, PAIRS
from mmret.storage import StorageUnreachable, open_storage
from mmret.storage.objects import ObjectStorage
from mmret.storage.options import PATIENCE_S, lance_options
from mmret.storage.protocol import ObjectChanged
from tests.storage.stores import in_memory

REFUSED = "s3://tests/lake: the store refuses the credentials"


@pytest.fixture()
def storage(tmp_path, monkeypatch):
    in_memory(monkeypatch, tmp_path)
    return open_storage("s3://tests/lake")


def refusing(*given, **named):
    raise UserError(REFUSED)


@pytest.mark.parametrize("times", [1, 3, 99])
def test_a_partition_that_is_replaced_while_it_is_read_is_read_again_and_never_called_damaged(storage, monkeypatch, times):
    lake = Lake(storage)
    lake.write("leaks", "all", LEAKS.empty_table(), inputs="0" * 16)
    opened, tried = ObjectStorage.open, []

    def replaced(storage, key):
        tried.append(key)
        if len(tried) <= times:
            raise ObjectChanged(f"{key} was replaced while it was read: read it again")
        return opened(storage, key)

    monkeypatch.setattr(ObjectStorage, "open", replaced)
    for read in (
        lambda: lake.facts("leaks", "all").rows,
        lambda: lake.read("leaks").num_rows,
        lambda: lake.head("leaks", "all", 1),
    ):
        tried.clear()
        if times == 99:
            with pytest.raises(ObjectChanged, match="read it again"):
                read()
        else:
            read()
            assert len(tried) == times + 1


@pytest.mark.parametrize("name", ["../stolen", "/stolen", "a/../../stolen", "a//b", "."])
def test_a_published_folder_names_no_place_outside_of_it(storage, tmp_path, name):
    storage.write("f/folder.json", json.dumps({"digest": "0123", "files": {name: {"size": 1, "sha256": "00"}}}).encode())
    for read in (storage.local_folder, storage.has_folder):
        with pytest.raises(UserError, match="folder.json is damaged"):
            read("f")
    storage.write("f/folder.json", b'{"digest": "../../0123", "files": {}}')
    with pytest.raises(UserError, match="folder.json is damaged"):
        storage.local_folder("f")
    assert not list(tmp_path.rglob("stolen"))


def test_a_file_of_a_folder_that_is_not_what_was_published_is_not_given_out(storage):
    with storage.replacing_folder("f") as aside:
        (aside / "weights").write_bytes(b"right")
    storage.write(storage.list("f")[0].key, b"wrong")
    with pytest.raises(UserError, match="weights is not what was published"):
        storage.local_folder("f")


@pytest.mark.parametrize("given_today", [True, False])
def test_a_copy_that_somebody_was_given_today_outlives_its_replacement(storage, given_today):
    def age(path):
        os.utime(path.parent, (time.time() - 2 * 86400,) * 2)

    def publish(text):
        storage.write("a.bin", text)
        with storage.replacing_folder("f") as aside:
            (aside / "x").write_bytes(text)

    publish(b"one")
    before = storage.local("a.bin"), storage.local_folder("f")
    for path in before:
        age(path)
    if given_today:
        assert (storage.local("a.bin"), storage.local_folder("f")) == before
    publish(b"two")
    assert storage.local("a.bin").read_bytes() == (storage.local_folder("f") / "x").read_bytes() == b"two"
    assert [path.exists() for path in before] == [given_today] * 2


def test_refused_credentials_are_not_taken_for_an_absent_or_damaged_object(storage, monkeypatch):
    from mmret.warehouse.object_files import _parsed

    entry = storage.write(f"{FOLDER}/a.json", b"{}") or storage.entry(f"{FOLDER}/a.json")
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStorage, "read_with_token", refusing)
        patch.setattr(ObjectStorage, "open", refusing)
        for read in (
            lambda: read_inputs(Lake(storage), "0" * 16),
            lambda: RegisteredServers(storage).of("m"),
            lambda: _parsed(storage, entry, b"no parquet"),
        ):
            with pytest.raises(UserError, match=f"^{REFUSED}$"):
                read()
    assert RegisteredServers(storage).of("m") == [] and read_inputs(Lake(storage), "0" * 16) is None


def test_a_bucket_that_goes_away_is_told_and_not_taken_for_an_empty_lake(storage, monkeypatch):
    def gone(*given, **named):
        raise FileNotFoundError("Object at location a not found: <Code>NoSuchBucket</Code>")

    storage.__dict__["_store"] = SimpleNamespace(get=gone, put=gone)
    for use in (
        lambda: storage.read_with_token("a"),
        lambda: storage.create("a", b"x"),
        lambda: storage.swap("a", b"x", "t"),
        lambda: storage.update("a", lambda before: b"x"),
    ):
        with pytest.raises(UserError, match="no such bucket"):
            use()


def test_a_lease_that_was_given_back_is_not_renewed_by_a_beat_that_comes_late(storage):
    lease = StoreLease(storage, {"lease": "1", "command": "mmret run", "host": "h", "process": 1, "since": "now"})
    lease.take()
    assert is_held(storage)
    lease.give_back(well=True)
    lease.check()  # what the thread does that was waiting for its turn
    assert not is_held(storage)


def test_sweeping_removes_what_killed_writers_left_on_this_machine_and_copies_that_nobody_asks_for(storage):
    storage.write("t/a.bin", b"x")
    kept, unused = storage.local("t/a.bin"), storage.local("t/a.bin").parents[1] / "0123" / "a.bin"
    unused.parent.mkdir()
    unused.write_bytes(b"y")
    os.utime(unused.parent, (time.time() - 40 * 86400,) * 2)
    left = storage.scratch / "writing" / ".object.0123456789ab.tmp"
    left.mkdir(parents=True)
    (left / "a.parquet").write_bytes(b"half")
    with storage.replacing("t/b.bin") as aside:
        aside.write_bytes(b"z")
        assert storage.sweep() == 1 and aside.exists()
    assert not left.exists() and not unused.exists() and kept.exists() and storage.read("t/b.bin") == b"z"


def test_a_mark_that_cannot_be_removed_does_not_end_the_work_that_it_marked(storage, monkeypatch):
    def lost(*given):
        raise StorageUnreachable("the store cannot be reached")

    with storage.mark("m"), registered(storage, Registered("http://10.0.0.1/v1", ("m",))):
        monkeypatch.setattr(ObjectStorage, "delete", lost)


def test_requests_to_be_forgotten_that_another_machine_noted_meanwhile_stay_noted(storage, monkeypatch):
    lake = Lake(storage)
    lake.write("pairs", "s", pa.Table.from_pylist([{"pair_id": "p", "query_id": "a", "target_id": "b"}], PAIRS), "0" * 16)
    answered = pa.Table.from_pylist([{"pair_id": "p", "request_key": "mine"}], DESCRIPTIONS)
    lake.write("descriptions", "s", answered, "0" * 16)
    storage.write(holding.REQUESTS, b'["theirs"]')
    with monkeypatch.context() as patch:
        patch.setattr(holding, "noted_requests", lambda lake: [])  # as it was before the other one wrote
        assert holding.note_requests(lake, pa.array(["a"])) == 2
    assert json.loads(storage.read(holding.REQUESTS)) == ["mine", "theirs"]


def test_lance_tables_of_prefixes_with_blanks_and_umlauts_are_opened(monkeypatch):
    lance, opened = pytest.importorskip("lance"), []
    monkeypatch.setattr(lance, "dataset", lambda uri, storage_options: opened.append(uri))
    data_set(SimpleNamespace(uri="s3://lakes/mit%20leer%20%C3%BC/lance/images.lance"))
    assert opened == ["s3://lakes/mit leer ü/lance/images.lance"]


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_asked_as_long_as_it_is_said(monkeypatch):
    pytest.importorskip("obstore")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "K")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "S")
    storage, started = open_storage("s3://tests/lake"), time.monotonic()
    storage.__dict__["_store"] = storage._opened(seconds=25)
    with pytest.raises(StorageUnreachable, match="cannot be reached"):
        storage.read("a")
    assert 20 < time.monotonic() - started < 40
    assert lance_options(storage.place)["client_retry_timeout"] == str(PATIENCE_S)
