"""Layout: the traps of Dagster's own modules stay closed. Who may import whom: ``test_layers``."""

import re
import subprocess
import sys

from tests.conftest import CHECKOUT


def test_modules_with_dagster_objects_do_not_postpone_annotations():
    files = [*(CHECKOUT / "assets").rglob("*.py"), *(CHECKOUT / "resources").glob("*.py")]
    assert files and not [p for p in files if "from __future__ import annotations" in p.read_text()]


def test_assets_import_no_model_library_at_module_level():
    heavy = {"torch", "transformers", "open_clip", "lancedb", "vllm", "matplotlib"}
    code = f"import sys, assets.definitions; print(sorted({heavy!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=CHECKOUT, check=True)
    assert out.stdout.strip() == "[]"


def test_lock_holds_no_url_and_ci_runs_the_readme_s_command():
    assert not re.search(r"https?://|file:", (CHECKOUT / "requirements.lock").read_text())
    assert "make test" in (CHECKOUT / ".ci" / "run").read_text()
    readme = (CHECKOUT / "README.md").read_text()
    assert "make demo" in readme and "make test" in readme


def test_the_licence_that_the_project_names_lies_beside_it():
    assert 'license = "MIT"' in (CHECKOUT / "pyproject.toml").read_text()
    words = (CHECKOUT / "LICENSE").read_text()
    assert words.startswith("MIT License\n\nCopyright (c) ") and "The MMRet lakehouse authors" in words
