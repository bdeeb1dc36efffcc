"""SQL over a lake in an object store says what it says over a local one, and reads no more than it needs."""

import hashlib
import sys
import threading
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from mmret.errors import UserError
from mmret.lake import Lake, history
from mmret.schemas import DECISIONS, PAIRS, TABLES, TRIPLETS
from mmret.storage import StorageUnreachable
from mmret.warehouse import catalogue_path, connect, open_catalogue
from mmret.warehouse.compare import compare, state_of
from mmret.warehouse.query import ask
from mmret.warehouse.session import Session
from tests.storage.stores import in_memory

pytest.importorskip("obstore", reason="object stores need the extra 'object-store'")

from mmret.warehouse import object_files

ADDRESS = "s3://bucket/lakes/it"


@pytest.fixture
def lake(monkeypatch, tmp_path) -> Lake:
    in_memory(monkeypatch, tmp_path)
    return Lake(ADDRESS)


@pytest.fixture
def fetched(lake, monkeypatch) -> list[tuple[str, int]]:
    """What was asked of the store, and how many bytes came."""
    seen: list[tuple[str, int]] = []
    storage = type(lake.storage)
    for verb in ("read_tail", "read_range", "list", "token"):

        def noted(self, *given, verb=verb, real=getattr(storage, verb), **named):
            found = real(self, *given, **named)
            data = found[1] if verb == "read_tail" else found if verb == "read_range" else b""
            seen.append((verb, len(data)))
            return found

        monkeypatch.setattr(storage, verb, noted)
    return seen


def triplets(shard: str, generation: int, rows: int = 50) -> pa.Table:
    return pa.Table.from_pylist([{"pair_id": f"{shard}-{i}", "split": str(generation)} for i in range(rows)], TRIPLETS)


def generations(connection) -> list[tuple[str, int]]:
    return connection.execute("SELECT split, count(*) FROM triplets GROUP BY ALL ORDER BY ALL").fetchall()


def rows_of(connection, sql: str) -> list[tuple]:
    return [row for batch in ask(connection, sql).batches for row in batch]


def large(lake: Lake, partitions: int = 3, rows: int = 70_000) -> None:
    """``pairs`` of ids that do not compress, some 4 MB a file."""
    for n in range(partitions):
        ids = np.random.default_rng(n).bytes(32 * rows).hex()
        named = [ids[at : at + 32] for at in range(0, 64 * rows, 32)]
        columns = {"pair_id": named[:rows], "query_id": named[rows:], "caption_score": np.arange(rows, dtype=np.float32)}
        columns |= {f.name: pa.nulls(rows, f.type) for f in PAIRS if f.name not in columns}
        lake.write("pairs", f"shard-{n:05d}", pa.table(columns).select(PAIRS.names), "x")
    lake.write("corpus_manifest", "shard-00000", _empty("corpus_manifest"), "x")


def _empty(table: str) -> pa.Table:
    return TABLES[table].empty_table()


def test_it_says_what_the_same_lake_says_in_a_folder(lake, tmp_path):
    local = Lake(tmp_path / "local")
    for each in (lake, local):
        for n, shard in enumerate(("shard-00000", "shard-00001")):
            each.write("triplets", shard, triplets(shard, n), str(n), some="note")
        history.log_run(each, "run-1", 0, {"triplets": 100})
    asked = (
        "SELECT table_name, partition, rows, digest, inputs, notes FROM partitions ORDER BY ALL",
        "SELECT run, computed FROM runs",
        "SELECT pair_id, split, shard FROM triplets_wide ORDER BY ALL",
        "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE comment IS NOT NULL ORDER BY ALL",
    )
    with open_catalogue(lake) as ours, open_catalogue(local) as theirs:
        for sql in asked:
            assert rows_of(ours, sql) == rows_of(theirs, sql)
    assert catalogue_path(lake).is_relative_to(lake.scratch) and not lake.storage.exists("catalogue.duckdb")


def test_its_catalogue_names_addresses_that_other_clients_understand(lake):
    lake.write("triplets", "shard-00000", triplets("a", 1), "x")
    with open_catalogue(lake) as connection:
        view = connection.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'triplets'").fetchone()[0]
    assert f"'{ADDRESS}/history/triplets/shard-00000/" in view


def test_opening_reads_footers_alone_and_a_query_the_ranges_it_needs(lake, fetched):
    large(lake)
    size = sum(entry.size for entry in lake.storage.list("pairs"))
    assert size > 3 * 2**21, "files that DuckDB does not fetch as a whole"
    fetched.clear()
    session = Session(lake)
    connection = session.connection()
    assert sum(n for _, n in fetched) <= 4 * 70 * 1024 and not [n for verb, n in fetched if verb == "read_range"]
    fetched.clear()
    assert rows_of(connection, "SELECT count(*) FROM pairs") == [(210_000,)]
    assert sum(n for _, n in fetched) < 2**18
    fetched.clear()
    assert rows_of(connection, "SELECT max(caption_score + 0) FROM pairs") == [(69_999.0,)]
    assert 0 < sum(n for _, n in fetched) < size / 4


def test_what_was_read_once_is_not_read_again_by_another_process(lake, fetched):
    large(lake)
    sql = "SELECT count(DISTINCT query_id), max(caption_score + 0) FROM pairs"
    once = rows_of(Session(lake).connection(), sql)
    fetched.clear()
    assert rows_of(Session(Lake(ADDRESS)).connection(), sql) == once
    assert not sum(n for _, n in fetched), fetched
    lake.write("pairs", "shard-00001", _empty("pairs"), "y")
    fetched.clear()
    assert rows_of(Session(Lake(ADDRESS)).connection(), "SELECT count(*) FROM pairs") == [(140_000,)]
    assert [verb for verb, _ in fetched].count("read_tail") == 1, "the footer of what changed"


def test_a_reader_open_during_rewrites_sees_only_whole_states(lake):
    shards = ["shard-00000", "shard-00001"]

    def write(generation: int) -> None:
        for shard in shards:
            lake.write("triplets", shard, triplets(shard, generation), str(generation))

    write(0)
    kept_open, done, problems = open_catalogue(lake), threading.Event(), []

    def read() -> None:
        while not done.is_set():
            with connect(lake) as fresh:
                found = generations(fresh)
                if sum(n for _, n in found) != 100 or generations(fresh) != found:
                    problems.append(found)
            if generations(kept_open) != [("0", 100)]:
                problems.append("the reader that stayed open saw another state")

    reader = threading.Thread(target=read)
    reader.start()
    for generation in range(1, 15):
        write(generation)
    done.set()
    reader.join()
    assert not problems, problems[:3]
    assert generations(open_catalogue(lake)) == [("14", 100)]


def test_earlier_states_are_read_and_compared(lake):
    lake.write("triplets", "shard-00000", triplets("a", 1), "1")
    history.log_run(lake, "run-1", 0, {"triplets": 50})
    lake.write("triplets", "shard-00000", triplets("a", 2, rows=60), "2")
    with connect(lake, history.as_of(lake, "run-1")) as connection:
        assert generations(connection) == [("1", 50)]
    change = compare(lake, state_of(lake, "run-1"), state_of(lake, "now"), ("triplets",)).tables[0]
    assert (change.added, change.gone, change.changed, change.columns) == (10, 0, 50, {"split": 50})


def test_decisions_that_grow_are_seen(lake):
    lake.write("triplets", "shard-00000", triplets("a", 1), "1")
    for n in (1, 2):
        row = {"pair_id": "a-1", "decision": "accepted", "note": None, "reviewer": "x", "decided_at": "2026-01-01T00:00:00Z"}
        lake.write("decisions", "mine", pa.Table.from_pylist([row] * n, DECISIONS), "")
        with open_catalogue(lake) as connection:
            assert connection.execute("SELECT count(*) FROM decisions").fetchone() == (n,)


def test_a_store_that_does_not_answer_is_told_in_one_sentence(lake, monkeypatch):
    lake.write("triplets", "shard-00000", triplets("a", 1), "1")
    connection = open_catalogue(lake)

    def silent(*_):
        raise StorageUnreachable(f"{ADDRESS} cannot be reached (refused): see that the server is up")

    monkeypatch.setattr(object_files.Ranges, "read", silent)
    with pytest.raises(StorageUnreachable, match=rf"^{ADDRESS} cannot be reached \(refused\): see that the server is up$"):
        rows_of(connection, "SELECT max(split) FROM triplets")


def test_sql_reads_objects_of_the_lake_by_address_and_no_others(lake):
    lake.write("triplets", "shard-00000", triplets("a", 1), "1")
    connection = open_catalogue(lake)
    assert rows_of(connection, f"SELECT count(*) FROM read_parquet('{ADDRESS}/triplets/*.parquet')") == [(50,)]
    with pytest.raises(UserError, match="SQL reads the objects of this lake only"):
        rows_of(connection, "SELECT * FROM read_parquet('s3://bucket/other.parquet')")
    with pytest.raises(UserError, match="SQL reads and changes nothing|only reads|SELECT"):
        rows_of(connection, f"COPY (SELECT 1) TO '{ADDRESS}/x.parquet'")


def test_a_damaged_partition_is_named(lake):
    lake.storage.write("triplets/shard-00000.parquet", b"PAR1 this is none" * 20)
    with pytest.raises(UserError, match=rf"{ADDRESS}/triplets/shard-00000.parquet is damaged.*delete it and run again"):
        open_catalogue(lake)


def test_ranges_that_nobody_reads_are_removed(lake, monkeypatch):
    lake.storage.write("x", b"0123456789")
    ranges = object_files.Ranges(lake.storage)
    token = lake.storage.token("x")
    assert ranges.read("x", token, 2, 8) == b"234567" and ranges.read("x", token, 3, 5) == b"34"
    lake.storage.delete(["x"])
    assert ranges.read("x", token, 2, 4) == b"23", "kept on this machine"
    with pytest.raises(FileNotFoundError, match="x"):
        ranges.read("x", token, 0, 4)
    monkeypatch.setattr(object_files, "KEPT_FOR_S", -1)
    ranges.tidy()
    assert not [path for path in ranges.folder.iterdir() if path.is_dir()]


def test_a_cache_of_another_version_is_passed_over(lake):
    lake.write("triplets", "shard-00000", triplets("a", 1), "1")
    open_catalogue(lake).close()
    kept = lake.scratch / "footers" / "triplets.json"
    assert kept.is_file()
    for text in ("{", '{"x": 1}', '{"triplets/shard-00000.parquet": {"unknown": 1}}'):
        kept.write_text(text)
        lake.write("triplets", "shard-00000", triplets("a", 2), hashlib.sha256(text.encode()).hexdigest())
        with open_catalogue(lake) as connection:
            assert generations(connection) == [("2", 50)]


def test_a_local_lake_needs_no_object_store(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmret.warehouse.object_files", None)
    local = Lake(Path(tmp_path))
    local.write("triplets", "shard-00000", triplets("a", 1), "1")
    with open_catalogue(local) as connection:
        assert isinstance(connection, duckdb.DuckDBPyConnection) and generations(connection) == [("1", 50)]
