"""Steps on a node are children of one process that has the imports: their own output, environment, signals and exit status."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from assets.cluster import step
from tests.assets.server import until
from tests.conftest import CHECKOUT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets and process descriptors are Linux's")

STARTER = """
import os, sys, time, types
from assets.cluster import starter

def execute_step():
    print("step of", os.environ["WHO"], "in", os.getcwd(), flush=True)
    if seconds := os.environ.get("SECONDS_OF_STEP"):
        print("pid", os.getpid(), flush=True)
        time.sleep(float(seconds))
    if os.environ["WHO"] == "nobody":
        raise OSError("no such step")
    return 3

sys.modules["assets.dagster_internals.step_command"] = types.SimpleNamespace(execute_step=execute_step)
starter.PRELOADED, starter.IDLE_S = (), 2.0
starter.main(sys.argv[1])
"""
ASK = """
import sys
from assets.cluster import step
raise SystemExit(step.ask(step.connected(b"\\0" + sys.argv[1].encode())))
"""


@pytest.fixture
def starter(tmp_path) -> Iterator[tuple[str, subprocess.Popen]]:
    name = f"mmret-test-{uuid.uuid4().hex}"
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", STARTER, name], cwd=CHECKOUT)
    try:
        until("it listens", lambda: probe(name), 20, every=0.05)
        yield name, process
    finally:
        process.kill()
        process.wait()


def probe(name: str) -> bool:
    found = step.connected(b"\0" + name.encode())
    if found is None:
        return False
    found.close()
    return True


def ask(name: str, who: str, folder: Path, **more: str) -> subprocess.Popen:
    env = {**os.environ, "WHO": who, "PYTHONPATH": str(CHECKOUT), **more}
    return subprocess.Popen(
        [sys.executable, "-c", ASK, name], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_step_has_the_output_folder_environment_and_status_of_whoever_asked(starter, tmp_path):
    asked = [ask(starter[0], who, tmp_path) for who in ("a", "b")]
    for who, process in zip("ab", asked, strict=True):
        out, err = process.communicate(timeout=20)
        assert (out, err, process.returncode) == (f"step of {who} in {tmp_path}\n", "", 3)


def test_what_a_step_raises_is_told_where_it_was_asked_for(starter, tmp_path):
    process = ask(starter[0], "nobody", tmp_path)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1 and "no such step" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_step_ends_with_whoever_asked_for_it(starter, tmp_path, number):
    process = ask(starter[0], "a", tmp_path, SECONDS_OF_STEP="60")
    process.stdout.readline()
    pid = int(process.stdout.readline().split()[1])
    process.send_signal(number)
    until("the step is gone", lambda: not psutil.pid_exists(pid), 10, every=0.05)
    process.communicate(timeout=10)
    assert process.returncode != 0


def test_it_ends_when_nobody_asks_and_not_while_a_step_runs(starter, tmp_path):
    process = ask(starter[0], "a", tmp_path, SECONDS_OF_STEP="3")
    began = time.monotonic()
    process.communicate(timeout=20)
    assert process.returncode == 3 and time.monotonic() - began >= 3
    assert starter[1].wait(10) == 0


def test_a_second_one_of_the_same_name_leaves_the_work_to_the_first(starter):
    second = subprocess.run([sys.executable, "-W", "ignore", "-c", STARTER, starter[0]], cwd=CHECKOUT, timeout=30)
    assert second.returncode == 0 and starter[1].poll() is None


def test_other_threads_or_other_code_have_another_starter(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = step.name_of_starter()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert one != step.name_of_starter() and one.startswith(b"\0mmret-steps-")


def test_without_a_starter_the_command_itself_is_executed(tmp_path):
    code = (
        "import sys; from assets.cluster import step; step.starter = lambda: None; sys.argv[1:] = ['echo', 'itself']; step.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=20)
    assert done.stdout == "itself\n" and done.returncode == 0


@pytest.mark.cluster
def test_a_child_imports_no_library_of_the_models_anew():
    code = (
        "import sys; from importlib import import_module; from assets.cluster.starter import PRELOADED\n"
        "for name in PRELOADED: import_module(name)\n"
        "print({'transformers.models.clip.modeling_clip', 'mmret.encode.clip', 'mmret.mine.stage'} - set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "set()\n", done.stderr
