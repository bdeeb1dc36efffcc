"""Who may ask and how much: token, hosts, origins, rates, sizes, time; no connection is held for nothing."""

import importlib.util
import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future

import httpx
import pytest

pytest.importorskip("fastapi_offline", reason="the server needs the extra 'serve'")

from mmret.cli import app
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.serve.access import Access, is_loopback, read_token, require_token
from mmret.serve.limits import Limits, read_limits
from mmret.serve.rates import Rates, _network
from mmret.serve.server import SearchServer, ServeOptions
from tests.conftest import CHECKOUT
from tests.serve.conftest import served, until_ready

TOKEN = "correct-horse-battery"


def own_address() -> str | None:
    """An address of this machine that is not loopback, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return None
        address = asking.getsockname()[0]
    return None if is_loopback(address) else address


def raw(server: SearchServer, data: bytes, most: float = 10) -> bytes:
    """What the server answers to ``data`` until it closes the connection or says nothing more."""
    host, port = server.address.removeprefix("http://").rsplit(":", 1)
    with socket.create_connection((host.strip("[]"), int(port)), timeout=most) as connection:
        connection.sendall(data)
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
                if b"\r\n\r\n" in b"".join(parts) and b"connection: close" not in b"".join(parts):
                    break
        except (TimeoutError, ConnectionError):
            pass
        return b"".join(parts)


def test_without_a_token_the_server_listens_to_this_machine_alone(lake):
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.org", ""):
        assert not is_loopback(host)
        with pytest.raises(UserError, match="lets other machines in: give --token-file"):
            require_token(host, None)
        require_token(host, TOKEN)
    for host in ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"):
        require_token(host, None)
    with pytest.raises(UserError, match="lets other machines in"):
        SearchServer(lake, resolve(lake)[0], ServeOptions(host="0.0.0.0", port=0))


def test_from_another_address_nothing_is_reached_on_loopback_and_nothing_without_the_token(lake, server):
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    with pytest.raises(httpx.ConnectError, match="refused|reach"):
        httpx.get(f"http://{address}:{server.address.rsplit(':', 1)[1]}/health", trust_env=False)
    with served(lake, host="0.0.0.0", access=Access(token=TOKEN)) as running:
        there = f"http://{address}:{running.address.rsplit(':', 1)[1]}"
        with httpx.Client(base_url=there, trust_env=False, timeout=60) as client:
            until_ready(client)
            routes = ["/search?text=a", "/images/" + "0" * 32, "/recipes", "/metrics", "/docs", "/openapi.json", "/nothing", "/"]
            for wrong in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}, {"authorization": TOKEN}):
                for route in routes:
                    answer = client.get(route, headers=wrong)
                    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", route
                assert client.post("/search", json={"text": "a"}, headers=wrong).status_code == 401
            assert client.get("/health").status_code == 200
            right = {"authorization": f"Bearer {TOKEN}"}
            assert client.get("/search?text=a", headers=right).status_code == 200
            assert client.get("/openapi.json", headers=right).json()["security"] == [{"token": []}]


def test_the_token_comes_from_a_file_or_the_environment_and_leaves_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MMRET_TOKEN", TOKEN)
    assert read_token(None) == TOKEN and "MMRET_TOKEN" not in os.environ and read_token(None) is None
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(tmp_path / "token") == TOKEN
    for bad in ("short", "with a space in the middle", "ünïcode" * 5, ""):
        (tmp_path / "token").write_text(bad)
        with pytest.raises(UserError, match="at least 16 ASCII letters"):
            read_token(tmp_path / "token")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_token(tmp_path / "none")


def test_another_host_name_and_another_site_are_refused(client, server):
    port = server.address.rsplit(":", 1)[1]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.", "[::2]", ""):
        assert client.get("/health", headers={"host": host}).status_code == 400, host
    for host in ("localhost", f"LOCALHOST:{port}", f"[::1]:{port}"):
        assert client.get("/health", headers={"host": host}).status_code == 200, host
    assert b" 400 " in raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        answer = client.get("/search?text=a", headers={"origin": origin})
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    assert client.get("/search?text=a", headers={"origin": server.address}).status_code == 200


def test_a_site_that_is_allowed_may_ask_and_others_still_not(lake):
    site = "https://shop.example"
    with served(lake, access=Access(token=TOKEN, origins=(site,), hosts=("search.example",))) as running:
        asked = {"origin": site, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        allowed = httpx.options(running.address + "/search", headers=asked, trust_env=False)
        assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == site
        answer = httpx.get(running.address + "/recipes", headers={"origin": site}, trust_env=False)
        assert answer.status_code == 401 and answer.headers["access-control-allow-origin"] == site
        other = httpx.options(running.address + "/search", headers={**asked, "origin": "https://evil.example"}, trust_env=False)
        assert "access-control-allow-origin" not in other.headers
        answer = httpx.get(running.address + "/health", headers={"host": "search.example"}, trust_env=False)
        assert answer.status_code == 200


def test_a_rate_holds_for_each_address_by_itself():
    rates = Rates(5)
    assert [rates.admits("192.0.2.1") for _ in range(8)].count(True) == 5
    assert rates.admits("192.0.2.2") and all(Rates(0).admits("192.0.2.1") for _ in range(1000))
    assert _network("2001:db8::1") == _network("2001:db8::ffff") != _network("2001:db8:0:1::1")
    assert _network("::ffff:192.0.2.1") == "192.0.2.1"


def test_more_than_the_rate_is_told_when_to_come_again(lake):
    with served(lake, rate=3) as running:
        answers = [httpx.get(running.address + "/recipes", trust_env=False) for _ in range(12)]
        late = [answer for answer in answers if answer.status_code == 429]
        assert late and late[0].headers["retry-after"] == "1" and "come again" in late[0].json()["error"]
        assert httpx.get(running.address + "/health", trust_env=False).status_code == 200


def test_bodies_are_counted_as_they_come_whatever_they_say_of_their_length(lake):
    with served(lake, limits=Limits(body_bytes=2000, seconds=2)) as running:
        post = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        assert b" 413 " in raw(running, post + b"Content-Length: 2001\r\n\r\n")
        chunks = b"".join(b"400\r\n" + b"x" * 1024 + b"\r\n" for _ in range(3))
        assert b" 413 " in raw(running, post + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        began = time.monotonic()
        assert b" 408 " in raw(running, post + b'Content-Length: 20\r\n\r\n{"text"')
        assert 1.5 < time.monotonic() - began < 6
        assert b" 400 " in raw(running, post + b"Content-Length: -1\r\n\r\n")
        assert b" 400 " in raw(running, post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")


def test_all_bodies_together_are_bounded(lake):
    with served(lake, limits=Limits(held_bytes=3000, seconds=3)) as running:
        post = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2500\r\n\r\n"
        host, port = running.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as first:
            first.sendall(post + b"x" * 2000)
            time.sleep(0.3)
            assert b" 503 " in raw(running, post + b"x" * 2000)


def test_a_head_that_is_too_long_or_never_ends_ends_its_connection(lake, server, monkeypatch):
    long = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20_000
    assert b" 431 " in raw(server, long + b"\r\n\r\n") and b" 431 " in raw(server, long * 20)
    many = b"".join(b"X-%d: y\r\n" % n for n in range(3000))
    assert b" 431 " in raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + many + b"\r\n")
    monkeypatch.setattr("mmret.serve.server.HEAD_SECONDS", 1.0)
    with served(lake) as running:
        for beginning in (b"", b"GET /hea", b"\r\n", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he"):
            began = time.monotonic()
            host, port = running.address.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port)), timeout=10) as slow:
                slow.sendall(beginning)
                while slow.recv(65536):
                    pass
            assert time.monotonic() - began < 5, beginning


def test_connections_that_never_ask_are_counted(lake):
    with served(lake, limits=Limits(connections=5)) as running:
        host, port = running.address.removeprefix("http://").split(":")
        idle = [socket.create_connection((host, int(port)), timeout=5) for _ in range(8)]
        time.sleep(0.5)
        alive = []
        for connection in idle:
            connection.settimeout(0.3)
            try:
                alive.append(connection.recv(1) != b"")
            except TimeoutError:
                alive.append(True)
            except ConnectionError:
                alive.append(False)
            connection.close()
        assert alive == [True] * 5 + [False] * 3
        time.sleep(0.2)
        assert httpx.get(running.address + "/health", trust_env=False).status_code == 200


def test_whoever_waits_too_long_or_is_one_too_many_is_told_to_come_again(lake, monkeypatch):
    with served(lake, limits=Limits(waiting=2, seconds=1)) as running:
        monkeypatch.setattr(running.service, "submit", lambda *asked, **more: Future())
        with httpx.Client(base_url=running.address, trust_env=False) as client:
            late = client.get("/search?text=a")
            assert late.status_code == 503 and late.headers["retry-after"] and "no answer within 1 s" in late.json()["error"]
            full = client.post("/search/batch", json={"queries": [{"text": "a"}] * 3})
            assert full.status_code == 503 and "too many searches wait" in full.json()["error"]
            assert "mmret_waiting_queries 0.0" in client.get("/metrics").text


def test_a_search_too_many_for_the_reranker_is_told_to_come_again_and_the_others_are_answered(lake, monkeypatch):
    def later(query, page, recipe) -> Future:
        future = Future()
        threading.Timer(0.3, future.set_exception, [UserError("its turn came")]).start()
        return future

    with served(lake, limits=Limits(reranks=2)) as running:
        running.service.rerankers = ["second"]
        monkeypatch.setattr(running.service, "submit", later)
        queries = [{"text": "a", "rerank": "second"}] * 3 + [{"text": "a"}]
        with httpx.Client(base_url=running.address, trust_env=False) as client:
            for _ in range(2):  # places are given back
                answers = client.post("/search/batch", json={"queries": queries}).json()["answers"]
                assert ["reranker" in answer["error"] for answer in answers] == [False, False, True, False]
                assert [answer["status"] for answer in answers][2] == 503


def test_a_fault_is_answered_with_an_id_that_the_log_has_and_nothing_else(lake, monkeypatch, caplog):
    def broken(*asked, **more):
        raise RuntimeError(f"secret of {lake.root}")

    with served(lake) as running:
        monkeypatch.setattr(running.service, "submit", broken)
        answer = httpx.get(running.address + "/search?text=a", trust_env=False)
        assert answer.status_code == 500 and "secret" not in answer.text
        fault = answer.json()["error"].split()[-1]
        assert any(f"fault {fault}" in record.getMessage() and record.exc_info for record in caplog.records)


def test_limits_are_named_on_the_command_line():
    assert read_limits(["pixels=50_000_000", "seconds=2.5"]) == Limits(pixels=50_000_000, seconds=2.5)
    for wrong in ("pixel=1", "pixels", "pixels=", "pixels=many", "pixels=-1", "k=0"):
        with pytest.raises(UserError, match="--limit"):
            read_limits([wrong])


def test_what_the_command_cannot_do_is_one_sentence(lake, server, tmp_path, monkeypatch):
    port = server.address.rsplit(":", 1)[1]
    for words, said in (
        (("--lake", tmp_path / "none"), "holds no images yet"),
        (("--lake", lake.root, "--port", port), f"cannot listen on 127.0.0.1:{port}"),
        (("--lake", lake.root, "--host", "0.0.0.0"), "lets other machines in"),
        (("--lake", lake.root, "--recipe", "nosuch"), "no checkpoint of recipe 'nosuch'"),
        (("--lake", lake.root, "--limit", "k=none"), "--limit k=none"),
        (("--lake", lake.root, "--precision", "int4"), "no precision 'int4'"),
    ):
        with pytest.raises(UserError, match=re.escape(said)) as error:
            app(["serve", *map(str, words)], standalone_mode=False)
        assert "\n" not in str(error.value)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "limits" else find(name, *more))
    with pytest.raises(UserError, match=r"needs the extra 'serve' \(limits missing\): pip install 'mmret\[serve\]'"):
        app(["serve", "--lake", str(lake.root)], standalone_mode=False)


def test_the_first_signal_lets_what_is_in_flight_finish_and_the_second_ends_it(lake: Lake):
    line = [sys.executable, "-m", "mmret", "serve", "--lake", str(lake.root), "--port", "0"]
    running = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT)
    port = int(running.stdout.readline().split(": ")[1].split()[0].rsplit(":", 1)[1])
    body = b'{"text": "a red circle"}'
    head = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
        until_ready(client)
    with socket.create_connection(("127.0.0.1", port)) as slow, socket.create_connection(("127.0.0.1", port)) as never:
        slow.sendall(head + body[:5])
        never.sendall(head + body[:5])
        time.sleep(0.3)
        running.terminate()
        time.sleep(0.5)
        slow.sendall(body[5:])
        assert b"200 OK" in slow.recv(65536) and running.poll() is None
        running.terminate()
        assert b" 503 " in never.recv(65536)
    assert running.wait(20) == 0 and running.stderr.read() == "loading …\nstopped\n"


def test_pages_of_other_sites_reach_nothing_by_a_picture_or_a_script_and_a_link_does(client):
    asked = {"params": {"text": "a red circle"}}
    for site in ("cross-site", "same-site"):
        refused = client.get("/search", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}, **asked)
        assert refused.status_code == 403 and "other sites" in refused.json()["error"]
        assert client.get("/search", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}, **asked).status_code == 200
    assert client.get("/search", headers={"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, **asked).status_code == 200


def test_a_head_that_comes_in_pieces_is_counted_once(server):
    port = int(server.address.rpartition(":")[2])
    head = b"GET /health?" + b"x" * 12_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        for start in range(0, len(head), 1448):
            connection.sendall(head[start : start + 1448])
            time.sleep(0.005)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:200]
