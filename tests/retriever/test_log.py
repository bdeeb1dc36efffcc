"""Invariants: measuring on the held-out slice changes no weight; recall is brute force, ties behind; TensorBoard holds what the
Parquet log holds, also after a kill; the check on losses passes and fails where it should."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import load_file

from assets.checks.training import loss_fell, loss_is_finite
from mmret import progress
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.retriever.train.held_out import HeldOut
from mmret.retriever.train.kinds import EMBEDDERS
from mmret.retriever.train.log import EVENTS, TAGS, plot_log, read_log, write_log
from mmret.retriever.train.loop import train
from mmret.retriever.train.parallel import SINGLE_PROCESS
from mmret.schemas import CHECKPOINTS
from tests.retriever.runs import small


def events(folder: Path) -> dict[str, dict[int, float]]:
    """Scalars by tag and step of the one event file (TFRecord framing: length, checksum, data, checksum)."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    scalars: dict[str, dict[int, float]] = {}
    (file,) = folder.glob("events.out.tfevents.*")
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        if event.session_log.status == SessionLog.START:
            scalars.setdefault("purged from", {})[event.step] = 0
        for value in event.summary.value:
            scalars.setdefault(value.tag, {})[event.step] = value.simple_value
        data = data[16 + length :]
    return scalars


def test_measuring_changes_no_weight_and_is_logged_in_both_forms(clip_folder, triplets, load, tmp_path):
    seen = []
    train(small("clip"), triplets, load, clip_folder, tmp_path / "plain")
    facts = train(small("clip", evaluate_every=3), triplets, load, clip_folder, tmp_path / "measured", on_row=seen.append)
    plain, measured = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "measured"))
    assert all((plain[n] == measured[n]).all() for n in plain)
    log = read_log(tmp_path / "measured").to_pylist()
    assert [row["step"] for row in log] == [2, 3, 4, 6] and [row["recall_1"] is None for row in log] == [True, False, True, False]
    assert [row["step"] for row in seen] == [2, 3, 4, 6] and facts["recall_10"] == log[-1]["recall_10"]
    assert all(row["memory_bytes"] > 2**20 for row in log)
    assert "recall_1" not in train(small("clip"), triplets, load, clip_folder, tmp_path / "plain")
    scalars = events(tmp_path / "measured" / EVENTS)
    for column, tag in TAGS.items():
        expected = {row["step"]: row[column] for row in log if row[column] is not None}
        assert scalars.get(tag, {}).keys() == expected.keys()  # one task: no loss by task
        np.testing.assert_allclose([scalars[tag][s] for s in expected], list(expected.values()), rtol=1e-6)
    for name in ("plain", "measured"):
        assert plot_log(tmp_path / name).startswith(b"\x89PNG")


class Killed(Exception):
    pass


def test_events_are_on_disk_while_it_trains_and_those_after_the_last_state_are_purged(clip_folder, triplets, load, tmp_path):
    def dying(at):
        def report(task, done, total, note=""):
            if done == at:
                raise Killed("killed here")

        return progress.reporting(report)

    recipe, live = small("clip", log_every=1), tmp_path / "out.work" / EVENTS
    with pytest.raises(Killed, match="killed here"), dying(3):
        train(recipe, triplets, load, clip_folder, tmp_path / "out")
    assert list(events(live)["train/loss"]) == [1, 2, 3]
    shutil.move(next(live.iterdir()), tmp_path / "first")
    with pytest.raises(Killed, match="killed here"), dying(5):  # goes on from the state of step 2
        train(recipe, triplets, load, clip_folder, tmp_path / "out")
    assert list(events(live)["purged from"]) == [3] and list(events(live)["train/loss"]) == [3, 4, 5]
    train(recipe, triplets, load, clip_folder, tmp_path / "out")
    assert list(events(tmp_path / "out" / EVENTS)["train/loss"]) == [1, 2, 3, 4, 5, 6] and not live.exists()


def test_recall_is_brute_force_over_the_slices_own_images(clip_folder, triplets, pictures, load):
    recipe = small("clip", held_out_queries=3)
    embedder = EMBEDDERS["clip"].load(recipe, clip_folder, SINGLE_PROCESS)
    held_out = HeldOut(triplets, recipe, load)
    assert len(held_out) == 3 and len(HeldOut(triplets, small("clip"), load)) == 4
    test = {row["pair_id"]: row for row in triplets.to_pylist() if row["split"] == "test"}
    ids = held_out.pictures.images.to_pylist()
    gallery = embedder.retriever.encode([pictures[i] for i in ids])
    ranks = []
    for query, target, text in zip(held_out.query, held_out.target, held_out.texts, strict=True):
        row = next(r for r in test.values() if r["query_id"] == ids[query] and r["target_id"] == ids[target])
        assert text in row["texts"]
        scores = gallery @ embedder.retriever.encode([pictures[ids[query]]], [text])[0]
        ranks.append(1 + sum(scores[i] >= scores[target] for i in range(len(ids)) if i not in (query, target)))
    assert held_out.measure(embedder) == {f"recall_{k}": 100 * np.mean([r <= k for r in ranks]) for k in (1, 5, 10)}


def test_a_model_that_embeds_everything_alike_finds_nothing(triplets, load):
    class Same:
        class model:  # noqa: N801
            training = False
            eval = train = staticmethod(lambda *_: None)

        @staticmethod
        def encode(images, texts=None):
            return np.ones((len(images), 4), np.float32)

    held_out = HeldOut(triplets, small("clip"), load)
    assert len(held_out.pictures) > 11 and held_out.measure(Same) == {"recall_1": 0, "recall_5": 0, "recall_10": 0}
    assert HeldOut(triplets.slice(0, 0), small("clip"), load).measure(Same) == {}


def test_vectors_that_are_not_numbers_are_refused_and_not_a_recall_of_100(triplets, load):
    class Broken:
        class model:  # noqa: N801
            training = False
            eval = train = staticmethod(lambda *_: None)

        @staticmethod
        def encode(images, texts=None):
            return np.full((len(images), 4), np.nan, np.float32)

    with pytest.raises(UserError, match="are not finite: the model is broken"):
        HeldOut(triplets, small("clip"), load).measure(Broken)


@pytest.mark.parametrize(
    "losses, finite, fell",
    [
        ([5.0, 4.0, 3.0], True, True),
        ([3.0, 4.0, 5.0], True, False),
        ([3.0], True, True),
        ([5.0, float("nan"), 3.0], False, True),
        ([3.0, 3.0, 3.0], True, False),
        ([9.0, 5.0, *[4.0] * 17, 9.0], True, True),
        ([5.0, 5.0, *[4.0] * 16, 1.0, 9.0], True, False),
    ],
)
def test_the_check_on_losses(tmp_path, losses, finite, fell):
    lake = Lake(tmp_path)
    row = {"recipe": "r", "folder": "checkpoints/r", "step": 3, "loss": 1.0, "pairs": 1, "seconds": 1.0, "settings": "{}"}
    lake.write("checkpoints", "r", pa.Table.from_pylist([{**dict.fromkeys(CHECKPOINTS.names), **row}], CHECKPOINTS), "x")
    assert not loss_is_finite.violations(lake, None, None) and not loss_fell.violations(lake, None, None)  # no log, nothing to say
    folder = tmp_path / "checkpoints" / "r"
    folder.mkdir()
    write_log([{"step": i, "loss": loss} for i, loss in enumerate(losses)], folder)
    assert (not loss_is_finite.violations(lake, None, None)) == finite
    assert (not loss_fell.violations(lake, None, None)) == fell
