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
from pathlib import Path

import pyarrow.parquet as pq

from mmret.annotate import AnswerStore

FLUSH = 60
COUNT = 600
RUN = f"""
import os, sys, time
import pyarrow as pa, pyarrow.parquet as pq
from mmret.annotate import AnswerStore, answering, describe, instruct, stages
from mmret.annotate.captions import CaptionsAnnotator
from mmret.schemas import pair_id
from mmret.settings import AnnotateSettings

answering.FLUSH_ROWS, stages.BATCH = {FLUSH}, 400
log = os.open(sys.argv[2] + "/sent", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

class Slow(CaptionsAnnotator):
    def answers(self, requests):
        for i, answer in super().answers(requests):
            os.write(log, (self.key(requests[i]) + "\\n").encode())
            time.sleep(0.0002)
            yield i, answer

captions = {{f"{{i:032x}}": f"{{'red green blue'.split()[i % 3]}} house number {{i}}" for i in range({COUNT} + 1)}}
ids = list(captions)
keys = [pair_id(a, b) for a, b in zip(ids, ids[1:])]
pairs = pa.table({{"pair_id": keys, "query_id": ids[:-1], "target_id": ids[1:]}})
store = AnswerStore(sys.argv[1]) if sys.argv[1] else None
described = describe(pairs, captions, Slow(), AnnotateSettings(), store)
texts = instruct(described, pairs, captions, Slow(), AnnotateSettings(), store)
pq.write_table(described, sys.argv[2] + "/described.parquet")
pq.write_table(texts, sys.argv[2] + "/texts.parquet")
"""


def _start(store: str, out: Path) -> subprocess.Popen:
    out.mkdir(exist_ok=True)
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, store, str(out)], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )


def test_killed_again_and_again_sends_nothing_twice_and_ends_the_same(tmp_path: Path) -> None:
    whole = _start("", tmp_path / "whole")
    assert whole.wait(120) == 0
    store, out, dice = tmp_path / "answers", tmp_path / "killed", random.Random(3)
    stored: set[str] = set()
    out.mkdir()
    kills = 0
    for _ in range(3):
        run = _start(str(store), out)
        sent = out / "sent"
        before = sent.stat().st_size if sent.exists() else 0
        more = before + 33 * dice.randrange(40, 350)
        while run.poll() is None and (sent.stat().st_size if sent.exists() else 0) < more:
            time.sleep(0.005)
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
            kills += 1
        run.wait()
        sends = Counter(sent.read_text().split())
        found = set(
            AnswerStore(store).look_up("describe", list(sends)) | AnswerStore(store).look_up("instruct", list(sends))
        )
        assert stored <= found  # nothing that was stored is lost
        stored = found
        frozen = {k: sends[k] for k in stored}
        assert len(sends) - len(stored) <= FLUSH
    assert kills >= 2
    assert _start(str(store), out).wait(120) == 0
    sends = Counter((out / "sent").read_text().split())
    assert {k: sends[k] for k in frozen} == frozen  # what was stored was not sent again
    assert len(sends) == 2 * COUNT and sends.total() <= 2 * COUNT + kills * FLUSH
    for name in ("described.parquet", "texts.parquet"):
        assert pq.read_table(out / name).equals(pq.read_table(tmp_path / "whole" / name))
