"""Pins of servers that are found and not typed: each place names all of them, the one that leaves is left, the one that joins is
asked, and none at all ends in a sentence."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mmret.annotate.answers import Stats
from mmret.annotate.backends import discovery, openai_server
from mmret.annotate.backends.balance import Balancer
from mmret.annotate.backends.discovery import Whereabouts
from mmret.annotate.describe import describe
from mmret.annotate.servers import Registered, RegisteredServers, registered
from mmret.errors import UserError
from mmret.storage import open_storage
from tests.annotate.server import RudeServer
from tests.annotate.test_openai_server import _annotator, _answer, _pairs, _settings

ROOT = Path(__file__).resolve().parents[2]


def _look(url: str, storage: Any = None, model: str = "m") -> tuple[str, ...]:
    return Whereabouts([url], "annotate.vision", model, storage).look()


def test_a_name_stands_for_all_its_addresses_and_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [["10.0.0.2", "10.0.0.1", "fd00::1"], ["10.0.0.2"], socket.gaierror(socket.EAI_NONAME, "unknown")]

    def resolve(host: str, port: int, **more: Any) -> list[tuple]:
        assert (host, port) == ("vllm", 8000)
        told = answers.pop(0)
        if isinstance(told, Exception):
            raise told
        return [(0, 0, 0, "", (address, port)) for address in told]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    where = Whereabouts(["dns+http://vllm:8000/v1"], "annotate.vision", "m", None)
    assert where.look() == ("http://10.0.0.1:8000/v1", "http://10.0.0.2:8000/v1", "http://[fd00::1]:8000/v1")
    assert where.look() == ("http://10.0.0.2:8000/v1",)
    assert where.look() == ()


def test_a_look_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [[(0, 0, 0, "", ("10.0.0.1", 80))], socket.gaierror(socket.EAI_AGAIN, "the server of names is away")]

    def resolve(*args: Any, **more: Any) -> Any:
        told = answers.pop(0)
        if isinstance(told, Exception):
            raise told
        return told

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    where = Whereabouts(["dns+http://vllm/v1"], "annotate.vision", "m", None)
    assert where.look() == where.look() == ("http://10.0.0.1:80/v1",)


@contextmanager
def _dashboard(told: dict[str, Any], seen: list[str | None]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            assert self.path == "/api/serve/applications/"
            data = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_ray_serve_is_asked_for_its_healthy_proxies_and_the_applications_path(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "http_options": {"host": "0.0.0.0", "port": 8100},
        "proxies": {
            "n1": {"node_ip": "10.0.0.1", "status": "HEALTHY"},
            "n2": {"node_ip": "10.0.0.2", "status": "UNHEALTHY"},
            "n3": {"node_ip": "10.0.0.3", "status": "HEALTHY"},
        },
        "applications": {
            "vlm": {"status": "RUNNING", "route_prefix": "/vlm"},
            "llm": {"status": "RUNNING", "route_prefix": "/"},
            "old": {"status": "DEPLOYING", "route_prefix": "/old"},
        },
    }
    seen: list[str | None] = []
    with _dashboard(told, seen) as url:
        monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", url)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "t0ken")
        assert _look("ray://serve/vlm") == ("http://10.0.0.1:8100/vlm/v1", "http://10.0.0.3:8100/vlm/v1")
        assert _look("ray://serve/llm") == ("http://10.0.0.1:8100/v1", "http://10.0.0.3:8100/v1")
        assert _look("ray://serve/old") == ()
        with pytest.raises(UserError, match="Ray Serve runs llm, vlm: name one, as ray://serve/llm"):
            _look("ray://serve")
    assert set(seen) == {"Bearer t0ken"}


@pytest.mark.parametrize("told", [[1, 2], "busy", {"applications": 3}, {"applications": {"vlm": "RUNNING"}}])
def test_an_answer_that_is_not_rays_changes_nothing(monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    with _dashboard(told, []) as url:
        monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", url)
        assert _look("ray://serve") == ()


def test_servers_are_known_in_the_lake_by_their_model_while_they_beat(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    servers = RegisteredServers(storage, silent_s=0.5)
    with registered(storage, Registered("http://a:1/v1", ("m", "alias")), beat_s=0.1):
        with registered(storage, Registered("http://b:1/v1", ("m",)), beat_s=60):
            assert sorted(servers.of("m")) == ["http://a:1/v1", "http://b:1/v1"]
            assert servers.of("alias") == ["http://a:1/v1"] and servers.of("other") == []
            time.sleep(0.7)
            assert servers.of("m") == ["http://a:1/v1"], "b has fallen silent"
        (tmp_path / "servers/strange.json").write_text("[1, 2")
        assert servers.of("m") == ["http://a:1/v1"]
    assert servers.of("m") == []


def test_what_was_killed_long_ago_is_not_even_tried(tmp_path: Path) -> None:
    (tmp_path / "servers").mkdir()
    file = tmp_path / "servers/0123456789abcdef.json"
    file.write_text(json.dumps({"url": "http://dead:1/v1", "models": ["m"], "beat": 7}))
    os.utime(file, (time.time() - 3600,) * 2)
    assert _look("lake://servers", open_storage(tmp_path)) == ()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://vllm/v1", "is no address of a server; write it as http://HOST:PORT/v1, or a place where servers are found"),
        ("dns+https://vllm/v1", "servers with a certificate are reached by their own names"),
        ("ray://served", "or a place where servers are found: dns"),
        ("lake://elsewhere", "or a place where servers are found: dns"),
        ("dns+http://vllm/v1/chat/completions", "leave /chat/completions out"),
        ("lake://servers", "is a place in a lake, and there is none here"),
    ],
)
def test_what_is_neither_an_address_nor_a_place_is_told(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _look(url)


def test_none_at_all_for_minutes_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "NONE_FOUND_S", 0.6)
    monkeypatch.setattr(openai_server, "LOOK_S", 0.1)
    storage = open_storage(tmp_path)
    with registered(storage, Registered("http://b:1/v1", ("other",))):
        settings = _settings("lake://servers")
        annotator = _annotator(settings)
        annotator.storage = storage
        with pytest.raises(UserError, match=r"no server of model m has made itself known in .* \(those there serve other\): start"):
            describe(_pairs(20), {}, annotator, settings, None)


def test_the_least_busy_gets_the_next_and_who_left_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    async def main() -> None:
        balancer = Balancer(("http://a/v1", "http://b/v1"), 8, 60)
        async with balancer.slot() as first, balancer.slot() as second:
            assert {first.url, second.url} == {"http://a/v1", "http://b/v1"}
            balancer.update(["http://b/v1", "http://c/v1"])
            assert balancer.capacity == 16
            async with balancer.slot() as third, balancer.slot() as fourth:
                assert third.url == "http://c/v1" and fourth.url in ("http://b/v1", "http://c/v1")
        balancer.update(["http://b/v1"])
        assert [s.url for s in balancer.servers if not s.left] == ["http://b/v1"]
        balancer.update([])
        assert not balancer.all_refuse and balancer.capacity == 0
        waiting = asyncio.create_task(balancer.slot().__aenter__())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        balancer.update(["http://d/v1"])
        assert (await waiting).url == "http://d/v1"

    asyncio.run(main())


def test_one_that_dies_is_left_and_one_that_joins_is_asked_while_the_run_goes_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(openai_server, "LOOK_S", 0.1)
    storage, settings, stats = open_storage(tmp_path), _settings("lake://servers", timeout_s=20.0, deadline_s=60.0), Stats()
    annotator = _annotator(settings)
    annotator.storage = storage
    with RudeServer(_answer, delay=0.02) as second:
        joined = registered(storage, Registered(second.url, ("m",)), 0.2)
        first = RudeServer(lambda body, n: joined.__enter__() or _answer(body) if n == 40 else _answer(body), delay=0.02)
        first.__enter__()
        known = registered(storage, Registered(first.url, ("m",)), 0.2)
        known.__enter__()

        def leave() -> None:
            while second.got < 20:
                time.sleep(0.01)
            known.__exit__(None, None, None)
            first.__exit__(None, None, None)

        leaving = threading.Thread(target=leave, daemon=True)
        leaving.start()
        rows = describe(_pairs(400), {}, annotator, settings, None, stats).to_pylist()
        leaving.join(20)
        joined.__exit__(None, None, None)
    assert {row["status"] for row in rows} == {"ok"} and stats.sent == 400
    assert first.got >= 40 and second.got >= 20 and first.answered + second.answered <= 400 + 16


def _serving(folder: Path, port: int) -> list[str]:
    script = folder / "fake_server.py"
    script.write_text(
        "import http.server, json, sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        data = json.dumps({'data': [{'id': 'm'}]}).encode()\n"
        "        self.send_response(200); self.send_header('Content-Length', str(len(data))); self.end_headers()\n"
        "        self.wfile.write(data)\n"
        "    def log_message(self, *args): pass\n"
        f"http.server.HTTPServer(('127.0.0.1', {port}), H).serve_forever()\n"
    )
    return [sys.executable, str(script)]


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def test_mmret_register_starts_a_server_makes_it_known_and_takes_both_away(tmp_path: Path) -> None:
    port, lake = _free_port(), tmp_path / "lake"
    command = [sys.executable, "-m", "mmret", "register", "--lake", str(lake), "--port", str(port), "--host", "10.1.2.3", "--"]
    run = subprocess.Popen([*command, *_serving(tmp_path, port)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        line = run.stderr.readline()
        assert line == f"http://10.1.2.3:{port}/v1 is known in {lake} as a server of m\n"
        assert _look("lake://servers", open_storage(lake)) == (f"http://10.1.2.3:{port}/v1",)
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) not in (None, 0)
    finally:
        run.kill()
    assert _look("lake://servers", open_storage(lake)) == ()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=2).close()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["/nowhere/vllm"], "/nowhere/vllm cannot be started"),
        ([sys.executable, "-c", "raise SystemExit(3)"], "the server ended with code 3 before it answered"),
        ([], "nothing answers at http://127.0.0.1"),
    ],
)
def test_mmret_register_tells_why_there_is_no_server(command: list[str], message: str, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from mmret.cli import app

    done = CliRunner().invoke(app, ["register", "--lake", str(tmp_path), "--port", str(_free_port()), "--", *command])
    assert isinstance(done.exception, UserError) and message in str(done.exception)


def test_ray_serve_is_looked_for_nowhere_but_where_it_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_DASHBOARD_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="which Ray cluster. Set RAY_DASHBOARD_ADDRESS"):
        _look("ray://serve")


def test_what_is_no_dashboard_of_ray_is_passed_over_like_a_look_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with _dashboard(["a", "page"], []) as url:
        monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", url)
        assert _look("ray://serve") == ()
