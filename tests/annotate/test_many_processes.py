"""Pins of several processes that annotate at once and are killed: no request is sent whose answer was stored, whoever stored it; a
killed one loses what it had not flushed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from pathlib import Path

import pytest

from mmret.annotate.backends.load import load_annotator
from mmret.annotate.merging import READABLE_S, merge_answers
from mmret.annotate.protocol import Request
from mmret.annotate.store import AnswerStore
from mmret.hashing import uniform
from mmret.storage import open_storage
from tests.annotate import one_of_many
from tests.annotate.killable import pairs
from tests.annotate.server import RudeServer
from tests.annotate.test_openai_server import DESCRIPTION

ROOT = Path(__file__).resolve().parents[2]
FLUSH_S = 0.3
IN_FLIGHT = 4 + 256  # a server's places, and answers on their way to the store


class Many:
    """Processes on one store, and a server that notes when it was asked what."""

    def __init__(self, store: str, folder: Path, count: int, delay: float):
        self.store, self.log, self.count, self.delay = store, folder / "stored", count, delay
        model = load_annotator(one_of_many.settings("http://any"), "descriptions")
        rows = pairs(count).to_pylist()
        self.keys = [model.key(Request("describe", r["pair_id"], r["query_id"], r["target_id"])) for r in rows]
        self.of_seed = {int(uniform("seed", 0, r["pair_id"], 0) * 2**31): k for r, k in zip(rows, self.keys, strict=True)}
        self.sent: dict[str, list[int]] = defaultdict(list)

    def __enter__(self) -> Many:
        def answer(body: dict, number: int) -> str:
            self.sent[self.of_seed[body["seed"]]].append(time.time_ns())
            return DESCRIPTION

        self.server = RudeServer(answer, delay=self.delay, keep=False)
        self.server.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self.server.__exit__(*args)

    @property
    def total(self) -> int:
        return sum(map(len, list(self.sent.values())))

    def start(self, start: int, stop: int) -> subprocess.Popen:
        command = [sys.executable, "-m", "tests.annotate.one_of_many", self.store, str(self.log), str(start), str(stop)]
        return subprocess.Popen(
            [*command, str(FLUSH_S), self.server.url],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )

    def stored(self) -> dict[str, int]:
        """When each answer was first stored."""
        found: dict[str, int] = {}
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            key, at = line.split()
            found[key] = min(int(at), found.get(key, int(at)))
        return found

    def sent_although_stored(self, window_s: float) -> list[str]:
        """Keys that were sent more than ``window_s`` after their answer had been stored."""
        stored = self.stored()
        return [key for key, times in self.sent.items() if key in stored and max(times) > stored[key] + window_s * 1e9]


def test_three_processes_in_one_folder_send_nothing_whose_answer_was_stored(tmp_path: Path) -> None:
    with Many(str(tmp_path / "lake"), tmp_path, 300, delay=0.05) as many:
        first, second = many.start(0, 200), many.start(100, 300)
        while many.total < 120:
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.wait()
        lost = many.total - len(AnswerStore(many.store).look_up("describe", many.keys))
        assert second.wait(100) == 0
        again = many.start(0, 200)
        sent, _ = map(int, again.communicate(timeout=100)[0].split())
        before = many.total
        third = many.start(0, 300)
        assert third.communicate(timeout=100)[0].split() == ["0", "300"] and many.total == before, "all was stored"
        assert sent <= 200 and many.total <= 300 + IN_FLIGHT + lost
        assert not many.sent_although_stored(window_s=3 * FLUSH_S + 2)
        assert set(many.stored()) == set(many.keys)


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_ten_processes_on_an_object_store_killed_again_and_again_send_nothing_that_was_stored(tmp_path, monkeypatch) -> None:
    """Needs an S3 server: AWS_ENDPOINT_URL, its credentials, and a bucket in MMRET_TEST_BUCKET (``lakes``)."""
    pytest.importorskip("obstore")
    if not os.environ.get("AWS_ENDPOINT_URL"):
        pytest.skip("no S3 server: set AWS_ENDPOINT_URL")
    address = f"s3://{os.environ.get('MMRET_TEST_BUCKET', 'lakes')}/answers/{uuid.uuid4().hex[:12]}"
    shards, rows, dice = 10, 120, random.Random(7)
    count, window = (shards + 1) * rows // 2, 3 * FLUSH_S + 4
    kills = 0
    with Many(address, tmp_path, count, delay=0.2) as many:
        bounds = [(n * rows // 2, n * rows // 2 + rows) for n in range(shards)]  # each pair in two shards

        def start(n: int) -> subprocess.Popen:
            monkeypatch.setenv("MMRET_SCRATCH", str(tmp_path / f"node{n}"))
            return many.start(*bounds[n])

        running = {n: start(n) for n in range(shards)}
        for share in (0.2, 0.4, 0.6, 0.8):
            while many.total < share * count and any(p.poll() is None for p in running.values()):
                time.sleep(0.05)
            victims = [n for n, p in running.items() if p.poll() is None]
            for n in dice.sample(victims, min(2, len(victims))):
                running[n].send_signal(signal.SIGKILL)
                running[n].wait()
                shutil.rmtree(tmp_path / f"node{n}", ignore_errors=True)  # another machine takes the shard over
                running[n] = start(n)
                kills += 1
            merge_answers(open_storage(address), time.time_ns() + READABLE_S * 10**9 * (share > 0.5))
        assert all(p.wait(600) == 0 for p in running.values())
        doubled = many.total - count
        print(f"{count} pairs in {shards} shards, each in two: {many.total} sent, {doubled} twice, {kills} kills")
        assert kills >= 4 and set(many.stored()) == set(many.keys)
        assert not many.sent_although_stored(window)
        before = many.total
        assert start(0).wait(200) == 0 and many.total == before
    store = AnswerStore(address)
    assert len(store.look_up("describe", many.keys)) == count
    store.storage.delete_below("answers")
