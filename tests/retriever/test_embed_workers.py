"""Invariants: several processes write the same bytes as one, whatever each of them did; one that ends is one sentence, and what is
finished stays; however a run ends, no process is left."""

from __future__ import annotations

from dataclasses import replace
from queue import SimpleQueue

import pytest

from mmret import progress
from mmret.errors import UserError
from mmret.retriever import embed as embedding
from mmret.retriever import embed_workers
from mmret.retriever.embed import EmbedOptions, embed
from mmret.retriever.embed_parts import part_path
from mmret.retriever.embed_workers import device_names

ONE = EmbedOptions(batch_size=3, part_rows=4, device="cpu", precision="int8", dimensions=7)
TWO = replace(ONE, processes=2)


@pytest.fixture
def folder(tmp_path, pictures):
    """24 pictures, one of them none: six parts."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n, data in enumerate(pictures.values()):
        (folder / f"{n:02d}.png").write_bytes(b"not a picture" if n == 6 else data)
    return folder


@pytest.fixture
def begun(monkeypatch):
    """The processes that were begun, each with what it was told."""
    processes = {}

    def tell(process, line, tell=embed_workers._tell):
        processes.setdefault(process, []).append(line)
        tell(process, line)

    monkeypatch.setattr(embed_workers, "_tell", tell)
    return processes


def written(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_process_that_is_killed_is_one_sentence_and_its_run_ends_with_the_bytes_of_one_process(
    folder, clip_folder, tmp_path, monkeypatch, begun
):
    alone = embed([str(folder)], clip_folder, tmp_path / "one", ONE)
    with monkeypatch.context() as patch:  # a run of one process that broke off behind two parts
        patch.setattr(embedding, "_finish", lambda *a: None)
        embed([str(folder)], clip_folder, tmp_path / "two", ONE)
    for number in range(2, 6):
        part_path(tmp_path / "two.work", number).unlink()

    def fatal(process, line, tell=embed_workers._tell):
        if line == "2":
            process.kill()
        tell(process, line)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="on cpu was ended by SIGKILL.*same command goes on"):
        patch.setattr(embed_workers, "_tell", fatal)
        embed([str(folder)], clip_folder, tmp_path / "two", TWO)
    assert len(begun) == 2 and all(process.poll() is not None for process in begun)
    assert all(part_path(tmp_path / "two.work", number).is_file() for number in range(2)) and not (tmp_path / "two").exists()

    begun.clear()
    told = []
    with progress.reporting(lambda task, done, total, note="", counts=None: told.append(done)):
        counts = embed([str(folder)], clip_folder, tmp_path / "two", TWO)
    dealt = sorted(int(line) for lines in begun.values() for line in lines[1:])
    assert dealt == list(range(8)) and len(begun) == 2, "each part to one process, and to each a number behind the last"
    assert counts["kept"] >= 8 and counts == {**alone, "kept": counts["kept"]} and alone["embedded"] == 23 and max(told) == 24
    assert written(tmp_path / "two") == written(tmp_path / "one") and len(written(tmp_path / "one")) == 6


def test_what_one_process_refuses_is_the_error_of_all_and_none_is_left(folder, clip_folder, tmp_path, begun):
    with pytest.raises(UserError, match="'cuda:77', but torch sees"):
        embed([str(folder)], clip_folder, tmp_path / "out", replace(ONE, device="auto", devices=("cpu", "cuda:77")))
    assert len(begun) == 2 and all(process.poll() is not None for process in begun)


def test_an_interrupt_ends_all_processes(folder, clip_folder, tmp_path, monkeypatch, begun):
    def interrupted(process, line, tell=embed_workers._tell):
        if line == "0":
            raise KeyboardInterrupt("stopped here")
        tell(process, line)

    monkeypatch.setattr(embed_workers, "_tell", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped here"):
        embed([str(folder)], clip_folder, tmp_path / "out", TWO)
    assert len(begun) == 2 and all(process.poll() is not None for process in begun)
    assert (tmp_path / "out.work" / "identity").is_file() and not (tmp_path / "out").exists()


def test_processes_that_count_other_rows_say_that_the_sources_changed():
    said = SimpleQueue()
    for message in [(0, {"rows": 10}), (1, {"rows": 11}), (0, None), (1, None)]:
        said.put(message)
    with pytest.raises(UserError, match="sources changed while they were read: one process counted 10 rows, another 11"):
        list(embed_workers._deal([None, None], ["cpu", "cpu"], said))


def test_devices_are_taken_in_turn_and_none_is_left_out():
    assert device_names(EmbedOptions()) == ["auto"] and device_names(EmbedOptions(processes=2)) == ["auto", "auto"]
    gpus = EmbedOptions(devices=("cuda:0", "cuda:1"))
    assert device_names(gpus) == ["cuda:0", "cuda:1"]
    assert device_names(replace(gpus, processes=3)) == ["cuda:0", "cuda:1", "cuda:0"]
    with pytest.raises(UserError, match="1 processes cannot use 2 devices"):
        device_names(replace(gpus, processes=1))
