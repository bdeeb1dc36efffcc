"""How a vision-language model is asked for captions: the back-ends, prompts, store and checks of annotation, one picture a request.

An answer is kept by the content of its picture, prompt, model and sampling, so a caption is never paid for twice, wherever the
picture lies. Costs what the model costs, and some 6 ms a picture on this side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from mmret.annotate.answers import Stats
from mmret.annotate.protocol import Annotator, LoadImages, Request
from mmret.annotate.row_progress import RowProgress
from mmret.annotate.rows import ParsedAnswer, Step, parsed_answers
from mmret.annotate.store import AnswerStore
from mmret.ingest.object_store.lost import ending_when_lost
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.sources import open_reader, read_as_sealed
from mmret.settings import CaptioningSettings
from mmret.storage import StorageUnreachable

BATCH = 1024
"""Pictures that are asked about together."""


def caption_request(image_id: str, seed: int) -> Request:
    """The request for the caption of one picture."""
    return Request(kind="caption", pair_id=image_id, query_id=image_id, target_id=image_id, seed=seed)


def ask_for_captions(
    rows: Sequence[dict[str, Any]], captioner: Annotator, settings: CaptioningSettings, store: AnswerStore, stats: Stats
) -> list[ParsedAnswer]:
    """An answer for each of ``rows`` of a manifest, in order: a caption, or the reason why there is none.

    Pictures are read from their sources as they are sent. Raises UserError where no request can succeed.
    """
    captioner.load_images = _pictures_of(rows)
    step = Step("written_captions", captioner, settings, store, stats)
    progress = RowProgress("written_captions", len(rows), stats, judged=False)
    found: list[ParsedAnswer] = []
    began = time.monotonic()
    for start in range(0, len(rows), BATCH):
        requests = [caption_request(row["image_id"], settings.seed) for row in rows[start : start + BATCH]]
        progress.begin_batch(len(requests))
        answers = parsed_answers(step, requests, "caption", progress)
        progress.end_batch(each.parsed.reason for each in answers if each.parsed.reason)
        found += answers
    stats.seconds += time.monotonic() - began
    return found


def _pictures_of(rows: Sequence[dict[str, Any]]) -> LoadImages:
    """A function from image ids to the files of ``rows``; those that cannot be read, or are others by now, are left out."""
    by_id = {row["image_id"]: row for row in rows}
    readers: dict[str, Any] = {}

    def load(ids: Sequence[str]) -> dict[str, bytes]:
        pictures = {}
        for image_id in ids:
            row = by_id[image_id]
            reader = readers.get(row["root"]) or readers.setdefault(row["root"], open_reader(row["root"]))
            try:
                with ending_when_lost():
                    pictures[image_id] = read_as_sealed(reader, row)
            except StorageUnreachable:
                raise
            except (Unreadable, OSError):
                continue
        return pictures

    return load


LoadCaptioner = Callable[[CaptioningSettings], Annotator]
"""Function from settings to the back-end; called only where a picture has to be asked about."""
