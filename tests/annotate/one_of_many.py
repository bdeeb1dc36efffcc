"""One of several processes that write descriptions at once into one store, to be killed.

``python -m tests.annotate.one_of_many STORE OUT START STOP SECONDS URL``: pairs START to STOP, answers flushed every SECONDS.
Appends a line of key and time (ns since 1970) to ``OUT`` for each answer that is stored.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Sequence

from PIL import Image

from mmret.annotate import answers as answer_module
from mmret.annotate.answers import Stats
from mmret.annotate.backends.load import load_annotator
from mmret.annotate.describe import describe
from mmret.annotate.protocol import Answer
from mmret.annotate.store import AnswerStore
from mmret.settings import AnnotateSettings, EngineSettings
from tests.annotate.killable import captions, pairs


class Logged(AnswerStore):
    """Writes down when an answer was there for all to find."""

    def __init__(self, address: str, log: str):
        super().__init__(address)
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def append(self, kind: str, keys: Sequence[str], answers: Sequence[Answer], about: Sequence[tuple[str, str]] = ()) -> None:
        super().append(kind, keys, answers, about)
        if keys:
            os.write(self.log, "".join(f"{key} {time.time_ns()}\n" for key in keys).encode())


def settings(url: str) -> AnnotateSettings:
    engine = EngineSettings(model="m", urls=(url,), image_size=28, concurrency=4)
    return AnnotateSettings(backend="openai", vision=engine, demonstrations=1)


def main(store: str, log: str, start: int, stop: int, seconds: float, url: str) -> None:
    answer_module.FLUSH_SECONDS = answer_module.OBJECT_STORE_FLUSH_SECONDS = seconds
    annotator, picture, stats = load_annotator(settings(url), "descriptions"), io.BytesIO(), Stats()
    Image.new("RGB", (28, 28), "red").save(picture, "PNG")
    annotator.load_images = lambda ids: dict.fromkeys(ids, picture.getvalue())
    mine = pairs(stop).slice(start)
    rows = describe(mine, captions(stop), annotator, settings(url), Logged(store, log), stats)
    assert rows.num_rows == stop - start and set(rows["status"].to_pylist()) == {"ok"}
    print(stats.sent, stats.stored)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:5]), float(sys.argv[5]), sys.argv[6])
