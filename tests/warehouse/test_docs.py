"""docs/sql.md: every query of the page runs on a lake and finds rows, each worked one in the catalogue as in memory."""

import re
import shutil
import subprocess
import sys

import pytest

from mmret.lake import Lake
from mmret.warehouse import catalogue_path, connect, open_catalogue
from tests.conftest import CHECKOUT

PAGE = (CHECKOUT / "docs" / "sql.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def lake(small_lake, tmp_path_factory) -> Lake:
    return Lake(shutil.copytree(small_lake[0], tmp_path_factory.mktemp("sql") / "lake"))


def test_there_are_ten():
    assert len(QUERIES) == len(re.findall(r"^\d+\. ", PAGE, re.M)) == 10


@pytest.mark.parametrize("number", range(1, 11))
def test_a_worked_query_finds_rows(lake, number):
    found = {}
    for name, connection in (("catalogue", open_catalogue(lake)), ("memory", connect(lake))):
        with connection:
            found[name] = connection.execute(QUERIES[number - 1]).fetchall()
    assert found["catalogue"] and all(any(value is not None for value in row) for row in found["catalogue"])
    if "LIMIT" not in QUERIES[number - 1]:  # which rows a limit keeps is not fixed
        assert sorted(map(str, found["catalogue"])) == sorted(map(str, found["memory"]))


def test_polars_and_pandas_in_two_lines(lake):
    rows = Lake(lake.root).read("triplets").num_rows
    for snippet, name in zip(SNIPPETS, ("triplets", "frame"), strict=True):
        assert len(snippet.strip().splitlines()) == 2
        names = {"lake_folder": str(lake.root)}
        exec(snippet, names)  # noqa: S102 - the page's own text
        made = names[name]
        assert len(made.collect() if hasattr(made, "collect") else made) == rows


def test_the_shell_s_commands_are_the_command_s(lake):
    for line in re.findall(r"^mmret (sql .*?)(?:  +#.*)?$", PAGE, re.M):
        if "2026-01-31" in line:
            continue  # a time at which this lake was not yet
        arguments = line.replace("lakes/demo", str(lake.root))
        done = subprocess.run(f"{sys.executable} -m mmret {arguments}", shell=True, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.strip(), (line, done.stderr[-500:])
    assert catalogue_path(lake).is_file()
