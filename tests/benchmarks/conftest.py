"""Where the golden vectors lie, and the ``mmret score`` command as an outside caller sees it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mmret.cli.score import score
from mmret.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The golden vectors; tests that need them are skipped where they are not beside the checkout."""
    if not (SHARED / "golden" / "circo" / "val.json").is_file():
        pytest.skip("the golden vectors are not beside this checkout")
    return SHARED / "golden"


@pytest.fixture(scope="session")
def photos() -> Path:
    if not (SHARED / "data" / "openstax_photos" / "captions.jsonl").is_file():
        pytest.skip("the test pictures are not beside this checkout")
    return SHARED / "data" / "openstax_photos"


def load(path: Path) -> Any:
    raw = path.read_bytes()
    return json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)


def dump(path: Path, data: Any) -> Path:
    text = data if isinstance(data, str) else json.dumps(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


class Answer:
    """Exit code, stdout and stderr of one call of ``mmret score``."""

    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def call() -> Callable[..., Answer]:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(score)
    app.callback()(lambda: None)

    def run(*arguments: Any) -> Answer:
        result = CliRunner().invoke(app, ["score", *map(str, arguments)])
        if isinstance(result.exception, UserError):
            return Answer(2, result.stdout, f"error: {result.exception}")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)

    return run
