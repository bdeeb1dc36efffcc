"""Invariant: a source that was refused before anything was sealed does not stand in the way of one that is named instead of it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmret.cli import app, graph
from mmret.errors import UserError
from mmret.ingest.stage import seal_corpus
from mmret.lake import Lake
from mmret.ray_cluster import ClusterUnreachable
from tests.ingest.files import captioned, png, write


@pytest.fixture
def tried(monkeypatch) -> list[tuple[str, ...]]:
    """The sources of each run, which only seals."""
    seen: list[tuple[str, ...]] = []

    def seal(lease, settings, *_, **__):
        seen.append(tuple(settings.corpus.sources))
        seal_corpus(Lake(lease.lake.root), settings, "inputs")
        raise UserError("and no further")

    monkeypatch.setattr(graph, "materialize", seal)
    return seen


def run(lake: Path, *images: Path) -> str:
    done = CliRunner().invoke(app, ["run", "--lake", str(lake), *(part for path in images for part in ("--images", str(path)))])
    return str(done.exception)


def test_a_refused_first_source_gives_way_to_another_and_is_tried_again_where_none_is_named(tmp_path: Path, tried):
    bare = write(tmp_path / "bare", {f"{i}.png": png(i) for i in range(12)})
    good = captioned(tmp_path / "good", {f"{i}.png": png(20 + i) for i in range(3)})
    lake = tmp_path / "lake"
    assert "all for no caption" in (words := run(lake, bare)) and "with --images" in words
    run(lake)
    assert "no further" in run(lake, good)
    assert tried == [(str(bare),), (str(bare),), (str(good),)]
    assert Lake(lake).read_configuration()["sources"] == [str(good)]
    assert "refused" not in Lake(lake).read_configuration()
    run(lake, bare)  # the lake has rows now: a source stays until it is removed
    run(lake)
    assert tried[3:] == [(str(good), str(bare))] * 2


def test_a_mended_source_that_is_named_again_is_used(tmp_path: Path, tried):
    bare = write(tmp_path / "bare", {f"{i}.png": png(i) for i in range(12)})
    run(tmp_path / "lake", bare)
    captioned(bare, {})
    write(bare, {f"{i}.txt": f"picture {i}" for i in range(12)})
    (bare / "captions.jsonl").unlink()
    assert "no further" in run(tmp_path / "lake", bare)
    assert tried == [(str(bare),)] * 2


def test_a_cluster_that_does_not_answer_is_no_fault_of_the_sources(tmp_path: Path, monkeypatch):
    def unreachable(*_, **__):
        raise ClusterUnreachable("no Ray cluster answers")

    monkeypatch.setattr(graph, "materialize", unreachable)
    good = captioned(tmp_path / "good", {f"{i}.png": png(i) for i in range(3)})
    assert run(tmp_path / "lake", good) == "no Ray cluster answers"
    assert "refused" not in Lake(tmp_path / "lake").read_configuration()
