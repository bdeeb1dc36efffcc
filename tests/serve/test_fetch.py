"""Pictures by address: only from hosts that were named, never from inside a network by a public name, bounded in size and time."""

import asyncio
import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi_offline", reason="the server needs the extra 'serve'")

import httpx

from mmret.ingest.pictures.images import images_by_id
from mmret.serve.access import Access
from mmret.serve.fetch import Fetcher
from mmret.serve.limits import Limits
from mmret.serve.refusal import Refusal
from tests.serve.conftest import served, until_ready

LIMITS = Limits(body_bytes=5000, fetch_seconds=1)


class Host(http.server.BaseHTTPRequestHandler):
    """Serves a file, redirects, answers without end."""

    asked: list[str] = []
    file = b"file"

    def do_GET(self) -> None:
        self.asked.append(f"{self.headers['Host']}{self.path}")
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        self.send_response(404 if self.path == "/none" else 200)
        self.end_headers()
        try:
            if self.path == "/long":
                for _ in range(100):
                    self.wfile.write(b"x" * 1000)
            elif self.path == "/slow":
                for _ in range(30):
                    self.wfile.write(b"x")
                    time.sleep(0.1)
            else:
                self.wfile.write(self.file)
        except OSError:
            pass

    def log_message(self, *said: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    """``127.0.0.1:port`` of a server of files."""
    Host.asked, Host.file = [], b"file"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def fetch(address: str, *hosts: str, limits: Limits = LIMITS) -> bytes:
    async def run() -> bytes:
        return await Fetcher(hosts, limits).fetch(address)

    return asyncio.run(run())


def refused(status: int, said: str, address: str, *hosts: str) -> None:
    with pytest.raises(Refusal, match=said) as refusal:
        fetch(address, *hosts)
    assert refusal.value.status == status


def test_a_file_comes_from_a_host_that_was_named_with_its_port(host):
    assert fetch(f"http://{host}/x.png?a=1", host) == b"file" and Host.asked == [f"{host}/x.png?a=1"]
    port = host.partition(":")[2]
    assert fetch(f"http://localhost:{port}/x", f"LOCALHOST:{port}") == b"file"


def test_other_hosts_other_ports_and_what_is_no_address_are_refused(host):
    for named in ("127.0.0.1", "127.0.0.1:1", "localhost", "example.org"):
        refused(403, "not fetched from this host", f"http://{host}/x", named)
    for address in (f"http://user@{host}/", "file:///etc/passwd", "ftp://x/", f"//{host}/x", "http://", "x", "", "\0"):
        refused(422, "address", address, host)
    assert Host.asked == []


def test_a_redirect_leads_to_named_hosts_alone_and_not_round_and_round(host):
    assert fetch(f"http://{host}/to?/x.png", host) == b"file"
    for target in ("http://169.254.169.254/latest", "http://localhost/x", "https://example.org/x"):
        refused(403, "not fetched from this host", f"http://{host}/to?{target}", host)
    refused(422, "address", f"http://{host}/to?file:///etc/passwd", host)
    refused(422, "did not answer", f"http://{host}/to?http://xn--a.com/", host)
    refused(422, "no address", "http://xn--a.com/x.png", host)
    refused(422, "did not answer", "http://example..com/x.png", "example..com")
    refused(422, "more than 3 redirects", f"http://{host}/to?/to?/to?/to?/to?/x", host)


INSIDE = """127.0.0.1 10.0.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 ::1 ::10.0.0.1 fd00::1 ::ffff:10.0.0.1
64:ff9b::a00:1"""


@pytest.mark.parametrize("address", INSIDE.split())
def test_a_public_name_that_points_inside_a_network_is_refused(address, monkeypatch):
    async def resolved(self, *asked, **more):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, 0))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolved)
    refused(403, "not a public one", "http://pictures.example/x.png", "pictures.example")


def test_the_connection_goes_to_the_address_that_was_checked(host, monkeypatch):
    """A name that has another address at the second look would lead inside otherwise."""
    asked = []

    async def resolved(self, name, *more, **others):
        asked.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr("mmret.public_addresses.is_public", lambda address: True)
    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolved)
    port = host.partition(":")[2]
    assert fetch(f"http://pictures.example:{port}/x.png", f"pictures.example:{port}") == b"file"
    assert Host.asked == [f"pictures.example:{port}/x.png"] and asked.count("pictures.example") == 1


def test_size_and_time_are_bounded_and_a_missing_file_is_told(host):
    refused(413, "more than 5000 bytes", f"http://{host}/long", host)
    began = time.monotonic()
    refused(422, "not fetched within 1 s", f"http://{host}/slow", host)
    assert time.monotonic() - began < 5
    refused(422, "status 404", f"http://{host}/none", host)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    refused(422, "did not answer", f"http://{nobody}/x", nobody)


def test_a_search_by_address_finds_what_the_file_itself_finds(lake, host):
    image_id = lake.read("images", columns=["image_id"])["image_id"][0].as_py()
    Host.file = images_by_id(lake, [image_id])[image_id]
    with served(lake, access=Access(fetch=(host,))) as running:
        with httpx.Client(base_url=running.address, trust_env=False, timeout=60) as client:
            until_ready(client)
            by_address = client.get("/search", params={"image_url": f"http://{host}/x.png", "k": 5}).json()
            by_id = client.get("/search", params={"image_id": image_id, "k": 5}).json()
            assert [h["image_id"] for h in by_address["hits"]] == [h["image_id"] for h in by_id["hits"]]
            Host.file = b"<html>"
            answer = client.get("/search", params={"image_url": f"http://{host}/x.png"})
            assert answer.status_code == 415
