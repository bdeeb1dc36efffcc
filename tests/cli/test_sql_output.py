"""What `mmret sql` prints: a terminal gets a table that fits and a note of what it does not show, all else gets every row."""

import csv
import io
import json
import subprocess
import sys

import duckdb
import pyarrow.parquet as pq
import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from mmret.cli import app
from mmret.cli.csv_rows import print_csv
from mmret.cli.sql_table import fit, print_table
from mmret.cli.terminal import print_json, print_json_array
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.schemas import CORPUS_MANIFEST
from mmret.warehouse.query import ask, split_statements
from tests.conftest import CHECKOUT

MANY = "SELECT i, 'row ' || i AS name FROM range(2500) r(i)"
WIDE = "SELECT 'a' AS first, repeat('x', 200) AS long, repeat('ü', 30) AS third, 1.5::FLOAT AS score FROM range(2)"


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = Lake(tmp_path / "lake")
    lake.write("corpus_manifest", "shard-00000", CORPUS_MANIFEST.empty_table(), "x")
    return lake


def call(lake: Lake, *arguments: str, typed: str | None = None):
    done = CliRunner().invoke(app, ["sql", "--lake", str(lake.root), *arguments], input=typed)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.fixture
def shown(monkeypatch, capsys):
    """A query as a terminal of some width shows it: lines of stdout, and stderr."""

    def show(query: str, width: int = 60, wide: bool = False) -> tuple[list[str], str]:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        print_table(ask(duckdb.connect(), query), wide)
        printed = capsys.readouterr()
        return printed.out.splitlines(), printed.err

    return show


@pytest.mark.parametrize("width", [20, 33, 60, 100, 300])
def test_no_line_is_longer_than_the_terminal_and_what_is_cut_is_named(shown, width):
    lines, note = shown(WIDE, width)
    assert max(map(cell_len, lines)) <= width and lines[-1] == "2 rows"
    assert ("cells of long" in note) == (width < 250) and ("columns do not fit" in note) == (width < 60)
    assert (note == "") == (width == 300)
    lines, note = shown(WIDE, width, wide=True)
    assert "x" * 200 in lines[3] and note == ""


@pytest.mark.parametrize("width", [1, 5, 20, 80, 500])
def test_widths_never_exceed_the_room_and_leave_none_unused(width):
    for natural in ([1], [3, 3], [10, 100], [30, 30, 30], [5] * 40, [200, 1, 80]):
        widths = fit(natural, width)
        columns = [size for size in widths if size]
        room = width - 1 - 2 * (len(columns) - 1)
        assert sum(columns) <= max(1, room) and widths[0] and all(size <= most for size, most in zip(widths, natural, strict=True))
        assert widths == natural or len(columns) < len(natural) or room - sum(columns) < len(natural)


def test_one_row_that_does_not_fit_is_a_line_a_column_with_nothing_left_out(shown):
    lines, note = shown(f"{WIDE} LIMIT 1", 50)
    assert "".join(line[8:].strip() for line in lines[1:-2]) == "a" + "x" * 200 + "ü" * 30 + "1.5" and note == ""
    assert lines[-1] == "1 rows" and max(map(cell_len, lines)) <= 50


def test_a_terminal_shows_the_first_thousand_rows_and_says_that_there_are_more(shown):
    lines, note = shown(MANY)
    assert lines[-1] == "1,000 rows are shown" and lines[3:-2][-1].split() == ["999", "row", "999"]
    assert "more than 1,000 rows" in note
    lines, note = shown(MANY.replace("2500", "1000"))
    assert lines[-1] == "1,000 rows" and note == ""


def test_a_pipe_gets_every_row_and_every_character(lake):
    lines = call(lake, f"{MANY} UNION ALL SELECT 9, repeat('z', 5000)").stdout.splitlines()
    assert lines[-1] == "2,501 rows" and sum("row " in line for line in lines) == 2500
    assert any("z" * 5000 in line for line in lines)


def test_a_cell_stays_on_its_line_and_a_plan_keeps_its_lines(lake):
    out = call(lake, "SELECT E'a\\nb\\t\\x1b[31m' AS t").stdout
    assert r"a\nb\t" in out and "\x1b" not in out and len(out.splitlines()) == 6
    assert len(call(lake, "EXPLAIN SELECT 1").stdout.splitlines()) > 2


def test_csv_is_read_back_as_it_was_with_nulls_and_empty_texts_apart(lake):
    values = """(1, 'a,b', 'say "so"', ''), (2, E'two\\nlines', NULL, E'\\r'), (3, 'é', ' ', 'x')"""
    query = f'SELECT * FROM (VALUES {values}) t(n, "a b", c, d)'
    out = call(lake, "--csv", query).stdout_bytes
    rows = list(csv.reader(io.StringIO(out.decode(), newline=""), strict=True))
    assert (
        rows[0] == ["n", "a b", "c", "d"] and rows[1] == ["1", "a,b", 'say "so"', ""] and rows[2] == ["2", "two\nlines", "", "\r"]
    )
    assert out.startswith(b'n,a b,c,d\r\n1,"a,b","say ""so""",""\r\n2,"two\nlines",,"\r"\r\n')
    other = call(
        lake, "--csv", "SELECT true a, [1, NULL] b, {'k': 'v'} c, DATE '2026-01-31' d, 0.1::DOUBLE e, 'nan'::FLOAT f"
    ).stdout
    assert other.splitlines()[1] == 'true,"[1, null]","{""k"": ""v""}",2026-01-31,0.1,nan'


def test_csv_on_a_terminal_does_not_steer_it(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_csv(ask(duckdb.connect(), "SELECT E'\\x1b[2J' AS t"))
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("rows", [[], [{"a": 1}], [{"a": 'x\n"y', "l": [1.5, None]}, {"a": float("nan")}, {}]])
def test_json_row_by_row_is_the_json_of_them_all(rows, capsys):
    print_json(rows, indent=1)
    whole = capsys.readouterr()
    print_json_array(iter(rows))
    assert capsys.readouterr() == whole


def test_parquet_holds_the_rows_with_their_types_and_names_apart(lake, tmp_path):
    file = tmp_path / "out.parquet"
    done = call(lake, "--parquet", str(file), f"SELECT *, i AS i, [i] AS l, sum(i) OVER () AS s FROM ({MANY})")
    table = pq.read_table(file)
    assert table.column_names == ["i", "name", "i_1", "l", "s"] and table.num_rows == 2500
    assert table["s"][0].as_py() == sum(range(2500)) and table["l"][7].as_py() == [7]
    assert done.stdout == "" and "2,500 rows" in done.stderr


def test_a_parquet_file_is_whole_or_as_it_was(lake, tmp_path):
    file = tmp_path / "out.parquet"
    file.write_text("of before")
    late = "SELECT CASE WHEN i = 400000 THEN error('late') ELSE i END AS i FROM range(400001) r(i)"
    for query, said in ((late, "late"), ("SELECT INTERVAL 1 DAY AS every", "no type for column every.*::VARCHAR")):
        with pytest.raises(UserError, match=said):
            call(lake, "--parquet", str(file), query)
    assert file.read_text() == "of before" and [p.name for p in tmp_path.iterdir() if p.suffix != ""] == ["out.parquet"]
    for place, said in ((lake.root / "triplets" / "x.parquet", "lies in the lake"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=said):
            call(lake, "--parquet", str(place), "SELECT 1")


@pytest.mark.parametrize("flags", [["--json", "--csv"], ["--csv", "--wide"], ["--json", "--parquet", "x"], ["--wide", "--json"]])
def test_flags_that_contradict_each_other_are_one_sentence(lake, flags):
    with pytest.raises(UserError, match=r"--\w+ and --\w+: choose one"):
        call(lake, *flags, "SELECT 1")


def test_statements_come_from_standard_input_one_after_another(lake):
    out = call(lake, typed="-- a note;\nSELECT 1 AS one;\n.tables\nSELECT\n  ';' AS two -- ;\n").stdout
    assert out.count("1 rows") == 2 and "corpus_manifest" in out
    assert json.loads(call(lake, "--json", typed="SELECT 1 AS n").stdout) == [{"n": 1}]
    for typed, said in (
        ("", "no statement"),
        (" -- nothing\n", "no statement"),
        ("SELECT 'x", "unterminated"),
        (".x", "no such command"),
    ):
        with pytest.raises(UserError, match=said):
            call(lake, typed=typed)
    with pytest.raises(UserError, match="DROP"):
        call(lake, typed="SELECT 1; DROP VIEW images; SELECT 2")
    with pytest.raises(UserError, match="2 statements"):
        call(lake, "--csv", typed="SELECT 1; SELECT 2")
    assert ".quit" in call(lake, typed=".help\n.quit\nSELEC").stdout


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a;b", 1), ("';';", 1), ('";";', 1), ("/* ; */ a;", 1), ("-- ;\n", 0), ("$$;$$;", 1), ("'é;' ; ü;", 2), ("E'\\';';", 1),
        ("'open ;", 0), ("", 0), (";;", 2),
    ],
)  # fmt: skip
def test_only_a_semicolon_between_statements_parts_them(text, parts):
    found, rest = split_statements(text)
    assert len(found) == parts and ";".join([*found, rest]) == text


@pytest.mark.parametrize("form", ["--csv", "--json", "table", "--parquet"])
def test_memory_does_not_grow_with_the_rows(lake, form, tmp_path):
    """150 MB of text, of which never more than some batches are held."""
    code = """
import sys
from typer.testing import CliRunner
from mmret.cli import app
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4 // 1024
app(["sql", "--lake", sys.argv[1], *sys.argv[2:], "SELECT 1 AS t"], standalone_mode=False)
before = resident()
long = "SELECT repeat('x', 1500) || i AS t FROM range(100000) r(i)"
app(["sql", "--lake", sys.argv[1], *sys.argv[2:], long], standalone_mode=False)
print(resident() - before, file=sys.stderr)
"""
    flags = {"table": [], "--parquet": ["--parquet", str(tmp_path / "x.parquet")]}.get(form, [form])
    line = [sys.executable, "-c", code, str(lake.root), *flags]
    done = subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT, check=True)
    assert int(done.stderr.split()[-1]) < (150 if form == "--parquet" else 60)
