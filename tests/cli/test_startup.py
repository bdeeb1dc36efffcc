"""What commands import before they answer: no command pays for what another needs, and a run with nothing to do for no graph."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from mmret.cli import COMMANDS, app, graph
from mmret.cli.run_progress import RunProgress
from mmret.cli.terminal import say_loading
from mmret.errors import UserError
from mmret.freshness.last_run import note_last_run, read_last_run, record_path
from mmret.freshness.outcome import Outcome
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from tests.conftest import CHECKOUT
from tests.freshness.current_folder import Current
from tests.freshness.empty_tables import current_lake

HEAVY = ("torch", "transformers", "dagster", "lancedb", "pandas", "polars", "sklearn", "httpx", "pyarrow.dataset")
_CALL = """
import sys
from mmret.__main__ import main
try:
    main()
finally:
    print("imported:", *(name for name in sys.argv.pop().split(",") if name in sys.modules), file=sys.stderr)
"""


def imported(*line: str) -> tuple[set[str], str]:
    """Which of HEAVY the command imports, and its standard output."""
    code = _CALL.replace("main()\nfinally", "heavy = sys.argv[-1]\n    del sys.argv[-1]\n    main()\nfinally").replace(
        "sys.argv.pop()", "heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, *line, ",".join(HEAVY)], capture_output=True, text=True, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stderr.rsplit("imported:", 1)[1].split()), done.stdout


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Every stage of three shards, current, without rows."""
    return current_lake(tmp_path / "lake")


def test_help_and_the_commands_that_only_look_import_no_heavy_library(lake: Lake):
    assert imported("--help")[0] == set()
    assert imported("train", "--help")[0] == set()
    found, said = imported("status", "--lake", str(lake.root), "--json")
    assert found == set() and json.loads(said)["lake"] == str(lake.root)
    found, said = imported("sql", "--lake", str(lake.root), "--csv", "SELECT count(*) AS n FROM images")
    assert (found - {"pandas", "pyarrow.dataset"}, said.split()) == (set(), ["n", "0"])  # its catalogue is built here


def test_help_lists_every_command_with_the_first_paragraph_of_its_own_help():
    group = typer.main.get_command(app)
    assert list(group.commands) == list(COMMANDS)
    for name, line in COMMANDS.items():
        assert " ".join(group.commands[name].help.split("\n\n")[0].split()) == line, name
        assert group.commands[name].name == name
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"}).output
    assert all(line in shown for line in COMMANDS.values())


def test_a_command_that_is_not_there_is_answered_with_one_that_is():
    done = CliRunner().invoke(app, ["serach"])
    assert done.exit_code == 2 and "search" in done.output


def test_a_run_with_nothing_to_do_imports_no_heavy_library(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    lake = Current(tmp_path).lake.root
    imported("run", "--lake", str(lake))  # builds the catalogue
    found, said = imported("run", "--lake", str(lake), "--json")
    assert found == set() and json.loads(said)["up_to_date"] and json.loads(said)["checks_failed"] == []


LOADING = """
import sys
import mmret.cli.terminal as terminal
heavy = sys.argv.pop().split(",")
def said():
    print("loading", *(name for name in heavy if name in sys.modules))
    sys.exit()
terminal.say_loading = said
from mmret.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "line",
    [
        "search --text red",
        "serve --port 0",
        "gallery --port 0 --no-browser",
        "evaluate --triplets none.jsonl",
        "train --recipe demo",
        "embed shapes:4 --out vectors",
        "check --filter consistency",
        "teach --recipe demo",
        "export-onnx --out graphs",
        "merge --recipe demo --out merged",
    ],
)
def test_a_command_that_loads_a_model_says_so_before_it_imports_any(lake: Lake, line: str):
    command, *rest = line.split()
    words = [sys.executable, "-c", LOADING, command, "--lake", str(lake.root), *rest, ",".join(HEAVY)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=CHECKOUT)
    assert (done.stdout.split(), done.stderr) == (["loading"], "")


def test_what_is_said_of_loading_is_no_result(capsys):
    say_loading()
    assert capsys.readouterr() == ("", "loading …\n")


def without_seconds(summary: dict) -> dict:
    return {key: value for key, value in summary.items() if "seconds" not in key}


def test_a_run_with_nothing_to_do_says_the_same_with_and_without_the_graph(small_lake, tmp_path: Path, monkeypatch):
    import shutil

    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    shutil.copytree(small_lake[0], tmp_path / "lake", ignore=shutil.ignore_patterns(".dagster"))
    line = ("run", "--lake", str(tmp_path / "lake"), "--json")
    unknown, _ = imported(*line)
    assert "dagster" in unknown, "nothing is known of the Dagster instance yet"
    record = record_path(Lake(tmp_path / "lake"))
    record.write_text(json.dumps(json.loads(record.read_text()) | {"ended": 0.0}))
    long, said = imported(*line)
    assert "dagster" in long, "what is known is old"
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "lake").rglob("*.parquet")}
    quick, again = imported(*line)
    assert quick == set()
    first, second = json.loads(said), json.loads(again)
    assert without_seconds(first) == without_seconds(second) and second["up_to_date"]
    assert first["seconds"].keys() == second["seconds"].keys()
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "lake").rglob("*.parquet")}

    record = record_path(Lake(tmp_path / "lake"))
    told = json.loads(record.read_text())
    record.write_text(json.dumps(told | {"failed": ["pairs: counts"]}))
    checked, _ = imported(*line)
    assert "dagster" in checked and read_last_run(record).failed == [], "the checks were made again, and passed"


class FakeRunner:
    """In the place of the runner: notes what it was asked, and whether the record was there meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, outcome: Outcome | Exception):
        self.outcome, self.asked, self.recorded = outcome, [], []
        module = SimpleNamespace(Runner=lambda lease, *_: self._of(lease))
        monkeypatch.setitem(sys.modules, "assets.runner.run", module)

    def _of(self, lease):
        self.recorded.append(record_path(lease.lake).exists())
        return self

    def run(self, until, forget_missing, check):
        self.asked.append((until, check))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def materialize(lake: Lake, **how) -> Outcome:
    profile = resolve(lake)[0]
    with graph.exclusive(lake) as lease:
        return graph.materialize(lease, profile, RunProgress(lake, profile), **how)


def test_the_record_is_away_while_anything_is_launched_and_tells_which_checks_failed(lake: Lake, monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    record, profile = record_path(lake), resolve(lake)[0]
    runner = FakeRunner(monkeypatch, Outcome(checks={"pairs: counts": False, "pairs: bands": True}))
    materialize(lake)
    assert (runner.asked, runner.recorded) == ([(None, True)], [False]), "nothing says that they were made"
    assert read_last_run(record).failed == ["pairs: counts"]
    materialize(lake)
    assert (runner.asked[1:], runner.recorded) == ([(None, True)], [False, False]), "checked again, and the record was away"

    note_last_run(record, lake, profile, [])
    materialize(lake, until="pairs")
    assert runner.asked[2:] == [("pairs", False)] and not record.exists(), "a part of a run is none"
    note_last_run(record, lake, profile, [])
    FakeRunner(monkeypatch, UserError("broken"))
    with pytest.raises(UserError, match="broken"):
        materialize(lake)
    assert not record.exists()
    passed = FakeRunner(monkeypatch, Outcome())
    materialize(lake)
    materialize(lake)
    assert passed.asked == [(None, True), (None, False)], "once where they may not have been made, and not again"
