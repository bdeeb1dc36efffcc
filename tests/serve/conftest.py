"""A server over the small lake, in a thread of the test, asked over a real socket."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi_offline", reason="the server needs the extra 'serve'")
pytest.importorskip("prometheus_client", reason="the server needs the extra 'serve'")

import httpx

from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.serve.server import SearchServer, ServeOptions


@contextmanager
def served(lake: Lake, **options: Any) -> Iterator[SearchServer]:
    """A server over ``lake`` on a port of its own; it may still be loading."""
    server = SearchServer(lake, resolve(lake)[0], ServeOptions(port=0, **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(30)
        assert server.end() and not thread.is_alive()


def until_ready(client: httpx.Client, seconds: float = 60) -> dict:
    """What ``/ready`` says once searches are answered."""
    end = time.monotonic() + seconds
    while (answer := client.get("/ready")).status_code != 200:
        assert time.monotonic() < end and answer.json()["error"] is None, answer.text
        time.sleep(0.1)
    return answer.json()


@pytest.fixture(scope="module")
def lake(small_lake) -> Lake:
    return Lake(small_lake[0])


@pytest.fixture(scope="module")
def server(lake) -> Iterator[SearchServer]:
    with served(lake) as running:
        yield running


@pytest.fixture(scope="module")
def client(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as asking:
        until_ready(asking)
        yield asking
