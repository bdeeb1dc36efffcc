"""Requests that mean harm: the server lives, makes no mistake of its own, tells no path, writes nothing and keeps its memory."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("fastapi_offline", reason="the server needs the extra 'serve'")

from tests.serve.hostile import attack, started


def held_out(lake_folder: Path, tmp_path: Path, requests: int) -> None:
    lake = Path(shutil.copytree(lake_folder, tmp_path / "lake"))
    with started(lake, tmp_path / "server") as server:
        report = attack(server, requests)
        assert not report.faults, "\n".join(report.faults[:10])
        assert server.process.poll() is None
        before, after, most = report.megabytes
        assert after < before + 300 and most < 1500, report.megabytes
    assert sum(report.statuses.values()) == requests and len({status for _, status in report.statuses}) > 6


def test_three_hundred_hostile_requests(small_lake, tmp_path):
    held_out(small_lake[0], tmp_path, 300)


@pytest.mark.slow
def test_ten_thousand_hostile_requests(small_lake, tmp_path):
    held_out(small_lake[0], tmp_path, 10_000)
