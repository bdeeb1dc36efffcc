"""A table of addresses as a source, against a local server of every habit: each line is an image or a reject with its reason,
nothing is fetched twice, opt-outs hold, nothing inside this network is asked unless allowed, and nothing unless asked for."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmret.errors import UserError
from mmret.ingest.seal import seal
from mmret.ingest.sources import open_reader, open_source
from mmret.ingest.stage import ingest_shard
from mmret.ingest.watch import signature
from mmret.ingest.web.download import opted_out
from mmret.lake import Lake
from mmret.lake.configuration import source_name
from mmret.settings import CorpusSettings, DownloadSettings, IngestSettings

FAST = DownloadSettings(inside=True, seconds=1.5, max_bytes=200_000, tries=2, again_after_hours=0)


def png(colour: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (colour, 90, 90)).save(out, "PNG")
    return out.getvalue()


class Host(http.server.BaseHTTPRequestHandler):
    """What is at ``/<habit>/<n>``; ``asked`` counts what was asked for."""

    asked: Counter[str] = Counter()
    mended = False

    def do_GET(self) -> None:
        Host.asked[self.path] += 1
        habit, _, rest = self.path[1:].partition("/")
        data = png(int(rest)) if rest.isdigit() else b""
        if Host.mended and habit in ("busy", "slow", "cut"):
            habit = "good"
        with contextlib.suppress(OSError):
            getattr(self, habit)(data, rest)

    def send(self, data: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def good(self, data: bytes, _: str) -> None:
        self.send(data, Content_Type="image/png")

    def missing(self, data: bytes, _: str) -> None:
        self.send(b"gone", 404)

    def busy(self, data: bytes, _: str) -> None:
        self.send(b"later", 503)

    def page(self, data: bytes, _: str) -> None:
        self.send(b"<!DOCTYPE html><p>buy this domain", Content_Type="image/jpeg")

    def mislabelled(self, data: bytes, _: str) -> None:
        self.send(data, Content_Type="text/html")

    def text(self, data: bytes, _: str) -> None:
        self.send(b"not a picture", Content_Type="image/jpeg")

    def cut(self, data: bytes, _: str) -> None:
        self.send(data[:40], length=len(data))

    def empty(self, data: bytes, _: str) -> None:
        self.send(b"")

    def huge(self, data: bytes, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(1000):
            self.wfile.write(b"x" * 10_000)

    def boasting(self, data: bytes, _: str) -> None:
        self.send(data, length=10**10)

    def slow(self, data: bytes, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(50):
            self.wfile.write(b"x")
            time.sleep(0.1)

    def moved(self, data: bytes, rest: str) -> None:
        self.send(b"", 302, Location=f"/good/{rest}")

    def circle(self, data: bytes, rest: str) -> None:
        self.send(b"", 301, Location=self.path)

    def elsewhere(self, data: bytes, rest: str) -> None:
        self.send(b"", 302, Location="file:///etc/passwd")

    def optout(self, data: bytes, _: str) -> None:
        self.send(data, X_Robots_Tag="noimageai")

    def log_message(self, *said: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    Host.asked, Host.mended = Counter(), False
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def table(folder: Path, addresses: list[str]) -> str:
    rows = {"URL": addresses, "TEXT": [f"a picture number {i}" for i in range(len(addresses))], "WIDTH": [3] * len(addresses)}
    pq.write_table(pa.table(rows), folder / "list.parquet")
    return f"urls:{folder / 'list.parquet'}"


def ingested(lake: Lake, source: str, download: DownloadSettings = FAST) -> tuple[dict[str, str], dict[str, str]]:
    """What becomes of each address: the captions of images and the reasons of rejects, after what a run does."""
    corpus = CorpusSettings(sources=(source,), download=download)
    for number, (shard, rows) in enumerate(seal(lake, corpus, IngestSettings())):
        lake.write("corpus_manifest", shard, rows, f"inputs {number}")
    for shard in lake.shards():
        ingest_shard(lake, shard, IngestSettings(), f"images {time.monotonic_ns()}")
    images, rejects = lake.read("images").to_pylist(), lake.read("rejects").to_pylist()
    return {r["source"]: r["caption"] for r in images}, {r["source"]: r["reason"] for r in rejects}


HABITS = {
    "good": None,
    "moved": None,
    "mislabelled": None,
    "missing": "http_404",
    "busy": "http_503",
    "page": "web_page",
    "text": "not_an_image",
    "cut": "no_answer",
    "empty": "empty_file",
    "huge": "too_many_bytes",
    "boasting": "too_many_bytes",
    "slow": "slow",
    "circle": "http_310",
    "elsewhere": "bad_address",
    "optout": "opted_out",
}


def test_every_address_is_an_image_or_a_reject_with_its_reason_and_is_asked_for_once(host: str, tmp_path: Path) -> None:
    addresses = {f"{host}/{habit}/{n}": reason for n, (habit, reason) in enumerate(HABITS.items())}
    addresses |= {"http://127.0.0.1:1/x": "no_answer", "ftp://127.0.0.1/x": "bad_address", "": "bad_address"}
    lake, source = Lake(tmp_path / "lake"), table(tmp_path, list(addresses))
    patient = FAST.model_copy(update={"again_after_hours": 1.0})
    images, rejects = ingested(lake, source, patient)
    assert set(images) == {a for a, reason in addresses.items() if reason is None}
    assert {a: rejects.get(a or None) for a, reason in addresses.items() if reason and a} == {
        a: reason for a, reason in addresses.items() if reason and a
    }
    assert len(images) + len(lake.read("rejects")) == len(addresses)
    asked = Counter(Host.asked)
    assert asked[f"/good/{list(HABITS).index('good')}"] == 1 and asked[f"/busy/{list(HABITS).index('busy')}"] == 2
    ingested(lake, source, patient)
    assert Host.asked == asked, "neither what is there nor what failed just now is asked for again"


def test_a_later_run_fetches_what_failed_for_the_moment_and_not_what_is_there_or_gone(host: str, tmp_path: Path) -> None:
    addresses = [f"{host}/{habit}/{n}" for n, habit in enumerate(["good", "missing", "busy", "slow", "cut", "page", "good"])]
    lake, source = Lake(tmp_path / "lake"), table(tmp_path, addresses)
    assert len(ingested(lake, source)[0]) == 2
    asked, Host.mended = Counter(Host.asked), True
    images, _ = ingested(lake, source)
    assert set(images) == {addresses[i] for i in (0, 2, 3, 4, 6)}
    again = {path for path, n in (Host.asked - asked).items() if n}
    assert again == {"/busy/2", "/slow/3", "/cut/4"}


def test_a_longer_table_fetches_what_is_new_and_a_broken_log_is_no_trouble(host: str, tmp_path: Path) -> None:
    lake, addresses = Lake(tmp_path / "lake"), [f"{host}/good/{n}" for n in range(4)]
    source = table(tmp_path, [*addresses[:3], f"{host}/missing/9"])
    ingested(lake, source)
    with open(tmp_path / "list.parquet.pictures/failed.jsonl", "a") as log:
        log.write('{"address": "http://x')
    before = signature(source_name(source))
    table(tmp_path, [*addresses[:3], f"{host}/missing/9", addresses[3], addresses[0]])
    assert signature(source_name(source)) != before, "a sensor sees that the table has grown"
    images, _ = ingested(lake, source)
    assert set(images) == set(addresses) and Host.asked["/good/0"] == Host.asked["/missing/9"] == 1


def test_nothing_inside_this_network_is_asked_unless_allowed_not_even_by_a_redirect(host: str, tmp_path: Path) -> None:
    source = table(tmp_path, [f"{host}/good/1", "http://localhost/x", "http://[::1]/x", "http://169.254.169.254/latest"])
    outside = DownloadSettings(seconds=2, tries=1)
    rows = list(open_source(source, outside).rows())
    assert {row.reason for row in rows} == {"private_address"} and not Host.asked
    assert "corpus.download.inside" in (rows[0].detail or "")
    assert next(iter(open_source(source, FAST).rows())).reason is None, "and is as soon as it is allowed"


def test_opt_outs_are_honoured_unless_switched_off(host: str, tmp_path: Path) -> None:
    source = table(tmp_path, [f"{host}/optout/1"])
    assert [row.reason for row in open_source(source, FAST).rows()] == ["opted_out"]
    assert [row.reason for row in open_source(source, FAST.model_copy(update={"opt_out": False})).rows()] == [None]


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        (["noai"], True),
        (["nosnippet, NoImageAI"], True),
        (["noarchive", "noindex"], True),
        (["mmret: noai"], True),
        (["otherbot: noai"], False),
        (["nosnippet"], False),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST"], False),
        ([], False),
    ],
)
def test_an_opt_out_holds_for_all_or_for_the_program_it_names(tags: list[str], told: bool) -> None:
    assert bool(opted_out(tags, "mmret/1")) == told


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "{0}\n\n# more\n{1}\n"),
        ("a.csv", 'text,url\n"a red ball, big",{0}\na boat,{1}\n'),
        ("cc3m.tsv", "a red ball\t{0}\na boat\t{1}\n"),
        ("cc12m.tsv", "{0}\ta red ball\n{1}\ta boat\n"),
        ("a.jsonl", '{{"image_url": "{0}", "caption": "a red ball"}}\n{{"image_url": "{1}", "caption": "a boat"}}\n'),
    ],
)
def test_tables_of_every_kind_are_read(host: str, tmp_path: Path, name: str, text: str) -> None:
    addresses = f"{host}/good/1", f"{host}/good/2"
    (tmp_path / name).write_text(text.format(*addresses))
    rows = list(open_source(f"urls:{tmp_path / name}", FAST).rows())
    assert [row.source for row in rows] == list(addresses) and [row.reason for row in rows] == [None, None]
    assert [row.caption for row in rows] in ([None, None], ["a red ball", "a boat"], ["a red ball, big", "a boat"])
    reader = open_reader(f"urls:{tmp_path / name}")
    assert reader.open(rows[0].path)[0].read() == png(1)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.csv", None, "there is no file .*none.csv: urls: stands before a table"),
        ("a.csv", "image,caption\na.jpg,a ball\n", "no column of addresses .*: found image, caption"),
        ("a.csv", "", "no column of addresses .*: it has no row"),
        ("a.xml", "<x/>", "no table of addresses that can be read: those are .parquet"),
    ],
)
def test_a_file_that_is_no_table_of_addresses_is_refused_in_a_sentence(
    tmp_path: Path, name: str, content: Any, sentence: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=sentence):
        open_source(f"urls:{tmp_path / name}")


def test_nothing_is_fetched_unless_it_is_asked_for_and_the_refusal_names_the_switch(host: str, tmp_path: Path) -> None:
    source = table(tmp_path, [f"{host}/good/1"])
    with pytest.raises(UserError, match="addresses on the web: .*or have them fetched: urls: before the table's name"):
        open_source(source.removeprefix("urls:"))
    open_source(source, FAST)
    assert not Host.asked, "opening a list looks at it only"
    assert json.dumps(source_name(f"urls:{tmp_path}/./list.parquet")) == json.dumps(source)
