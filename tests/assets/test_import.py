"""Loading the code location reads no environment variable of ours and no lake: it is the same whichever lake it serves."""

import json
import os
import subprocess
import sys

from tests.conftest import CHECKOUT

LOAD = """
import json, os, sys

read, opened = set(), set()

class Recorded(type(os.environ)):
    copying = 0  # a copy for a child process asks for every name

    def keys(self):
        names = list(self)
        self.copying = len(names)
        return names

    def __getitem__(self, key):
        if self.copying:
            self.copying -= 1
        else:
            read.add(key)
        return super().__getitem__(key)

def watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir"):
        opened.add(str(arguments[0]))

os.environ.__class__ = Recorded
sys.addaudithook(watch)
from assets.definitions import code_location, defs
code_location().get_repository_def()
json.dump({"read": sorted(read), "opened": sorted(opened)}, sys.stdout)
"""


def loaded(**variables: str) -> dict:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MMRET_", "DAGSTER_"))} | variables
    line = [sys.executable, "-W", "ignore", "-c", LOAD]
    done = subprocess.run(line, capture_output=True, text=True, cwd=CHECKOUT, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_loading_the_code_location_reads_no_variable_and_no_lake(tmp_path):
    lake = tmp_path / "lake"
    lake.mkdir()
    (lake / "lake.yaml").write_text("profile: [of a lake that does not load")
    found = loaded(MMRET_LAKE=str(lake), MMRET_EXECUTOR="nonsense")
    assert [name for name in found["read"] if name.startswith("MMRET_")] == []
    assert [path for path in found["opened"] if path.startswith((str(lake), str(CHECKOUT / "lakes")))] == []
    assert found["read"] and found["opened"], "the recorder hears nothing"
