"""Invariants: a run whose storage is not this machine's disk leaves its states and its checkpoint there whole, and another machine
goes on from them to the same bits; a checkpoint that stands is found again; processes that do not see one folder are told apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mmret import progress
from mmret.errors import UserError
from mmret.retriever.train.loop import train
from mmret.retriever.train.parallel import Group
from mmret.retriever.train.state import Place, States
from mmret.storage.local import LocalStorage
from tests.retriever.runs import small


class Killed(Exception):
    pass


class Elsewhere(LocalStorage):
    """A storage that is no disk of this machine: what is read from it is a copy below ``scratch``."""

    is_local = False

    def __init__(self, root: Path, scratch: Path):
        super().__init__(root)
        self.scratch = scratch

    def local(self, key: str) -> Path:
        copy = self.scratch / "copies" / key
        copy.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy2(super().local(key), copy))

    def local_folder(self, prefix: str) -> Path:
        return Path(shutil.copytree(super().local_folder(prefix), self.scratch / "folders" / prefix, dirs_exist_ok=True))


def dying(task, done, total, note=""):
    if done >= 5:
        raise Killed("killed here")


@pytest.mark.usefixtures("one_thread")
def test_another_machine_goes_on_from_the_states_in_a_storage_to_the_same_bits(clip_folder, triplets, load, tmp_path):
    recipe = small("clip", trainable="text+blocks")
    train(recipe, triplets, load, clip_folder, tmp_path / "whole")
    lake = tmp_path / "lake"
    first, second = (Place(Elsewhere(lake, tmp_path / name), "checkpoints/r") for name in ("first", "second"))
    with pytest.raises(Killed, match="killed here"), progress.reporting(dying):
        train(recipe, triplets, load, clip_folder, first)
    states = sorted(path.name for path in (lake / "checkpoints" / "r.work").iterdir())
    assert states == ["identity", "state-000000002.pt", "state-000000004.pt"]
    shutil.rmtree(tmp_path / "first")
    steps = []
    with progress.reporting(lambda task, done, total, note="": steps.append(done)):
        facts = train(recipe, triplets, load, clip_folder, second)
    assert steps[-2:] == [5, 6] and 4 not in steps  # the first report is of frozen features
    made = lake / "checkpoints" / "r" / "model.safetensors"
    assert made.read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert not (lake / "checkpoints" / "r.work").exists() and not second.work.exists()
    assert not list((tmp_path / "second").rglob("state-*"))
    third = Place(Elsewhere(lake, tmp_path / "third"), "checkpoints/r")
    assert third.finished() == json.loads(json.dumps(facts)) and third.finished("another") is None
    third.add("data.state", "{}")
    assert (lake / "checkpoints" / "r" / "data.state").read_text() == "{}" and made.is_file()


def test_a_state_that_does_not_read_is_passed_over_and_one_that_is_not_seen_is_said(tmp_path):
    place = Place(Elsewhere(tmp_path / "lake", tmp_path / "here"), "checkpoints/r")
    states = States(place.work, "x", place)
    for step in (2, 4):
        states.save(step, {"step": step})
    (tmp_path / "lake" / "checkpoints" / "r.work" / "state-000000004.pt").write_bytes(b"PK half")
    assert states.latest() == {"step": 2} and States(place.work, "x", place).latest() == {"step": 2}
    with pytest.raises(UserError, match="state-000000004.pt, which another does not see: a lake that several machines"):
        states.at(4)
    assert States(place.work, "another", place).latest() is None


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), UserError("the credentials")])
def test_a_state_that_cannot_be_fetched_is_kept(tmp_path, monkeypatch, error):
    place = Place(Elsewhere(tmp_path / "lake", tmp_path / "here"), "checkpoints/r")
    states = States(place.work, "x", place)
    states.save(2, {"step": 2})

    def full(key):
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error), match="No space left|^$|the credentials"):
        patch.setattr(place.storage, "local", full)
        states.latest()
    assert states.latest() == {"step": 2}


def test_what_all_read_is_written_by_the_first_or_by_the_first_of_each_machine(tmp_path, monkeypatch):
    """Two processes played by one: what the other says is what this one says, or its opposite."""

    class Two(Group):
        other_sees = True

        def all_values(self, value):
            return [value, value if not isinstance(value, bool) else self.other_sees]

        def wait(self):
            pass

    first, second = Two(0, 2), Two(1, 2)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert first.writes_to(tmp_path / "work") and first.all_see(tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())
    first.other_sees = second.other_sees = False
    assert first.writes_to(tmp_path) and second.writes_to(tmp_path)  # each on a machine of its own
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not second.writes_to(tmp_path)
    assert Group().writes_to(tmp_path / "never made") and not (tmp_path / "never made").exists()


def test_a_place_of_a_folder_is_that_folder(tmp_path):
    place = Place.of(tmp_path / "out")
    assert (place.folder, place.work, place.finished()) == (tmp_path / "out", tmp_path / "out.work", None)
    assert Place.of(place) is place
    torch.save({}, tmp_path / "x")
    with place.publish() as aside:
        (aside / "x").write_text("y")
    assert (place.folder / "x").read_text() == "y"


def test_processes_of_one_machine_read_a_state_though_each_removes_the_copy_that_they_share(tmp_path):
    class Shared(Elsewhere):
        taken = 0

        def local(self, key: str) -> Path:
            copy = super().local(key)
            if self.taken < 2:  # another process is done with it just now
                self.taken += 1
                copy.unlink()
            return copy

    storage = Shared(tmp_path / "lake", tmp_path / "here")
    place = Place(storage, "checkpoints/r")
    states = States(place.work, "x", place)
    states.save(2, {"step": 2})
    assert states.at(2) == {"step": 2} and storage.taken == 2
    assert not list((tmp_path / "here").rglob("state-*"))
