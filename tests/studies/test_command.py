"""Invariants: one command trains and measures every run of every study, as partitions of `checkpoints` and `evaluations`; a
finished study computes nothing again; a lake without studies says what to do."""

import json
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mmret.cli import app
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.settings import load_profile, parse_override
from mmret.settings.studies import runs
from tests.studies.test_results import evaluated

TINY = (
    "studies={recipe: demo, change: {steps: 4}, seeds: 1, pairs: 64, shares: [0.25, 1], signal_pairs: 16, headline_pairs: 8,"
    " times: 4}"
)


def command(lake, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mmret", "study", "--lake", str(lake), "--json", *more], capture_output=True, text=True, timeout=280
    )


def test_what_is_there_is_shown_without_training(tmp_path):
    lake = evaluated(tmp_path / "lake", lambda study, place, seed: 3.0 + place, (0, 1))
    lake.write_configuration({"profile": "studies", "sources": [], "overrides": {}})
    done = CliRunner().invoke(app, ["study", "--lake", str(lake.root), "--show"])
    assert done.exit_code == 0 and done.output.count("of 2 seeds") == 4 and "3.0 ± 0.0" in done.output
    assert (lake.root / "studies.png").is_file()
    page = CliRunner().invoke(app, ["study", "--lake", str(lake.root), "--show", "--markdown"])
    assert page.exit_code == 0 and "| study | variant | seeds |" in page.output and page.output.count("SHOWN |") == 4


def test_a_lake_without_studies_says_what_to_do(tmp_path):
    lake = Lake(tmp_path)
    lake.write_configuration({"profile": "demo", "sources": [], "overrides": {}})
    with pytest.raises(UserError, match="has no section 'studies': use another --lake"):
        CliRunner().invoke(app, ["study", "--lake", str(tmp_path), "--show"], catch_exceptions=False)


@pytest.mark.slow
def test_every_run_is_a_partition_and_is_done_once(small_lake, tmp_path):
    lake = tmp_path / "lake"
    shutil.copytree(small_lake[0], lake)
    done = command(lake, "--set", TINY, "--picture", str(tmp_path / "picture.png"))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert [s["name"] for s in found["studies"]] == ["negatives", "signals", "scaling", "headline"]
    assert all(s["holds"] is not None and s["seeds"] == 1 for s in found["studies"])
    assert found["queries"] == 30 and 0 <= found["untrained"]["R@10"] <= 100
    names = {n for *_, n in runs(load_profile("demo", dict([parse_override(TINY)])).studies)}
    store = Lake(lake)
    assert names <= set(store.partitions("checkpoints")) and names <= set(store.partitions("evaluations"))
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    times = {n: store.path("evaluations", n).stat().st_mtime_ns for n in names}
    again = command(lake)
    assert json.loads(again.stdout.splitlines()[-1])["studies"] == found["studies"]
    assert times == {n: store.path("evaluations", n).stat().st_mtime_ns for n in names}
