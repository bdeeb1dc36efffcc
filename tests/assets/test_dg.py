"""Dagster's command `dg` from the checkout, as docs/dagster.md shows it: each line does what the page says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmret.lake import Lake
from mmret.lake.configuration import resolve
from tests.assets.pictures import drop
from tests.assets.server import UI, free_port, until
from tests.conftest import CHECKOUT

DG = [sys.executable, "-W", "ignore", "-m", "dagster_dg_cli.cli"]


@pytest.fixture
def places(tmp_path) -> dict[str, str]:
    """The environment of the page: a history and a lake, whose corpus is not sealed yet."""
    home, lake = tmp_path / "home", Lake(tmp_path / "lake")
    home.mkdir()
    shutil.copy(CHECKOUT / "dagster_home" / "dagster.yaml", home)
    drop(tmp_path / "pictures", 0, 8)
    lake.write_configuration(resolve(lake, sources=[str(tmp_path / "pictures")], shard_size=4)[1])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {"DAGSTER_HOME": str(home), "MMRET_LAKE": str(lake.root), "PATH": path, "VIRTUAL_ENV": sys.prefix}


def dg(places: dict[str, str], *arguments: str) -> str:
    done = subprocess.run([*DG, *arguments], cwd=CHECKOUT, env=os.environ | places, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_checks_lists_and_launches(places):
    assert "All definitions loaded successfully" in dg(places, "check", "defs")
    assert {"assets.components.Source", "assets.components.Recipe"} <= {
        each["key"] for each in json.loads(dg(places, "list", "components", "--json"))["items"]
    }
    assert {"corpus_manifest", "evaluations"} <= {
        each["asset_key"] for each in json.loads(dg(places, "list", "defs", "--json"))["assets"]
    }
    dg(places, "launch", "--job", "seal_corpus")
    lake = Lake(places["MMRET_LAKE"])
    assert lake.shards() == ["shard-00000", "shard-00001"]
    dg(places, "launch", "--assets", "images,rejects", "--partition", "shard-00000")
    assert lake.partitions("images") == ["shard-00000"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_dg_dev_starts_and_one_ctrl_c_leaves_no_process(places, tmp_path):
    port = free_port()
    ui = UI([*DG, "dev", "--host", "127.0.0.1", "--port", str(port)], port, tmp_path / "ui.log", places)
    try:
        ui.wait_until_up(400)
        assert ui.ctrl_c() in (0, 1, 130, -2), ui.log.read_text()[-2000:]
        assert until("every process is gone", lambda: not ui.left_over(), 30), ui.left_over()
    finally:
        ui.kill()
