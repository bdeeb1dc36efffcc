"""Invariant: whatever becomes of a file changes the signature of its folder, and the order in which files are listed does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmret.ingest.watch import signature, watchable
from tests.ingest.files import write

OLD, NEW = 1_000_000_000, 2_000_000_000


def older(folder: Path) -> None:
    write(folder, {"sub/a.png": b"four"})
    os.utime(folder / "sub/a.png", ns=(OLD - 1, OLD - 1))


def same_size(folder: Path) -> None:
    write(folder, {"sub/a.png": b"FOUR"})
    os.utime(folder / "sub/a.png", ns=(OLD + 1, OLD + 1))


def swapped(folder: Path) -> None:
    (folder / "sub/a.png").rename(folder / "spare")
    (folder / "b.png").rename(folder / "sub/a.png")
    (folder / "spare").rename(folder / "b.png")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file is renamed": lambda folder: (folder / "b.png").rename(folder / "c.png"),
    "a folder is renamed": lambda folder: (folder / "sub").rename(folder / "other"),
    "a file is moved": lambda folder: (folder / "b.png").rename(folder / "sub/b.png"),
    "two names are swapped": swapped,
    "a file is replaced by an older one": older,
    "a file of the same size is written, the newest time stays": same_size,
    "a file is removed and another of its size is there": lambda folder: ((folder / "b.png").unlink(), same_size(folder)),
    "a file is added": lambda folder: write(folder, {"d.png": b""}),
    "a link is added": lambda folder: (folder / "link.png").symlink_to("b.png"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write(tmp_path / "pictures", {"sub/a.png": b"four", "b.png": b"FOUR", "newest.png": b"x"})
    for name, time in (("sub/a.png", OLD), ("b.png", OLD + 5), ("newest.png", NEW)):
        os.utime(made / name, ns=(time, time))
    return made


@pytest.mark.parametrize("change", CHANGES)
def test_the_signature_changes_when(change: str, folder: Path):
    before = signature(str(folder))
    CHANGES[change](folder)
    assert signature(str(folder)) != before


def test_the_signature_does_not_depend_on_the_order_of_listing_or_the_place_of_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before, scandir = signature(str(folder)), os.scandir

    class Backwards:
        def __init__(self, path: str):
            self.entries = list(scandir(path))[::-1]

        def __enter__(self) -> Backwards:
            return self

        def __iter__(self) -> Iterator[os.DirEntry]:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None: ...

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", Backwards)
        assert signature(str(folder)) == before
    folder.rename(tmp_path / "elsewhere")
    assert signature(str(tmp_path / "elsewhere")) == before and signature(str(folder)) is None


def test_hidden_files_count_for_nothing_and_no_file_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch):
    before = signature(str(folder))
    write(folder, {".part": b"half", ".cache/x.png": b"y"})
    monkeypatch.setattr("builtins.open", lambda *_: pytest.fail("opened"))
    assert signature(str(folder)) == before


def test_the_signature_of_what_has_not_changed_is_the_same_in_every_version(tmp_path: Path):
    """Sensors keep it: another one would be a change of every source."""
    write(tmp_path, {"sub/a.png": b"four", "b.png": b"x", "table.csv": b"1234567"})
    for name in ("sub/a.png", "b.png", "table.csv"):
        os.utime(tmp_path / name, ns=(NEW, OLD))
    assert signature(str(tmp_path / "table.csv")) == "53c4fe41d2aa7ded"
    assert signature(str(tmp_path)) == "29b9ac3b35ab04cd"
    (tmp_path / "link.csv").symlink_to("table.csv")
    assert signature(str(tmp_path / "link.csv")) == "53c4fe41d2aa7ded"  # a source that is a link is what it leads to


def test_built_in_corpora_are_not_watched():
    assert watchable(["/a", "shapes:5?seed=0", "/b.tar", "/shapes:5"]) == ["/a", "/b.tar", "/shapes:5"]
