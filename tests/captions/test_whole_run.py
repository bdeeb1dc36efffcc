"""`mmret run` on pictures of which none has a caption: where a model writes them, or names say something, it ends with triplets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmret.ingest.shapes import caption, scene
from mmret.ingest.shapes_render import render
from tests.annotate.server import RudeServer
from tests.ingest.files import write
from tests.small_runs import command, run

SMALL = [
    "mine.k=10",
    "towers={image_size: 32, width: 32, layers: 1, heads: 2, projection: 16, epochs: 1, dino_epochs: 1, batch_size: 32,"
    " min_steps: 4, vocabulary: 600}",
    "recipes.demo.steps=4",
    "recipes.demo.batch_size=8",
    "evaluate.edits=5",
]
COUNT = 30


def scenes(folder: Path, name: str) -> Path:
    """Thirty pictures without captions, each called ``name`` with its own caption or number in it."""
    drawn = [scene(3, n) for n in range(COUNT)]
    return write(folder, {name.format(words=caption(each).rstrip("."), n=n): render(each) for n, each in enumerate(drawn)})


def line(lake: Path, folder: Path, *more: str) -> list[str]:
    return command(lake, "--images", str(folder), *(part for s in (*SMALL, *more) for part in ("--set", s)))


@pytest.mark.slow
def test_thirty_pictures_whose_names_say_something_end_with_triplets(tmp_path: Path):
    summary = run(line(tmp_path / "lake", scenes(tmp_path / "in", "{words} {n}.png")))
    assert summary["rows"]["images"] == COUNT and summary["rows"]["triplets"] > 0 and not summary["checks_failed"]
    assert list(summary["written_captions"]) == ["file_name"] and summary["written_captions"]["file_name"]["count"] == COUNT
    assert run(command(tmp_path / "lake"))["up_to_date"]


@pytest.mark.slow
def test_thirty_numbered_pictures_end_with_triplets_where_a_model_writes_their_captions(tmp_path: Path):
    texts = [caption(scene(3, n)) for n in range(COUNT)]
    with RudeServer(lambda body, number: texts[number % COUNT]) as server:
        model = json.dumps({"model": "vlm", "urls": [server.url]})
        folder = scenes(tmp_path / "in", "IMG_{n:04}.png")
        asked = line(tmp_path / "lake", folder, "captions.missing=model", f"captions.engine={model}")
        estimate = run([*asked, "--dry-run"])
        assert (estimate["kinds"][0]["kind"], estimate["to_send"], server.got) == ("caption", COUNT, 0)
        summary = run(asked)
        assert summary["rows"]["triplets"] > 0 and not summary["checks_failed"]
        assert summary["written_captions"]["model:vlm"]["count"] == server.got == COUNT
        assert summary["annotation"]["written_captions"]["requests_sent"] == COUNT
        assert run(command(tmp_path / "lake"))["up_to_date"] and server.got == COUNT, "nothing is paid for twice"
