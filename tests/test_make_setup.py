"""`make setup` on a machine without uv: what it prints is what it does, and nothing that is not an error looks like one."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

FILES = {
    "uv-0.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: uv\nVersion: 0.1\n",
    "uv-0.1.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "uv-0.1.data/scripts/uv": '#!/bin/sh\necho "$@" >> uv_calls\n',
}


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with a package `uv` that notes its calls, so that nothing comes from the network."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "uv-0.1-py3-none-any.whl", "w") as wheel:
        for name, text in FILES.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o100755 << 16  # a regular file that may be executed
            wheel.writestr(entry, text)
        wheel.writestr("uv-0.1.dist-info/RECORD", "".join(f"{name},,\n" for name in [*FILES, "uv-0.1.dist-info/RECORD"]))
    return folder


@pytest.mark.parametrize("pip", [True, False], ids=["an environment with pip", "an environment without pip"])
def test_setup_without_uv_brings_it_along_and_prints_no_line_that_looks_like_an_error(tmp_path, wheels, pip):
    checkout, tools = tmp_path / "checkout", tmp_path / "bin"
    checkout.mkdir()
    tools.mkdir()
    for tool in ("bash", "sh", "touch", "test", "echo", "env", "make"):
        tools.joinpath(tool).symlink_to(shutil.which(tool))
    tools.joinpath("python3").symlink_to(sys.executable)
    shutil.copy(CHECKOUT / "Makefile", checkout)
    for name in ("pyproject.toml", "requirements.lock"):
        (checkout / name).touch()
    subprocess.run([sys.executable, "-m", "venv", *([] if pip else ["--without-pip"]), checkout / ".venv"], check=True)
    environment = {"PATH": str(tools), "HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    environment["PIP_FIND_LINKS"] = str(wheels)
    done = subprocess.run([tools / "make", "setup"], cwd=checkout, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "installing into .venv …\n", "")
    assert [line.split()[:2] for line in (checkout / "uv_calls").read_text().splitlines()] == [["pip", "install"]] * 2
    assert (checkout / ".venv" / ".installed").exists()
