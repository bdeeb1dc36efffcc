"""A lake that changes under a server: new pictures and weights are taken up without a restart, and no answer mixes two states."""

import shutil
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi_offline", reason="the server needs the extra 'serve'")

from mmret.lake import Lake
from tests.serve.conftest import served, until_ready


@pytest.fixture
def own_lake(small_lake, tmp_path) -> Lake:
    return Lake(Path(shutil.copytree(small_lake[0], tmp_path / "lake")))


def until(client: httpx.Client, holds, seconds: float = 60) -> dict:
    end = time.monotonic() + seconds
    while not holds(answer := client.get("/search?text=a%20red%20circle&k=5").json()):
        assert time.monotonic() < end, answer
        time.sleep(0.05)
    return answer


def test_new_pictures_and_new_weights_are_taken_up_and_every_answer_is_of_one_state(own_lake):
    shard = own_lake.partitions("images")[-1]
    rows = own_lake.read("images", shard)
    fewer = rows.slice(0, rows.num_rows - 7)
    facts = own_lake.facts("images", shard)
    own_lake.write("images", shard, fewer, facts.inputs, **facts.notes)
    with served(own_lake) as running, httpx.Client(base_url=running.address, trust_env=False, timeout=60) as client:
        assert until_ready(client)["pictures"] == 173
        first = client.get("/search?text=a%20red%20circle&k=5").json()
        seen, stop = [], threading.Event()

        def ask() -> None:
            while not stop.is_set():
                answer = client.get("/search?text=a%20red%20circle&k=5")
                seen.append((answer.status_code, answer.json()))

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            own_lake.write("images", shard, rows, facts.inputs, **facts.notes)
            grown = until(client, lambda answer: answer["gallery"] == 180)
            assert grown["checkpoint"] == first["checkpoint"]
            _exchange_weights(own_lake)
            other = until(client, lambda answer: answer["checkpoint"] != first["checkpoint"])
        finally:
            stop.set()
            asking.join()
        assert client.get("/ready").json()["checkpoint"] == other["checkpoint"]
        assert {status for status, _ in seen} == {200}
        seen += [(200, answer) for answer in (first, grown, other)]  # which a slow machine may have asked for in between
        of_state: dict[tuple[str, int], list[list[dict]]] = {}
        for _, answer in seen:
            of_state.setdefault((answer["checkpoint"], answer["gallery"]), []).append(answer["hits"])
        assert len(of_state) == 3
        for answers in of_state.values():
            assert len({tuple(hit["image_id"] for hit in hits) for hits in answers}) == 1
            scores = np.array([[hit["score"] for hit in hits] for hits in answers])
            assert np.ptp(scores, axis=0).max() < 1e-5  # the last bits depend on who is answered together


def _exchange_weights(lake: Lake) -> None:
    """The recipe's checkpoint becomes another one: the model before training, written as a whole and renamed."""
    from safetensors.numpy import load_file, save_file

    folder = lake.root / lake.read("checkpoints", "demo")["folder"][0].as_py()
    weights = folder / "model.safetensors"
    changed = {name: values if name.startswith("logit") else values * 1.01 + 0.001 for name, values in load_file(weights).items()}
    save_file(changed, folder / "aside.safetensors", metadata={"format": "pt"})
    (folder / "aside.safetensors").rename(weights)
