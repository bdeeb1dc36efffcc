"""Catalogue: any client opens it from anywhere while runs write, sees one whole state, and a moved lake has a new one."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from mmret.lake import Lake, history
from mmret.schemas import TABLES, TRIPLETS, column_comment
from mmret.warehouse import build_catalogue, catalogue, catalogue_path, connect, current, open_catalogue
from mmret.warehouse.catalogue import attach


def write(lake: Lake, shard: str, generation: int, rows: int = 50) -> None:
    table = pa.Table.from_pylist([{"pair_id": f"{shard}-{i}", "split": str(generation)} for i in range(rows)], TRIPLETS)
    lake.write("triplets", shard, table, str(generation))


def generations(connection) -> list[tuple[str, int]]:
    return connection.execute("SELECT split, count(*) FROM triplets GROUP BY ALL ORDER BY ALL").fetchall()


def test_another_process_opens_it_from_anywhere(small_lake, tmp_path):
    lake = tmp_path / "it's a lake"
    shutil.copytree(small_lake[0], lake)
    build_catalogue(Lake(lake))
    code = (
        "import duckdb, json, sys; c = duckdb.connect(sys.argv[1], read_only=True);"
        "print(json.dumps({t: c.execute(f'SELECT count(*) FROM {t}').fetchone()[0] for t in sys.argv[2:]}))"
    )
    names = [*TABLES, "embeddings", "triplets_wide", "pairs_wide"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(catalogue_path(Lake(lake))), *names],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    found, rows = json.loads(done.stdout), small_lake[1]["rows"]
    assert {t: found[t] for t in rows} == rows
    assert found["triplets_wide"] == rows["triplets"] and found["pairs_wide"] == rows["pairs"], "the joins multiply nothing"
    assert not list(lake.glob(".*.tmp"))


def test_a_reader_open_during_100_rewrites_sees_only_whole_states(tmp_path):
    lake, done, problems = Lake(tmp_path), threading.Event(), []
    shards = ["shard-00000", "shard-00001"]
    for shard in shards:
        write(lake, shard, 0)
    build_catalogue(lake)
    kept_open, seen = attach(catalogue_path(lake)), set()

    def read() -> None:
        while not done.is_set():
            try:
                if generations(kept_open) != [("0", 100)]:
                    problems.append("the reader that stayed open saw another state")
                with attach(catalogue_path(lake)) as fresh:
                    found = generations(fresh)
                    if len(found) != 1 or found[0][1] != 100 or generations(fresh) != found:
                        problems.append(f"part of a state: {found}")
                    seen.add(found[0][0])
            except duckdb.Error as error:
                problems.append(str(error))
            time.sleep(0.05)

    reader = threading.Thread(target=read)
    reader.start()
    for generation in range(1, 101):
        for shard in shards:
            write(lake, shard, generation)
        build_catalogue(lake)
    done.set()
    reader.join()
    assert not problems, problems[:3]
    assert len(seen) > 3, "the reader was not at work, so the test would show nothing"
    assert generations(open_catalogue(lake)) == [("100", 100)]


def test_it_is_built_again_only_when_the_lake_changed_or_moved(tmp_path):
    lake = Lake(tmp_path / "a")
    write(lake, "shard-00000", 1)
    open_catalogue(lake).close()
    made = catalogue_path(lake).stat()
    open_catalogue(lake).close()
    assert catalogue_path(lake).stat() == made or catalogue_path(lake).stat().st_ino == made.st_ino
    write(lake, "shard-00001", 1)
    with open_catalogue(lake) as connection:
        assert generations(connection) == [("1", 100)]
    shutil.move(tmp_path / "a", tmp_path / "b")
    with open_catalogue(Lake(tmp_path / "b")) as connection:
        assert generations(connection) == [("1", 100)]
        views = connection.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'triplets'").fetchone()[0]
        assert str(tmp_path / "b") in views and str(tmp_path / "a") not in views


def test_a_lake_that_cannot_be_written_to_is_read_in_memory(tmp_path, monkeypatch):
    lake = Lake(tmp_path)
    write(lake, "shard-00000", 1)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("mmret.warehouse.catalogue.build_catalogue", refuse)
    assert generations(open_catalogue(lake)) == [("1", 50)]


def test_a_file_of_before_a_column_was_added_reads_as_null(tmp_path, monkeypatch):
    lake = Lake(tmp_path)
    with monkeypatch.context() as before:
        before.setitem(TABLES, "triplets", pa.schema([f for f in TRIPLETS if f.name != "licence"]))
        lake.write("triplets", "shard-00000", TRIPLETS.empty_table().select(TABLES["triplets"].names), "x")
        lake.write("triplets", "shard-00000", pa.Table.from_pylist([{"pair_id": "a"}], TABLES["triplets"]), "x")
    lake.write("triplets", "shard-00001", pa.Table.from_pylist([{"pair_id": "b", "licence": "MIT"}], TRIPLETS), "x")
    assert connect(lake).execute("SELECT pair_id, licence FROM triplets ORDER BY ALL").fetchall() == [("a", None), ("b", "MIT")]


def test_partitions_and_runs_are_tables(tmp_path):
    lake = Lake(tmp_path)
    write(lake, "shard-00000", 1)
    history.log_run(lake, "run-1", 0, {"triplets": 50})
    with connect(lake) as connection:
        assert connection.execute("SELECT table_name, partition, rows, inputs FROM partitions").fetchall() == [
            ("triplets", "shard-00000", 50, "1")
        ]
        assert connection.execute("SELECT run, computed FROM runs").fetchall() == [("run-1", '{"triplets": 50}')]


def test_every_column_of_every_table_says_what_it_holds(tmp_path):
    lake = Lake(tmp_path)
    write(lake, "shard-00000", 1)
    asked = (
        "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE comment IS NOT NULL ORDER BY table_name, column_index"
    )
    with open_catalogue(lake) as connection:
        found = connection.execute(asked).fetchall()
    assert found == [(t, c, column_comment(t, c)) for t in sorted(TABLES) for c in TABLES[t].names]


def test_views_of_a_checkpoint_s_state_are_those_that_are_kept(tmp_path):
    lake = Lake(tmp_path)
    write(lake, "shard-00000", 1)
    state = history.current_state(lake)
    write(lake, "shard-00000", 2)
    with connect(lake, state) as connection:
        assert generations(connection) == [("1", 50)]
        assert connection.execute("SELECT count(*) FROM triplets_wide").fetchone() == (50,)
        with pytest.raises(duckdb.CatalogException, match="neighbours"):
            connection.execute("SELECT * FROM neighbours")


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Keys of the footers that are read."""
    seen = []

    def noted(storage, key, real=current.read_footer):
        seen.append(key)
        return real(storage, key)

    monkeypatch.setattr(current, "read_footer", noted)
    return seen


def test_after_one_more_partition_its_footer_alone_is_read_and_its_rows_are_seen(tmp_path, read):
    write(Lake(tmp_path), "shard-00000", 1)
    write(Lake(tmp_path), "shard-00001", 1)
    open_catalogue(Lake(tmp_path)).close()
    write(Lake(tmp_path), "shard-00002", 2)
    read.clear()
    current._footer.cache_clear()  # as in a new process
    with open_catalogue(Lake(tmp_path)) as connection:
        assert generations(connection) == [("1", 100), ("2", 50)]
        kept = connection.execute("SELECT * FROM partitions ORDER BY ALL").fetchall()
    assert read == ["triplets/shard-00002.parquet"]
    catalogue_path(Lake(tmp_path)).unlink()
    with open_catalogue(Lake(tmp_path)) as connection:
        assert connection.execute("SELECT * FROM partitions ORDER BY ALL").fetchall() == kept, "as if all had been read"


def test_a_replaced_partition_is_not_taken_for_the_one_before_and_a_removed_one_is_gone(tmp_path, read):
    lake = Lake(tmp_path)
    write(lake, "shard-00000", 1)
    write(lake, "shard-00001", 1)
    open_catalogue(lake).close()
    write(lake, "shard-00000", 2, rows=7)
    lake.remove("triplets", "shard-00001")
    with open_catalogue(lake) as connection:
        assert generations(connection) == [("2", 7)]
        assert connection.execute("SELECT partition, rows FROM partitions").fetchall() == [("shard-00000", 7)]


@pytest.mark.parametrize("made", ["SELECT '' AS signature, '' AS lake", "SELECT 1 AS something"])
def test_a_catalogue_of_an_earlier_version_is_renewed(tmp_path, made):
    lake = Lake(tmp_path)
    write(lake, "shard-00000", 1)
    with duckdb.connect(catalogue_path(lake)) as earlier:
        earlier.execute(f"CREATE TABLE made AS {made}")
        earlier.execute("CREATE VIEW triplets AS SELECT 'old' AS split")
    with open_catalogue(lake) as connection:
        assert generations(connection) == [("1", 50)]
    with attach(catalogue_path(lake)) as connection:
        assert generations(connection) == [("1", 50)]


def test_footers_that_are_known_name_no_version_that_is_gone(tmp_path):
    lake = Lake(tmp_path)
    write(lake, "shard-00000", 1)
    open_catalogue(lake).close()
    shutil.rmtree(tmp_path / "history")
    write(lake, "shard-00001", 1)
    with open_catalogue(Lake(tmp_path)) as connection:
        assert generations(connection) == [("1", 100)]


def contents(lake: Lake) -> list:
    """All that the catalogue on disk says, but how it says it."""
    with attach(catalogue_path(lake)) as connection:
        asked = (
            "SELECT view_name, sql FROM duckdb_views() WHERE database_name = 'lake' ORDER BY ALL",
            "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE database_name = 'lake' ORDER BY ALL",
            "FROM partitions",
            "FROM runs",
            "FROM made",
        )
        return [connection.execute(query).fetchall() for query in asked]


def test_a_catalogue_altered_change_after_change_is_the_one_made_anew_and_does_not_grow(tmp_path):
    lake, embedded = Lake(tmp_path), TABLES["clip_image"]
    write(lake, "shard-00000", 1)
    open_catalogue(lake).close()
    changes = [
        lambda: write(lake, "shard-00002", 2),
        lambda: lake.write("clip_image", "shard-00001", embedded.empty_table(), "x"),
        lambda: write(lake, "shard-00001", 3),
        lambda: history.log_run(lake, "run-1", 0, {"triplets": 50}),
        lambda: lake.remove("triplets", "shard-00002"),
        lambda: write(lake, "shard-00000", 4, rows=7),
        lambda: lake.remove("clip_image", "shard-00001"),
    ]
    for number in range(40):
        changes[number % len(changes)]()
        build_catalogue(lake)
    altered, size = contents(lake), catalogue_path(lake).stat().st_size
    catalogue_path(lake).unlink()
    build_catalogue(lake)
    assert altered == contents(lake)
    assert size <= 2 * catalogue_path(lake).stat().st_size


def test_only_what_belongs_to_tables_that_changed_is_written(tmp_path, monkeypatch):
    lake, written = Lake(tmp_path), []
    write(lake, "shard-00000", 1)
    lake.write("clip_image", "shard-00000", TABLES["clip_image"].empty_table(), "x")
    build_catalogue(lake)
    fill = catalogue.fill
    monkeypatch.setattr(
        catalogue, "fill", lambda c, lake, files, *rest, **how: (written.append(set(files)), fill(c, lake, files, *rest, **how))
    )
    write(lake, "shard-00001", 1)
    build_catalogue(lake)
    shutil.rmtree(tmp_path / "history" / "clip_image")
    build_catalogue(lake)
    assert written == [{"triplets"}, {"clip_image"}], "a view names versions, so one whose versions are gone is made anew"


@pytest.mark.parametrize("damage", [b"", b"no database", None])
def test_a_catalogue_that_cannot_be_altered_is_made_anew(tmp_path, damage):
    lake = Lake(tmp_path)
    write(lake, "shard-00000", 1)
    build_catalogue(lake)
    whole = catalogue_path(lake).read_bytes()
    cut = whole[: len(whole) // 2] + b"\0" * (len(whole) - len(whole) // 2)
    catalogue_path(lake).write_bytes(cut if damage is None else damage)
    write(lake, "shard-00001", 2)
    with open_catalogue(lake) as connection:
        assert generations(connection) == [("1", 50), ("2", 50)]
    assert not list(tmp_path.glob(".*.tmp"))


def test_what_another_process_has_put_there_meanwhile_is_of_no_harm(tmp_path, monkeypatch):
    lake = Lake(tmp_path)
    write(lake, "shard-00000", 1)
    build_catalogue(lake)
    write(lake, "shard-00001", 2)
    fill = catalogue.fill

    def beside(*given, **how):
        monkeypatch.setattr(catalogue, "fill", fill)
        write(lake, "shard-00002", 3)
        build_catalogue(lake)
        fill(*given, **how)

    monkeypatch.setattr(catalogue, "fill", beside)
    build_catalogue(lake)  # of the state before the third shard, and it comes later
    with open_catalogue(lake) as connection:
        assert generations(connection) == [("1", 50), ("2", 50), ("3", 50)]


KILLED = """
import os, sys
from mmret.lake import Lake
from mmret.warehouse import build_catalogue, catalogue
fill = catalogue.fill
def killed(*given, **how):
    fill(*given, **how)
    os.kill(os.getpid(), 9)
catalogue.fill = killed
build_catalogue(Lake(sys.argv[1]))
"""


def test_a_process_killed_while_it_alters_leaves_the_one_before(tmp_path):
    lake = Lake(tmp_path)
    write(lake, "shard-00000", 1)
    build_catalogue(lake)
    before = contents(lake)
    write(lake, "shard-00001", 2)
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)]).returncode == -9
    assert contents(lake) == before
    with open_catalogue(lake) as connection:
        assert generations(connection) == [("1", 50), ("2", 50)]


def test_the_folder_of_the_catalogue_is_the_lake(tmp_path):
    assert catalogue_path(Lake(tmp_path)) == Path(tmp_path) / "catalogue.duckdb"
