"""Whole runs small enough for a test: the settings that make them so, and the command as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

TINY = [
    "mine.k=10",
    "towers={image_size: 32, width: 32, layers: 1, heads: 2, projection: 16, epochs: 2, dino_epochs: 1, batch_size: 64,"
    " min_steps: 10, vocabulary: 600}",
    "recipes.demo.steps=30",
    "recipes.demo.batch_size=32",
    "recipes.demo.checkpoint_every=10",
    "evaluate.edits=30",
]


def command(lake: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "mmret", "run", "--lake", str(lake), "--json", *more]


def first(lake: Path, source: str = "shapes:180?seed=3") -> list[str]:
    return command(lake, "--images", source, "--shard-size", "100", *(part for s in TINY for part in ("--set", s)))


def run(line: list[str], most: float = 280) -> dict:
    """The summary of a run that ends well within ``most`` seconds."""
    done = subprocess.run(line, capture_output=True, text=True, timeout=most)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
