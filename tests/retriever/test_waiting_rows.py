"""Invariants of rows that wait on disk: whatever the size of a chunk they are the rows of one tensor, few of them stay in memory,
a disk without room loses none, and a step whose pictures wait is the step whose pictures do not, bit by bit."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from mmret.retriever.train import waiting_rows
from mmret.retriever.train.waiting_rows import WaitingRows, mapped, spooled
from tests.retriever.runs import a_trainer, small

PICTURES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (23, 3, 4, 5), dtype=np.uint8))


def decode(numbers):
    return PICTURES[torch.from_numpy(numbers)]


@pytest.fixture
def on_disk(monkeypatch):
    monkeypatch.setattr(waiting_rows, "HELD", 7 * 60)
    monkeypatch.setattr(waiting_rows, "PIECE", 5)


@pytest.mark.parametrize("size", [1, 4, 19, 100])
def test_chunks_of_waiting_rows_are_those_of_a_tensor(on_disk, tmp_path, size):
    numbers = np.random.default_rng(1).permutation(23)[:19]
    expected = decode(numbers).split(size)
    np.save(tmp_path / "rows.npy", PICTURES.numpy())
    frozen = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for rows in (spooled(decode, numbers), mapped(frozen, numbers)):
        assert isinstance(rows, WaitingRows) and len(rows) == 19
        chunks = rows.split(size)
        assert [len(chunk) for chunk in chunks] == [len(chunk) for chunk in expected]
        for _ in range(2):  # each is read in both passes
            assert all(torch.equal(chunk[:], own) for chunk, own in zip(chunks, expected, strict=True))
        assert torch.equal(chunks[-1][-1:], expected[-1][-1:])
        for places in ([0, 1, 2, 5, 17, 18], [3], list(range(19))):
            assert torch.equal(rows.take(np.array(places)), decode(numbers[places]))


@pytest.mark.parametrize("count, waits", [(1, False), (7, False), (8, True)])
def test_few_pictures_stay_in_memory(on_disk, count, waits):
    rows = spooled(decode, np.arange(count))
    assert isinstance(rows, WaitingRows) == waits and torch.equal(rows[:], PICTURES[:count])


@pytest.mark.parametrize("written", [0, 2])
def test_a_disk_without_room_loses_no_picture(on_disk, monkeypatch, written):
    plain, calls = os.pwrite, []

    def full(descriptor, data, at):
        calls.append(at)
        if len(calls) > written:
            raise OSError(28, "No space left on device")
        return plain(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    rows = spooled(decode, np.arange(23))
    assert isinstance(rows, torch.Tensor) and torch.equal(rows, PICTURES) and len(calls) == written + 1


def test_a_step_whose_pictures_wait_is_that_of_pictures_in_memory(clip_folder, triplets, load, tmp_path, monkeypatch):
    found = []
    for held in (waiting_rows.HELD, 0):
        monkeypatch.setattr(waiting_rows, "HELD", held)
        monkeypatch.setattr(waiting_rows, "PIECE", 256 if held else 5)
        trainer = a_trainer(small("clip", chunk_size=3), clip_folder, triplets, load, tmp_path / str(held), double=False)
        trainer.embedder.model.train()
        batch = trainer.data.batch(0)
        read = trainer.embedder.read(batch)
        assert isinstance(read, WaitingRows) == (held == 0)
        found.append([*trainer.train_step(batch, read), *trainer.embedder.model.state_dict().values()])
    assert found[0][:2] == found[1][:2] and all(map(torch.equal, found[0][2:], found[1][2:]))


@pytest.mark.parametrize("trainable", ["all", "text+blocks", "above"])
def test_so_is_a_step_of_a_reranker_also_where_a_chunk_takes_some_of_the_rows(
    clip_folder, triplets, load, tmp_path, monkeypatch, trainable
):
    found = []
    for waits in (False, True):
        monkeypatch.setattr(waiting_rows, "HELD", 0)
        recipe = small("reranker", chunk_size=4, trainable=trainable)
        trainer = a_trainer(recipe, clip_folder, triplets, load, tmp_path / str(waits), double=False)
        trainer.embedder.model.train()
        batch = trainer.data.batch(0)
        numbers, rows = trainer.embedder.read(batch)
        assert isinstance(rows, WaitingRows)
        read = numbers, rows if waits else rows[:]
        found.append([*trainer.train_step(batch, read), *trainer.embedder.model.state_dict().values()])
    assert found[0][:2] == found[1][:2] and all(map(torch.equal, found[0][2:], found[1][2:]))


def test_a_picture_that_cannot_be_read_ends_the_step(on_disk):
    def broken(numbers):
        if 2 in numbers:
            raise FileNotFoundError("shard-00001.lance")
        return decode(numbers)

    with pytest.raises(FileNotFoundError, match="shard-00001"):
        spooled(broken, np.arange(23))
