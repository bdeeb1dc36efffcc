"""A run of both annotation stages as a process of its own, to be killed.

``python -m tests.annotate.killable STORE OUT COUNT FLUSH URL``. ``STORE`` "-" keeps no answers. ``URL`` "-" answers from captions,
slowly, and appends the key of each request to ``OUT/sent`` as it is sent; else the server there is asked. Writes
``OUT/described.parquet`` and ``OUT/texts.parquet`` when both stages are done.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmret.annotate import answers as answer_module
from mmret.annotate import rows as row_module
from mmret.annotate.backends.captions import CaptionsAnnotator
from mmret.annotate.backends.load import load_annotator
from mmret.annotate.describe import describe
from mmret.annotate.instruct import instruct
from mmret.annotate.protocol import Annotator, Answer, Request
from mmret.annotate.store import AnswerStore
from mmret.hashing import pair_id
from mmret.settings import AnnotateSettings, EngineSettings

COLOURS = ("red", "green", "blue")


class Slow(CaptionsAnnotator):
    """Writes down what it is asked before it answers."""

    def __init__(self, log: Path):
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for i, answer in super().answers(requests):
            os.write(self.log, (self.key(requests[i]) + "\n").encode())
            time.sleep(0.0002)
            yield i, answer


def captions(count: int) -> dict[str, str]:
    return {f"{i:032x}": f"{COLOURS[i % 3]} house number {i}" for i in range(count + 1)}


def pairs(count: int) -> pa.Table:
    ids = list(captions(count))
    keys = [pair_id(a, b) for a, b in zip(ids, ids[1:], strict=False)]
    return pa.table({"pair_id": keys, "query_id": ids[:-1], "target_id": ids[1:]})


def settings(url: str) -> AnnotateSettings:
    engine = EngineSettings(model="m", urls=(url,), image_size=28, concurrency=32)
    return AnnotateSettings() if url == "-" else AnnotateSettings(backend="openai", vision=engine, demonstrations=1)


def annotator(url: str, out: Path) -> Annotator:
    from PIL import Image

    if url == "-":
        return Slow(out / "sent")
    made, picture = load_annotator(settings(url), "descriptions"), io.BytesIO()
    Image.new("RGB", (28, 28), "red").save(picture, "PNG")
    made.load_images = lambda ids: dict.fromkeys(ids, picture.getvalue())
    return made


def main(store: str, out: Path, count: int, flush: int, url: str) -> None:
    answer_module.FLUSH_ROWS, row_module.BATCH = flush, min(row_module.BATCH, 7 * flush)
    answers = None if store == "-" else AnswerStore(store)
    model, chosen = annotator(url, out), settings(url)
    described = describe(pairs(count), captions(count), model, chosen, answers)
    texts = instruct(described, pairs(count), captions(count), model, chosen, answers)
    pq.write_table(described, out / "described.parquet")
    pq.write_table(texts, out / "texts.parquet")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
