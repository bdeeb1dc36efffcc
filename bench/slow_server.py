"""A slow model server whose places are to be kept full: how many requests it has in hand, and what our side costs meanwhile.

    python bench/slow_server.py                      12,288 instructions, 512 places, 1.5 to 2.5 s an answer: 50 s
    python bench/slow_server.py --spread 0           2 s each, so that all places fall empty at once
    python bench/slow_server.py --pictures 400       descriptions, two of 400 pictures of 640 x 480 in each request
    python bench/slow_server.py --requests 2048 --places 64 --seconds 0.5

The server is a process of its own that answers every chat completion after its time and skips its body. Requests are
composed, keyed, sent and read by back-end ``openai``. What is in hand is counted from the moment when it has been as many as there
are places until the last request is sent; processor time is that of the whole run, starting and composing included. The peer of
the gate sends the same bodies by bare httpx, a client for each place.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
from PIL import Image

from mmret.annotate.backends.openai_server import OpenAIAnnotator
from mmret.annotate.compose import compose
from mmret.annotate.protocol import Request
from mmret.settings import AnnotateSettings, EngineSettings

LIST = '{"instructions": ["make it blue", "a blue one instead", "the same but in blue"]}'
TEXT = "Both images show a small dog. However, the Source Image shows a red one in the snow, whereas the Target Image a blue one."


class Server:
    """Keeps count of what is in hand. ``GET /stats`` has the counts, ``GET /reset`` begins anew."""

    def __init__(self, seconds: float, spread: float, answer: str):
        choice = {"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
        body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 900, "completion_tokens": 90}}).encode()
        self.seconds, self.spread, self.answer = seconds, spread, _response(body)
        self.random = random.Random(0)
        self.reset()

    def reset(self) -> None:
        self.in_hand = 0
        self.changes: list[tuple[float, int]] = []

    def count(self, change: int) -> None:
        self.in_hand += change
        self.changes.append((time.monotonic(), self.in_hand))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET"):
                    writer.write(_response(json.dumps(self.changes).encode()))
                    if b"/reset" in head[:20]:
                        self.reset()
                    continue
                await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
                self.count(1)
                await asyncio.sleep(self.seconds * (1 + self.spread * (2 * self.random.random() - 1)))
                self.count(-1)
                writer.write(self.answer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def _response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def _listen(seconds: float, spread: float, answer: str) -> None:
    server = await asyncio.start_server(Server(seconds, spread, answer).serve, "127.0.0.1", 0, limit=2**22, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def server(seconds: float, answer: str, spread: float = 0.0) -> Iterator[str]:
    """Its address."""
    command = [sys.executable, __file__, "--serve", str(seconds), str(spread), answer]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def annotator(address: str, places: int, pictures: dict[str, bytes]) -> OpenAIAnnotator:
    engine = EngineSettings(model="m", urls=(f"{address}/v1",), concurrency=places, timeout_s=60, deadline_s=120)
    made = OpenAIAnnotator(AnnotateSettings(backend="openai", vision=engine, language_model=engine))
    made.load_images = lambda ids: {i: pictures[i] for i in ids}
    return made


def requests_of(count: int, pictures: Sequence[str]) -> list[Request]:
    """Three pairs for each query picture, their targets anywhere."""
    if not pictures:
        return [Request("instruct", f"{i:032x}", f"{i // 3:032x}", f"{i * 7:032x}", description=TEXT) for i in range(count)]
    n = len(pictures)
    return [Request("describe", f"{i:032x}", pictures[i // 3 % n], pictures[(i * 7 + 13) % n]) for i in range(count)]


def photos(count: int) -> dict[str, bytes]:
    """JPEG files of 640 x 480, some 80 kB each, by id."""
    pixels, found = np.random.default_rng(0), {}
    for i in range(count):
        small = Image.fromarray(pixels.integers(0, 255, (48, 64, 3), dtype=np.uint8))
        out = io.BytesIO()
        small.resize((640, 480), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        found[f"{i:032x}"] = out.getvalue()
    return found


def measure(address: str, requests: Sequence[Request], places: int, pictures: dict[str, bytes]) -> dict[str, float]:
    """Sends ``requests``: what was in hand, and what it cost here."""
    httpx.get(f"{address}/reset")
    model = annotator(address, places, pictures)
    began, processor = time.perf_counter(), time.process_time()
    keys = {model.key(request) for request in requests}
    answers = dict(model.answers(requests))
    processor, wall = time.process_time() - processor, time.perf_counter() - began
    return {
        "requests": len(keys),
        "answered": sum(not answer.error for answer in answers.values()),
        "wall_s": round(wall, 2),
        "processor_ms_a_request": round(processor * 1000 / len(requests), 3),
        "cores": round(processor / wall, 3),
        **in_hand(httpx.get(f"{address}/stats").json(), places),
    }


def in_hand(changes: list[tuple[float, int]], places: int) -> dict[str, float]:
    """Most and mean number of requests that the server had, the mean as a share of ``places``."""
    full = next((i for i, (_, count) in enumerate(changes) if count >= places), len(changes) - 1)
    last = max(i for i in range(1, len(changes)) if changes[i][1] > changes[i - 1][1])
    held = sum(n * (until - at) for (at, n), (until, _) in zip(changes[full:last], changes[full + 1 :], strict=False))
    took = changes[last][0] - changes[full][0]
    return {"most_in_hand": max(n for _, n in changes), "kept_full": round(held / took / places, 4) if took > 0 else 0.0}


def bare(address: str, requests: Sequence[Request], places: int) -> float:
    """Processor seconds of the same requests by httpx alone, their prompts composed once."""
    settings = annotator(address, places, {}).settings

    async def all_of_them() -> None:
        left, context = iter(requests), httpx.create_ssl_context()

        async def place() -> None:
            async with httpx.AsyncClient(verify=context, timeout=60) as client:
                for request in left:
                    asked = compose(request, settings)
                    body: dict[str, Any] = {"model": "m", "seed": asked.seed, "messages": [{"role": "user", "content": asked.user}]}
                    (await client.post(f"{address}/v1/chat/completions", json=body)).json()

        await asyncio.gather(*(place() for _ in range(places)))

    began = time.process_time()
    asyncio.run(all_of_them())
    return time.process_time() - began


def gate() -> dict[str, float | list[float]]:
    """64 places, 0.25 s an answer: counts, and processor time over that of bare httpx."""
    requests, places, ratios = requests_of(768, ()), 64, []
    with server(0.25, LIST) as address:
        for turn in range(4):
            theirs = bare(address, requests, places)
            ours = measure(address, requests, places, {})
            if turn:  # the first also warms up
                ratios.append(ours["processor_ms_a_request"] * len(requests) / 1000 / theirs)
    return {
        "requests": ours["requests"],
        "answered": ours["answered"],
        "most_in_hand": ours["most_in_hand"],
        "over_bare_httpx_processor": ratios,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=12_288)
    parser.add_argument("--places", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--pictures", type=int, default=0)
    parser.add_argument("--spread", type=float, default=0.25, help="an answer takes so much more or less, as a share")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(_listen(float(given.serve[0]), float(given.serve[1]), given.serve[2]))
    else:
        shown = photos(given.pictures)
        with server(given.seconds, TEXT if shown else LIST, given.spread) as address:
            print(json.dumps(measure(address, requests_of(given.requests, list(shown)), given.places, shown)))
