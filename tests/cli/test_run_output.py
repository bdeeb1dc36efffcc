"""What `mmret run` prints, and where: results on standard output, progress on standard error, commands in one piece."""

import io
import json
import re
import shlex
import subprocess
import sys

import pytest
from rich.console import Console

from mmret.cli.run import taken_in
from mmret.cli.run_summary import _found_by_text_alone, print_summary, summarise_run
from mmret.cli.run_summary_changes import WORDS, print_changes
from mmret.cli.run_summary_expectations import print_expectations
from mmret.ingest.changes import CHANGES
from mmret.lake import Facts, Lake
from mmret.lake.configuration import resolve
from mmret.schemas import TABLES
from tests.conftest import CHECKOUT

COMMANDS = (
    'mmret sql --lake {lake} "SELECT query_path, texts[1], target_path FROM triplets LIMIT 5"',
    'mmret search --lake {lake} --image FILE --text "the same in red"',
    "mmret gallery --lake {lake}",
    "mmret export --lake {lake} --format megapairs --out DIR",
)


class Outcome:
    """Of a run that had nothing to do; see ``assets.runner.run.Outcome``."""

    rows_computed, partitions, seconds, checks, warnings, total = {}, {}, {}, {}, [], 0.0


def mmret_run(lake, *more: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "mmret", "run", "--lake", str(lake), *more]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=True)


def test_what_became_of_sealed_rows_is_said_a_line_each_with_the_command_that_takes_out_what_is_gone(tmp_path):
    remarks = [
        {"root": "/my pictures", "remark": "missing", "count": 1200, "path": "a\x1b[31m.png", "detail": None},
        {"root": "/my pictures", "remark": "caption_edited", "count": 2, "path": "b.png", "detail": "old → new"},
        {"root": "/my pictures", "remark": "unknown_file", "count": 1, "path": "c.xyz", "detail": None},
    ]
    out = io.StringIO()
    print_changes({"remarks": remarks, "lake": "/my lake"}, Console(file=out, width=40))
    gone, edited = out.getvalue().splitlines()
    assert gone.startswith("/my pictures: pictures gone 1,200 (a") and "\x1b" not in gone
    assert gone.endswith("; they stay in the lake; to take them out: mmret run --lake '/my lake' --forget-missing")
    assert edited == "/my pictures: captions edited 2 (b.png · old → new); what depends on them is computed again"
    assert {"missing", "kept_as_sealed", *CHANGES} == set(WORDS), "every remark of a change has its words"


def test_the_summary_is_on_stdout_and_progress_on_stderr(small_lake):
    lake, _ = small_lake
    done = mmret_run(lake, "--forget-missing")  # where nothing is missing it changes nothing
    assert "Nothing to do: every stage is up to date." in done.stdout and "Nothing to do" not in done.stderr
    assert re.search(r"^ *pairs +\d", done.stdout, re.M) and "held-out edits" in done.stdout
    assert f"lake {lake} · profile demo" in done.stderr and "· profile" not in done.stdout
    for command in COMMANDS:
        assert f"  {command.format(lake=lake)}" in done.stdout.splitlines()


def test_with_json_stdout_is_one_json_object_and_nothing_else(small_lake):
    lake, summary = small_lake
    done = mmret_run(lake, "--json")
    assert len(done.stdout.splitlines()) == 1
    again = json.loads(done.stdout)
    assert again["up_to_date"] and list(again) == list(summary) and again["rows"] == summary["rows"]
    assert "Nothing to do" in done.stderr


def test_every_command_prints_its_results_through_the_console_that_wraps_nothing_in_a_pipe():
    """A rich Console made by hand is 80 columns wide where there is no terminal, and cuts tables in files and pipes."""
    made_by_hand = [p.name for p in (CHECKOUT / "mmret" / "cli").glob("*.py") if re.search(r"\bConsole\(", p.read_text())]
    assert sorted(made_by_hand) == ["run_progress.py", "terminal.py"], "run_progress.py is progress, on standard error"


@pytest.mark.parametrize("width", [40, 80, 4000])
def test_commands_for_pasting_stay_on_one_line_at_any_width(tmp_path, width):
    lake = Lake(tmp_path / "a folder with spaces and a long name, longer than the line")
    out = io.StringIO()
    print_summary(summarise_run(lake, resolve(lake)[0], Outcome()), Console(file=out, width=width))
    for command in COMMANDS:
        assert f"  {command.format(lake=shlex.quote(str(lake.root)))}" in out.getvalue().splitlines()


def said_of(**summary) -> str:
    out = io.StringIO()
    print_expectations({"lake": "/my lake", "queries_with_pairs": 0, **summary}, Console(file=out, width=4000))
    return out.getvalue()


def test_a_lake_of_thirty_pictures_says_what_to_expect_of_it_and_one_of_thousands_says_nothing():
    measured, unmeasured = {"checkpoints": 1, "evaluations": 16}, {"checkpoints": 1, "evaluations": 0}
    small = said_of(towers_trained_on=30, rows={"images": 30, **measured})
    assert "trained on 30 pictures" in small and "little better than a guess" in small and "seed" not in small
    grown = said_of(towers_trained_on=30, rows={"images": 5000, **measured})
    assert "The lake has 5,000 pictures now" in grown and "mmret run --lake '/my lake' --set towers.seed=1" in grown
    unheld = said_of(towers_trained_on=0, queries_with_pairs=28, rows={"images": 5000, **unmeasured})
    assert unheld.startswith("not measured: of 28 query images none") and "evaluate.held_out=0.2" in unheld
    assert said_of(towers_trained_on=1200, rows={"images": 90_000, **measured}) == ""
    untrained = {"checkpoints": 0, "evaluations": 0}
    assert said_of(towers_trained_on=0, rows={"images": 0, **untrained}) == "", "another line says why nothing was trained"


def test_summarising_changes_nothing_of_what_the_lake_records(tmp_path, monkeypatch):
    """Targets retrieved are told apart from the reasons without taking them out of the facts: twice gives the same."""
    lake = Lake(tmp_path)
    facts = Facts(2, "", "", {"queries": 2, "reasons": {"retrieved": 9, "chosen": 2, "near_duplicate": 7, "not_near": 0}}, 0)
    monkeypatch.setattr(Lake, "partitions", lambda _, table: ["shard-00000"] if table == "pairs" else [])
    monkeypatch.setattr(Lake, "facts", lambda *_: facts)
    first, second = (summarise_run(lake, resolve(lake)[0], Outcome()) for _ in range(2))
    assert first == second and set(first["rows"]) == set(TABLES)
    assert first["retrieved_targets"] == 9 and first["pair_reasons"] == {"chosen": 2, "near_duplicate": 7}
    assert facts.notes["reasons"] == {"retrieved": 9, "chosen": 2, "near_duplicate": 7, "not_near": 0}


def test_only_a_trained_recipe_whose_text_alone_finds_most_targets_is_remarked():
    values = {
        name: {"R@1": r, "text R@1": text} for name, r, text in (("untrained", 5.0, 5.0), ("a", 20.0, 14.0), ("b", 20.0, 13.9))
    }
    found = {"held-out triplets": {"queries": 9, "gallery": 9, **values}, "held-out edits": {"c": {"R@1": 1.0, "text R@1": 1.0}}}
    assert _found_by_text_alone(found) == ["a"]


def test_a_dry_run_says_what_it_leaves_in_the_lake_and_how_that_is_taken_out(tmp_path):
    lake = Lake(tmp_path / "a lake")
    said = taken_in(lake, ["shapes:20?seed=1"], ["shapes:10?seed=0", "shapes:20?seed=1"])
    line = shlex.split(re.search("`(.*)`", said)[1])
    assert line == ["mmret", "run", "--lake", lake.address, "--remove", "shapes:20?seed=1"]
    assert "--remove" not in taken_in(lake, ["shapes:20?seed=1"], ["shapes:20?seed=1"])  # a lake is never without a source
