"""docs/sql.md: every query of the page runs on a lake and finds rows, each worked one in the catalogue as in memory."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmret.lake import Lake
from mmret.warehouse import catalogue_path, connect, open_catalogue
from tests.conftest import CHECKOUT

PAGE = (CHECKOUT / "docs" / "sql.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(CHECKOUT)}
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def lake(small_lake, tmp_path_factory) -> Lake:
    return Lake(shutil.copytree(small_lake[0], tmp_path_factory.mktemp("sql") / "lake"))


def test_there_are_eleven():
    assert len(QUERIES) == len(re.findall(r"^\d+\. ", PAGE, re.M)) == 11


@pytest.mark.parametrize("number", range(1, 12))
def test_a_worked_query_finds_rows(lake, number):
    found = {}
    for name, connection in (("catalogue", open_catalogue(lake)), ("memory", connect(lake))):
        with connection:
            found[name] = connection.execute(QUERIES[number - 1]).fetchall()
    assert found["catalogue"] and all(any(value is not None for value in row) for row in found["catalogue"])
    if "LIMIT" not in QUERIES[number - 1]:  # which rows a limit keeps is not fixed
        assert sorted(map(str, found["catalogue"])) == sorted(map(str, found["memory"]))


def made(snippet: str, lake_folder: str):
    """What the two lines of the page make: what the last one assigns, or shows."""
    first, last = snippet.strip().splitlines()
    names = {"lake_folder": lake_folder}
    exec(first, names)  # noqa: S102 - the page's own text
    if not re.match(r"\w+ = ", last):
        return eval(last, names)  # noqa: S307
    exec(last, names)  # noqa: S102
    return names[last.split(" = ")[0]]


@pytest.mark.parametrize("number", range(5))
def test_each_way_in_takes_two_lines_and_gives_every_row(lake, number):
    open_catalogue(lake).close()
    rows = lake.read("triplets").num_rows
    assert len(SNIPPETS) == 5 and rows < 1000
    found = made(SNIPPETS[number], str(lake.root))
    assert len(found.collect() if hasattr(found, "collect") else found) == rows


def test_duckdb_s_command_line_opens_the_catalogue(lake):
    client = shutil.which("duckdb", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if client is None:
        pytest.skip("duckdb-cli is not installed")
    open_catalogue(lake).close()
    line = next(line for line in PAGE.splitlines() if line.startswith("duckdb -readonly"))
    arguments = shlex.split(line.replace("lakes/demo", shlex.quote(str(lake.root))))[1:]
    done = subprocess.run([client, "-csv", *arguments], capture_output=True, text=True)
    assert done.stdout.split() == ["count_star()", str(lake.read("triplets").num_rows)], done.stderr


def test_the_shell_s_commands_are_the_command_s(lake, tmp_path):
    lines = re.findall(r"^mmret ((?:sql|diff) .*?)(?:  +#.*)?$", PAGE, re.M)
    assert len(lines) == 9
    for line in lines:
        if "2026-01-31" in line or "run-2" in line:
            continue  # a time at which this lake was not yet
        arguments = shlex.split(line.replace("lakes/demo", shlex.quote(str(lake.root))))
        command = [sys.executable, "-m", "mmret", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, input="FROM runs;", env=ENVIRONMENT)
        assert done.returncode == 0 and (done.stdout.strip() or "--parquet" in line), (line, done.stderr[-500:])
    assert catalogue_path(lake).is_file() and (tmp_path / "pairs.parquet").is_file()
