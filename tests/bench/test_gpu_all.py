"""The GPU report: rehearsed on a CPU it answers every question of docs/gpu.md; what fails, hangs, dies or does not fit costs
its own answer alone; a part takes no time that a later one is promised; mining needs a handful of packages."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import time

import pytest
import torch

from bench import gpu_all, neighbours
from bench.gpu.plan import ALL, PARTS, Part, absent, limit
from bench.gpu.sheet import Sheet
from bench.gpu.table import markdown, read_rows
from bench.gpu_all import Run
from tests.conftest import CHECKOUT

PAGE = (CHECKOUT / "docs" / "gpu.md").read_text()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def sheet(tmp_path):
    return Sheet("part", tmp_path / "rows.jsonl", "cpu", time.time() + 1000, time.time(), True)


def documented(part: str) -> list[str]:
    """First cells of the rows of a part in docs/gpu.md."""
    return re.findall(rf"^\| `({part}\.\w+)` \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_rehearsal_answers_every_question_of_its_page(part, sheet, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sheet.part = part.name
    module, _, function = part.run.partition(":")
    getattr(importlib.import_module(module), function)(sheet)
    assert [row["failed"] for row in sheet.rows if row["failed"]] == []
    asked = [key for key in documented(part.name) if not key.endswith(("_16384", "_32768"))]  # sizes that a rehearsal leaves out
    assert sorted(row["row"] for row in sheet.rows) == sorted(asked)
    assert all(row["figure"] >= 0 for row in sheet.rows) and read_rows(sheet.path) == sheet.rows


def test_what_does_not_fit_is_asked_in_a_smaller_size_and_what_fails_leaves_its_traceback(sheet):
    tried = []

    def work(size):
        tried.append(size)
        if size > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return size

    assert sheet.ask("fits", work, [40, 20, 10, 5]) == 10 and tried == [40, 20, 10]
    assert sheet.ask("fits nowhere", work, [40, 20]) is None
    assert sheet.ask("wrong", lambda _: 1 // 0) is None
    sheet.until = time.time() + 3
    assert sheet.ask("late", work, [1], needs=10) is None
    assert sheet.ask("after them", work, [3]) == 3
    said = {row["row"]: row["failed"] for row in sheet.rows}
    assert said["fits nowhere"].startswith("out of memory, at last with 20") and "ZeroDivisionError" in said["wrong"]
    assert said["late"].startswith("not measured: ") and set(said) == {"fits nowhere", "wrong", "late"}
    report = markdown({}, sheet.rows, [])
    assert "| `wrong` | ZeroDivisionError: integer division or modulo by zero |" in report and "Traceback" in report


def test_a_part_that_hangs_or_dies_keeps_what_it_knew_and_costs_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_all, "_GRACE", 0.0)
    monkeypatch.setattr(gpu_all, "_LEAST", 0.0)
    row = {"unit": "s", "beside": "", "note": "", "failed": "", "peak_gib": None, "at_s": 0, "figure": 1.0}
    does = {"hangs": "import time; time.sleep(600)", "dies": "import os; os._exit(139)", "works": ""}

    def command(self, part, seconds):
        line = json.dumps(row | {"part": part.name, "row": f"{part.name}.known"})
        return [sys.executable, "-c", f"open({str(self.rows_file)!r}, 'a').write({line!r} + chr(10))\n{does[part.name]}"]

    monkeypatch.setattr(Run, "command", command)
    parts = [Part("absent", "", 0, ("a_module_that_nobody_wrote",)), *(Part(name, "", 0, ()) for name in does)]
    run = Run(tmp_path, 4.0, True, parts)
    run.until = time.time() + 4.0
    monkeypatch.setattr(gpu_all, "limit", lambda parts, at, left: 1.0)
    run.all_parts()
    assert [state["ended"].split(":")[0].split(",")[0] for state in run.states] == [
        "not run",
        "stopped after 1 s",
        "failed with exit code 139",
        "done",
    ]
    written = json.loads((tmp_path / "report.json").read_text())
    assert [r["row"] for r in written["rows"]] == ["hangs.known", "dies.known", "works.known"]
    assert written["machine"]["missing"] == "absent: a_module_that_nobody_wrote" and written["parts"] == run.states
    assert (tmp_path / "report.md").read_text() == markdown(run.facts, written["rows"], run.states)


def test_a_part_takes_what_is_left_but_what_later_ones_are_promised():
    parts = [Part(str(at), "", seconds, ()) for at, seconds in enumerate((100, 50, 30))]
    assert [limit(parts, at, left) for at, left in enumerate((180, 150, 30))] == [100, 120, 30]
    assert limit(parts, 2, 45) == 45 and limit(parts, 1, 60) == 30
    assert sum(part.seconds for part in PARTS) <= 460 < 8 * 60


def test_mining_needs_what_is_said_and_no_other_package():
    """What is imported while mining is rehearsed, of all that the project or its extras depend on."""
    code = (
        "import sys, time, pathlib, tempfile; import torch; torch.set_num_threads(1)\n"
        "from bench.gpu.sheet import Sheet; from bench.gpu.mining import run\n"
        "run(Sheet('mining', pathlib.Path(tempfile.mkdtemp()) / 'rows', 'cpu', time.time() + 1000, time.time(), True))\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT, check=True)
    heavy = {
        "dagster",
        "duckdb",
        "lance",
        "lancedb",
        "polars",
        "transformers",
        "open_clip",
        "timm",
        "PIL",
        "openai",
        "typer",
        "peft",
    }
    assert not heavy & set(done.stdout.split())
    assert set(ALL) <= set(done.stdout.split()), "packages that are asked for and not used"


def test_what_is_missing_is_said_by_the_name_to_install():
    assert absent(("json", "a_module_that_nobody_wrote")) == ["a_module_that_nobody_wrote"]
    assert Part("p", "", 1, ("json",), ("a_module_that_nobody_wrote",)).missing() == []


def test_mining_alone_prints_its_share_of_the_bare_products(capsys):
    neighbours.main(n=600, dim=64, k=5, signals=1, peer=False, growth_=False, memory=False, million=False, rounds=1, threads=1)
    found = json.loads(capsys.readouterr().out)["alone"]
    assert found["rows"] == 600 and 0 <= found["bare_over_ours"] <= 1 and set(found["bare_products"]) == {"as_mined_s", "float32_s"}
