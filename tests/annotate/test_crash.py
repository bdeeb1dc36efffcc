"""Pins of a run that is killed: no request is sent again once its answer was stored, at most one batch in flight is
lost per kill, and the tables are those of a run that was let be."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmret.annotate.backends.load import load_annotator
from mmret.annotate.protocol import Request
from mmret.annotate.store import AnswerStore
from mmret.hashing import uniform
from tests.annotate import killable
from tests.annotate.server import RudeServer
from tests.annotate.test_openai_server import DESCRIPTION, _answer

IN_FLIGHT = 300  # a server's places, and the answers on their way to the store
ROOT = Path(__file__).resolve().parents[2]


def _start(store: str, out: Path, count: int, flush: int, url: str) -> subprocess.Popen:
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.annotate.killable", store, str(out), str(count), str(flush), url]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def _stored(store: Path, keys: list[str]) -> set[str]:
    answers = AnswerStore(store)
    return set(answers.look_up("describe", keys)) | set(answers.look_up("instruct", keys))


def _killed_again_and_again(
    folder: Path, count: int, flush: int, url: str, kills: int, in_flight: int, sent: Callable[[], Counter[str]]
) -> None:
    """Kill a run of ``2 * count`` requests ``kills`` times, let it finish, and compare it with one that was let be. ``sent``: how
    often each key has been sent so far; ``in_flight``: requests that may be lost besides those not yet flushed."""
    store, out, dice = folder / "answers", folder / "killed", random.Random(3)
    frozen: Counter[str] = Counter()
    for turn in range(kills):
        run = _start(str(store), out, count, flush, url)
        aim = int(2 * count * (turn + 1) / (kills + 1) * dice.uniform(0.8, 1.0))
        while run.poll() is None and len(sent()) < aim:
            time.sleep(0.01)
        assert run.poll() is None, "ended before it was killed"
        run.send_signal(signal.SIGKILL)
        run.wait()
        now = sent()
        for key, times in frozen.items():
            assert now[key] == times  # what was stored has not been sent again
        stored = _stored(store, list(now))
        assert set(frozen) <= stored  # nothing that was stored is lost
        assert len(now) - len(stored) <= flush + in_flight
        frozen = Counter({k: now[k] for k in stored})
    assert _start(str(store), out, count, flush, url).wait(600) == 0
    sends = sent()
    assert all(sends[k] == n for k, n in frozen.items())
    assert len(sends) == 2 * count and sends.total() <= 2 * count + kills * (flush + in_flight)
    total = sends.total()
    assert _start(str(store), out, count, flush, url).wait(600) == 0 and sent().total() == total  # a second run asks nothing
    whole = folder / "whole"
    assert _start("-", whole, count, flush, url).wait(600) == 0
    for name in ("described.parquet", "texts.parquet"):
        assert pq.read_table(out / name).equals(pq.read_table(whole / name))


def test_killed_again_and_again_sends_nothing_twice_and_ends_the_same(tmp_path: Path) -> None:
    log = tmp_path / "killed" / "sent"

    def sent() -> Counter[str]:
        return Counter(log.read_text().split() if log.exists() else ())

    _killed_again_and_again(tmp_path, count=600, flush=60, url="-", kills=3, in_flight=0, sent=sent)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_20_000_requests_to_a_server_killed_five_times(tmp_path: Path) -> None:
    count = 10_000
    model, keys = load_annotator(killable.settings("http://any"), "descriptions"), {}
    for row in killable.pairs(count).to_pylist():
        ids = (row["pair_id"], row["query_id"], row["target_id"])
        seed = int(uniform("seed", 0, row["pair_id"], 0) * 2**31)
        keys["describe", seed] = model.key(Request("describe", *ids))
        keys["instruct", seed] = model.key(Request("instruct", *ids, description=DESCRIPTION))
    seen: Counter[str] = Counter()

    def log(body: dict, number: int) -> str:
        answer = _answer(body)
        seen[keys["describe" if answer == DESCRIPTION else "instruct", body["seed"]]] += 1
        return answer

    with RudeServer(log, keep=False) as server:
        _killed_again_and_again(
            tmp_path, count, flush=2048, url=server.url, kills=5, in_flight=IN_FLIGHT, sent=lambda: Counter(dict(seen))
        )
