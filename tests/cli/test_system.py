"""What the system does to a command, as a user sees it: one sentence, an exit code, no traceback, whatever the terminal."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.schemas import TRIPLETS
from mmret.stages import FINGERPRINTED_STAGES
from mmret.system_errors import explain
from tests.cli.test_commands import call
from tests.freshness.empty_tables import SHARDS, compute, seal
from tests.small_runs import TINY, first

SETTINGS = [part for s in TINY for part in ("--set", s)]


def mmret(*arguments: object, limits: dict[int, int] | None = None, **environment: str) -> subprocess.CompletedProcess:
    def bound() -> None:
        for which, most in (limits or {}).items():
            resource.setrlimit(which, (most, most))

    return subprocess.run(
        [sys.executable, "-m", "mmret", *map(str, arguments)],
        capture_output=True, env=os.environ | environment, timeout=250, preexec_fn=bound,
    )  # fmt: skip


def one_sentence(done: subprocess.CompletedProcess, *said: str) -> None:
    told = done.stderr.decode()
    assert done.returncode == 2, told
    assert "Traceback" not in told and all(part in told for part in said), told
    assert sum(line.startswith("error: ") for line in told.splitlines()) == 1, told


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Path:
    """Every table, all but one without a row."""
    lake = Lake(tmp_path_factory.mktemp("tables") / "lake")
    seal(lake, SHARDS[0])
    for name, stage in FINGERPRINTED_STAGES.items():
        for partition in {"shard": SHARDS[:1], "whole": ["all"], "recipe": ["demo"]}[stage.partitions]:
            compute(lake, name, partition)
    rows = [{name: f"{name} {n * n}" for name in TRIPLETS.names if TRIPLETS.field(name).type == pa.string()} for n in range(500)]
    lake.write("triplets", SHARDS[0], pa.Table.from_pylist(rows, TRIPLETS), "of rows")
    return lake.root


def test_a_file_where_the_lake_s_folder_is_expected(tmp_path):
    (tmp_path / "file").write_text("")
    stands = "a file stands where a folder is expected"
    for place, said in ((tmp_path / "file", stands), (tmp_path / "file" / "lake", stands), (tmp_path / ("x" * 300), "too long")):
        with pytest.raises(OSError, match="File exists|Not a directory|too long") as refused:
            call("run", "--lake", place, "--images", "shapes:20")
        assert explain(refused.value).startswith(f"{place}") and said in explain(refused.value)


def test_files_that_may_not_grow_stop_a_run_with_a_sentence_and_nothing_half_made_stays(tmp_path):
    command = first(tmp_path / "lake", "shapes:40?seed=3")[3:]
    one_sentence(mmret(*command, limits={resource.RLIMIT_FSIZE: 20_000}), "again")
    assert not [p for p in (tmp_path / "lake").rglob("*.parquet") if p.stat().st_size == 0]


def test_the_debug_way_shows_the_place_and_a_fault_of_the_code_keeps_its_traceback(tmp_path):
    (tmp_path / "file").write_text("")
    shown = mmret("sql", "--lake", tmp_path / "file", "SELECT 1", MMRET_TRACEBACK="1")
    assert shown.returncode == 2 and b"Traceback" in shown.stderr and b"error: " in shown.stderr
    fault = "from mmret.cli.command import run_application\nrun_application(lambda: {}['x'])"
    assert b"KeyError" in subprocess.run([sys.executable, "-c", fault], capture_output=True).stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profile: [demo", "is no YAML"), ("- a\n- b\n", "does not hold"), ("profile: demo\nsources: a\n", "does not hold"),
        ("profile: demo\nformat: 9\n", "format"), (b"\xff\xfe\x00", "damaged"),
    ],
)  # fmt: skip
def test_a_damaged_or_newer_lake_yaml_is_named(tmp_path, text, said):
    (tmp_path / "lake.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f"lake.yaml.*{said}"):
        call("run", "--lake", tmp_path)


def test_a_damaged_table_is_named_and_a_table_of_a_newer_version_too(lake, tmp_path):
    copy = Lake(tmp_path / "lake")
    for part in ("corpus_manifest", "triplets"):
        shutil.copytree(lake / part, copy.root / part)
    path = copy.path("triplets", copy.shards()[0])
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], whole[:300] + bytes(2000) + whole[2300:]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=f"{path.name} is damaged"):
            copy.read("triplets")
    path.write_bytes(whole)
    rows = pq.read_table(path)
    pq.write_table(rows.append_column("from_the_future", pa.nulls(rows.num_rows, pa.int32())), path)
    with pytest.raises(UserError, match="from_the_future.*newer"):
        copy.read("triplets")


SQL = [
    "SELECT 1 AS n, 2 AS n, 3 AS n_1", "SELECT 'nan'::FLOAT AS x, '-inf'::DOUBLE AS y, [1.5, 'nan'::FLOAT] AS l",
    "SELECT DATE '2026-01-31' AS d, 1.10::DECIMAL(4,2) AS e, BLOB '\\xFF\\x00' AS b, MAP {1: 'a'} AS m, {'k': 1} AS s, uuid() AS u",
    "SELECT 170141183460469231731687303715884105727::HUGEINT AS h, INTERVAL 1 DAY AS i, NULL AS z, 'é→' AS t",
]  # fmt: skip


def test_rows_are_strict_json_on_every_terminal(lake):
    done = mmret("sql", "--lake", lake, "--json", " UNION ALL BY NAME ".join(SQL[1:]), PYTHONIOENCODING="ascii")
    refuse = lambda name: pytest.fail(f"{name} is not JSON")  # noqa: E731
    rows = json.loads(done.stdout.decode("ascii"), parse_constant=refuse)
    assert rows[0]["x"] is rows[0]["y"] is None and rows[0]["l"] == [1.5, None] and b"3 numbers" in done.stderr
    assert rows[1]["e"] == "1.10" and rows[1]["b"] == "ff00" and rows[1]["m"] == {"1": "a"} and rows[2]["t"] == "é→"


def test_columns_of_equal_names_are_told_apart(lake):
    named = call("sql", "--lake", lake, "--json", SQL[0]).stdout
    assert json.loads(named, object_pairs_hook=list) == [[("n", 1), ("n_2", 2), ("n_1", 3)]]


@pytest.mark.parametrize(
    "query",
    ["", "   ", ";", "/* nothing */", "SELECT 1; SELECT 2", "COPY pairs TO 'x.csv'", "EXPLAIN ANALYZE COPY pairs TO 'x.csv'",
     "ATTACH 'x.db'", "INSTALL httpfs", "EXPORT DATABASE 'x'", "CREATE TABLE x AS SELECT 1", "SELECT error('stop')", "SELEC 1",
     "SELECT \udcff", "PIVOT pairs ON status"],
)  # fmt: skip
def test_sql_reads_one_statement_and_says_so_else(lake, query, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="^SQL: .+"):
        call("sql", "--lake", lake, query)
    assert not list(tmp_path.iterdir())
    assert call("sql", "--lake", lake, "EXPLAIN ANALYZE SELECT 1").exit_code == 0


def test_a_reader_that_goes_away_and_a_terminal_without_letters_end_no_command_in_a_traceback(lake):
    line = f"{sys.executable} -m mmret sql --lake {lake} 'SELECT * FROM range(8000)' | head -2"
    done = subprocess.run(line, shell=True, capture_output=True, timeout=120)
    assert done.stdout.count(b"\n") == 2 and b"Traceback" not in done.stderr
    shown = mmret("sql", "--lake", lake, "SELECT 'é→\N{GRINNING FACE}' AS t", PYTHONIOENCODING="ascii")
    assert shown.returncode == 0 and b"\\xe9" in shown.stdout


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, b"interrupted"), pytest.param(signal.SIGTERM, 143, b"terminated", marks=pytest.mark.slow)],
)
def test_a_stopped_run_says_that_its_work_goes_on_and_what_it_had_is_there(tmp_path, number, code, said):
    lake = tmp_path / "lake"
    process = subprocess.Popen(first(lake, "shapes:1000?seed=3"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    started = time.monotonic()
    while not (lake / "rejects").exists() and process.poll() is None and time.monotonic() - started < 100:
        time.sleep(0.05)
    process.send_signal(number)
    told = process.communicate(timeout=100)[1]
    assert process.returncode == code and said in told and b"the same command goes on from there" in told, told[-2000:]
    assert b"Traceback" not in told and list((lake / "corpus_manifest").glob("*.parquet"))
