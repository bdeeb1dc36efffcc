"""Places of a server: all are used, never more; what is sent is ready before a place is."""

from __future__ import annotations

import asyncio
import gc
import io
from typing import Any

import httpx
import pyarrow as pa
import pytest
from PIL import Image

from mmret.annotate import rows as row_module
from mmret.annotate.answers import Stats
from mmret.annotate.backends import base
from mmret.annotate.backends.captions import CaptionsAnnotator
from mmret.annotate.backends.connections import Connections
from mmret.annotate.backends.openai_server import OpenAIAnnotator
from mmret.annotate.protocol import Request
from mmret.annotate.rows import PairRequest, Step, annotate_pairs
from mmret.settings import AnnotateSettings, EngineSettings
from tests.annotate.server import RudeServer

PLACES = 24


class CountingServer(RudeServer):
    """Counts how many requests it has in hand at most."""

    in_hand = most = 0

    async def _work(self) -> None:
        self.in_hand += 1
        self.most = max(self.most, self.in_hand)
        try:
            await super()._work()
        finally:
            self.in_hand -= 1


def _settings(url: str, **more: Any) -> AnnotateSettings:
    engine = EngineSettings(model="m", urls=(url,), **{"concurrency": PLACES, "timeout_s": 20, "deadline_s": 40, **more})
    return AnnotateSettings(backend="openai", vision=engine)


def test_every_place_is_used_and_none_twice() -> None:
    with CountingServer(lambda body, n: "a text", delay=0.1) as server:
        annotator = OpenAIAnnotator(_settings(server.url))
        requests = [Request("instruct", f"{i}", "q", "t", description="d") for i in range(10 * PLACES)]
        answers = dict(annotator.answers(requests))
        assert [answers[i].text for i in range(len(requests))] == ["a text"] * len(requests)
        assert server.most == PLACES
        assert server.got == len(requests)


def test_each_server_has_clients_of_its_own_so_that_connections_are_no_more_than_its_places() -> None:
    async def used() -> list[frozenset[int]]:
        async with Connections(httpx.Timeout(1), {}) as connections:
            found = []
            for url in ("http://a", "http://b", "http://a", "http://b"):
                async with connections.client(url) as client, connections.client(url) as another:
                    assert client is not another
                    found.append(frozenset((id(client), id(another))))
            return found

    first, second, *again = asyncio.run(used())
    assert not first & second and again == [first, second]


def test_a_picture_of_several_requests_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    uri = base._jpeg_uri.__wrapped__
    base._jpeg_uri.cache_clear()
    monkeypatch.setattr(base, "_jpeg_uri", base.lru_cache(8)(lambda file, *how: encoded.append(file) or uri(file, *how)))

    def picture(shade: int) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", (40, 30), (shade, 0, 0)).save(out, "PNG")
        return out.getvalue()

    pictures = {f"{i}": picture(50 * i) for i in range(4)}
    with RudeServer(lambda body, n: "a text") as server:
        annotator = OpenAIAnnotator(_settings(server.url, concurrency=1, image_size=32))
        annotator.load_images = lambda ids: {i: pictures[i] for i in ids}
        requests = [Request("describe", f"{i}", "0", f"{1 + i % 3}") for i in range(9)]
        assert len(dict(annotator.answers(requests))) == 9
        shown = [[p["image_url"]["url"] for p in b["messages"][1]["content"] if p["type"] == "image_url"] for b in server.bodies]
    assert len({uri for pair in shown for uri in pair}) == 4
    assert {tuple(pair) for pair in shown} == {(shown[0][0], other) for other in {pair[1] for pair in shown}}
    assert len(set(encoded)) == 4
    assert not any(file.data for file in encoded)  # what is kept of a file is its digest
    assert len(encoded) < 9  # of 18 shown; threads that begin at once may both encode one


@pytest.mark.parametrize(("places", "urls", "rows"), [(1, 1, 1), (128, 1, 1), (512, 1, 4), (128, 3, 3)])
def test_batches_grow_with_the_places(places: int, urls: int, rows: int) -> None:
    engine = EngineSettings(model="m", urls=tuple(f"http://host{i}/v1" for i in range(urls)), concurrency=places)
    settings = AnnotateSettings(backend="openai", vision=engine)
    step = Step("descriptions", OpenAIAnnotator(settings), settings, None, Stats())
    assert row_module._batch_size(step) == rows * row_module.BATCH
    step = Step("descriptions", CaptionsAnnotator(), AnnotateSettings(), None, Stats())
    assert row_module._batch_size(step) == row_module.BATCH


def test_the_collector_works_again_after_a_step_of_rules_and_after_one_that_fails() -> None:
    pairs = pa.table({"pair_id": ["p"], "query_id": ["q"], "target_id": ["t"]})
    step = Step("descriptions", CaptionsAnnotator(), AnnotateSettings(), None, Stats())
    seen = []

    def fail(row: Any) -> PairRequest:
        seen.append(gc.isenabled())
        raise ZeroDivisionError("on purpose")

    annotate_pairs(step, pairs, lambda row: PairRequest("p", Request("describe", "p", "q", "t", "a red cup", "a blue cup")))
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        annotate_pairs(step, pairs, fail)
    assert gc.isenabled() and seen == [False] and gc.get_freeze_count() == 0
