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
from mmret.ingest.web.address_tables import column_of_addresses
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
    status = 503

    def do_GET(self) -> None:
        Host.asked[self.path] += 1
        habit, _, rest = self.path[1:].partition("/")
        data = png(int(rest)) if rest.isdigit() else b""
        if Host.mended and habit in ("busy", "slow", "cut", "gateway"):
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
        self.send(b"later", Host.status)

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

    def nowhere(self, data: bytes, rest: str) -> None:
        self.send(b"", 302, Location=f"http://xn--a.com/{rest}")

    def noport(self, data: bytes, rest: str) -> None:
        self.send(b"", 302, Location=f"http://127.0.0.1:99999/{rest}")

    def nolabel(self, data: bytes, rest: str) -> None:
        self.send(b"", 302, Location=f"//{'a' * 64}.com/{rest}")

    def noaddress(self, data: bytes, rest: str) -> None:
        self.send(b"", 302, Location="http://[")

    def gateway(self, data: bytes, _: str) -> None:
        self.send(b"later", 522)

    def optout(self, data: bytes, _: str) -> None:
        self.send(data, X_Robots_Tag="noimageai")

    def log_message(self, *said: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    Host.asked, Host.mended, Host.status = Counter(), False, 503
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def table(folder: Path, addresses: list[str]) -> str:
    rows = {"URL": addresses, "TEXT": [f"a picture number {i}" for i in range(len(addresses))], "WIDTH": [3] * len(addresses)}
    pq.write_table(pa.table(rows), folder / "list.parquet")
    return f"urls:{folder / 'list.parquet'}"


def ingested(lake: Lake, source: str, download: DownloadSettings = FAST, **corpus_: Any) -> tuple[dict[str, str], dict[str, str]]:
    """What becomes of each address: the captions of images and the reasons of rejects, after what a run does."""
    corpus = CorpusSettings(sources=(source,), download=download, **corpus_)
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
    "nowhere": "bad_address",
    "noport": "bad_address",
    "nolabel": "bad_address",
    "noaddress": "no_answer",
    "gateway": "http_522",
    "optout": "server_opted_out",
}


def test_every_address_is_an_image_or_a_reject_with_its_reason_and_is_asked_for_once(host: str, tmp_path: Path) -> None:
    addresses = {f"{host}/{habit}/{n}": reason for n, (habit, reason) in enumerate(HABITS.items())}
    addresses |= {"http://127.0.0.1:1/x": "no_answer", "ftp://127.0.0.1/x": "bad_address", "": "bad_address"}
    lying = ("example..com", f"{'a' * 64}.com", "xn--a.com", "127.0.0.1:99999", "127.0.0.1:-1", ".", "a@127.0.0.1", "[::")
    addresses |= {f"http://{host}/a.jpg": "bad_address" for host in lying}
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
    addresses = [
        f"{host}/{habit}/{n}" for n, habit in enumerate(["good", "missing", "busy", "slow", "cut", "page", "good", "gateway"])
    ]
    lake, source = Lake(tmp_path / "lake"), table(tmp_path, addresses)
    assert len(ingested(lake, source)[0]) == 2
    asked, Host.mended = Counter(Host.asked), True
    images, _ = ingested(lake, source)
    assert set(images) == {addresses[i] for i in (0, 2, 3, 4, 6, 7)}
    again = {path for path, n in (Host.asked - asked).items() if n}
    assert again == {"/busy/2", "/slow/3", "/cut/4", "/gateway/7"}


def test_an_address_that_cannot_be_written_down_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"url": "http://127.0.0.1:1/x", "caption": "a"}\n{"url": "http://h/\\ud800.jpg", "caption": "a"}\n'
    )
    _, rejects = ingested(Lake(tmp_path / "lake"), f"urls:{tmp_path / 'a.jsonl'}")
    assert rejects == {"http://127.0.0.1:1/x": "no_answer", None: "bad_address"}


def test_a_failure_that_changes_changes_its_row_and_a_picture_that_comes_takes_its_place(host: str, tmp_path: Path) -> None:
    lake, source = Lake(tmp_path / "lake"), table(tmp_path, [f"{host}/good/0", f"{host}/busy/1"])
    for Host.status, reason in ((503, "http_503"), (500, "http_500"), (404, "http_404")):
        _, rejects = ingested(lake, source)
        assert rejects == {f"{host}/busy/1": reason} and len(lake.read("corpus_manifest")) == 2
    lake, Host.status = Lake(tmp_path / "other"), 503
    (tmp_path / "list.parquet.pictures/failed.jsonl").unlink()
    assert ingested(lake, source)[1] == {f"{host}/busy/1": "http_503"}
    Host.mended = True
    images, rejects = ingested(lake, source)
    assert images[f"{host}/busy/1"] == "a picture number 1" and not rejects and len(lake.read("corpus_manifest")) == 2
    assert not list(seal(lake, CorpusSettings(sources=(source,), download=FAST), IngestSettings())), "then nothing is new"


def test_lines_that_are_no_addresses_are_the_same_rows_when_the_table_grows_above_them(host: str, tmp_path: Path) -> None:
    lake, source = Lake(tmp_path / "lake"), table(tmp_path, [f"{host}/good/0", "nothing"])
    ingested(lake, source)
    table(tmp_path, [f"{host}/good/1", f"{host}/good/0", "nothing"])
    ingested(lake, source)
    assert sorted(lake.read("corpus_manifest")["reason"].to_pylist(), key=str) == [None, None, "bad_address"]


def test_of_a_list_that_opts_out_addresses_or_hashes_nothing_is_fetched_until_the_entry_is_withdrawn(
    host: str, tmp_path: Path
) -> None:
    addresses, out = [f"{host}/good/{n}" for n in range(4)], tmp_path / "out.txt"
    rows = {"url": addresses, "caption": list("abcd"), "md5": [None, "0" * 31 + "A", None, None]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    lake, source = Lake(tmp_path / "lake"), f"urls:{tmp_path / 'a.parquet'}"
    out.write_text(f"{addresses[0]}\nmd5:{'0' * 31}a\n")
    remarks: dict[str, Any] = {}
    for _ in range(2):
        images, rejects = ingested(lake, source, opt_out=(str(out),))
        assert rejects == {addresses[0]: "opted_out", addresses[1]: "opted_out"} and set(images) == set(addresses[2:])
        corpus = CorpusSettings(sources=(source,), download=FAST, opt_out=(str(out),))
        assert not list(seal(lake, corpus, IngestSettings(), remarks)), "a row that is listed as it is sealed is not new"
        assert not list(remarks[str(out)]), "both entries mean a row"
    assert Host.asked == {"/good/2": 1, "/good/3": 1}
    out.write_text("# none\n")
    images, rejects = ingested(lake, source, opt_out=(str(out),))
    assert set(images) == set(addresses) and not rejects and len(lake.read("corpus_manifest")) == 4


def test_a_picture_that_was_opted_out_by_its_content_is_not_fetched_again_when_its_file_is_gone(host: str, tmp_path: Path) -> None:
    lake, source, out = Lake(tmp_path / "lake"), table(tmp_path, [f"{host}/good/0", f"{host}/good/1"]), tmp_path / "out.txt"
    ingested(lake, source)
    row = lake.read("corpus_manifest").to_pylist()[0]
    out.write_text(f"image_id:{row['image_id']}\n")
    assert ingested(lake, source, opt_out=(str(out),))[1] == {f"{host}/good/0": "opted_out"}
    (tmp_path / "list.parquet.pictures" / row["path"]).unlink()
    corpus = CorpusSettings(sources=(source,), download=FAST, opt_out=(str(out),))
    assert not list(seal(lake, corpus, IngestSettings())) and Host.asked["/good/0"] == 1
    out.write_text("# none\n")
    assert len(ingested(lake, source, opt_out=(str(out),))[0]) == 2 and Host.asked["/good/0"] == 2


def test_no_more_is_fetched_than_the_corpus_takes_whatever_failed_or_opted_out(host: str, tmp_path: Path) -> None:
    habits = ["good", "optout", "missing", "good"] + ["good"] * 20
    lake, source = Lake(tmp_path / "lake"), table(tmp_path, [f"{host}/{habit}/{n}" for n, habit in enumerate(habits)])
    for _ in range(3):
        images, rejects = ingested(lake, source, images=5)
        assert len(images) == 3 and sorted(rejects.values()) == ["http_404", "server_opted_out"]
    assert len(Host.asked) == 5
    assert len(ingested(lake, source, images=7)[0]) == 5 and len(Host.asked) == 7, "more once it takes more"


def test_what_failed_is_kept_once_an_address_and_read_as_it_is_meant_today(host: str, tmp_path: Path) -> None:
    source, folder = (
        table(tmp_path, [f"{host}/busy/0", f"{host}/missing/1", f"{host}/gateway/2"]),
        tmp_path / "list.parquet.pictures",
    )
    for _ in range(4):
        assert [row.reason for row in open_source(source, FAST).rows()] == ["http_503", "http_404", "http_522"]
    log = folder / "failed.jsonl"
    assert len(log.read_text().splitlines()) <= 3 + 2, "one a failure and those of the last attempt"
    log.write_text(
        json.dumps({"address": f"{host}/gateway/2", "reason": "http_522", "detail": "", "passes": False, "time": 0}) + "\n"
    )
    Host.mended = True
    assert [row.reason for row in open_source(source, FAST).rows()] == [None, "http_404", None]


def test_the_tables_own_source_is_kept_in_extra(host: str, tmp_path: Path) -> None:
    rows = {"image_url": [f"{host}/good/1"], "source": ["a museum"], "url": ["http://127.0.0.1/page"], "caption": ["a"]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    (row,) = open_source(f"urls:{tmp_path / 'a.parquet'}", FAST).rows()
    assert row.source == f"{host}/good/1" and row.caption == "a"
    assert json.loads(row.extra or "") == {"source": "a museum", "url": "http://127.0.0.1/page"}


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
    assert [row.reason for row in open_source(source, FAST).rows()] == ["server_opted_out"]
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
        (["noindex, max-image-preview:large"], True),
        (["max-image-preview:large, noindex"], True),
        (["max-image-preview:large"], False),
        (["otherbot: noindex, max-image-preview:large"], False),
        (["otherbot: nosnippet, max-snippet:3", "mmret: max-snippet:3, noai"], True),
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
    ("name", "text", "captions"),
    [
        ("a.tsv", "#sunset at sea\t{0}\n#dawn\tbroken/one\n# note\na boat\t{1}\n", ["#sunset at sea", None, "a boat"]),
        ("a.tsv", "a ball\thtp:/broken.jpg\na cat\t{0}\na boat\t{1}\n", [None, "a cat", "a boat"]),
        ("a.tsv", "a ball\t\na cat\t{0}\na boat\t{1}\n", [None, "a cat", "a boat"]),
        ("a.csv", "# url, caption\n{0},a cat\n# http://127.0.0.1:1/x,a cow\n{1},a boat\n", ["a cat", "a boat"]),
        ("a.csv", "Bild Adresse,Text\n{0},a cat\n{1},a boat\n", ["a cat", "a boat"]),
        ("a.csv", "photo.link,alt\n{0},a cat\n{1},a boat\n", ["a cat", "a boat"]),
    ],
)
def test_no_line_of_a_text_is_lost_as_a_comment_or_a_header(
    host: str, tmp_path: Path, name: str, text: str, captions: list[str | None]
) -> None:
    (tmp_path / name).write_text(text.format(f"{host}/good/1", f"{host}/good/2"))
    rows = list(open_source(f"urls:{tmp_path / name}", FAST).rows())
    assert [row.caption for row in rows] == captions
    assert [row.reason for row in rows] == [None if caption else "bad_address" for caption in captions]
    assert {json.loads(row.extra or "{}").get("caption") for row in rows} == {None}


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({"page_url": "http://e.org/wiki/A", "image_url": "http://e.org/A.jpg"}, "image_url"),
        ({"page": "http://e.org/wiki/A", "thing": "http://e.org/A.JPG?w=1"}, "thing"),
        ({"photo_url": "http://e.org/p/1", "photo.image_url": "http://e.org/i/1"}, "photo.image_url"),
        ({"source": "http://e.org/p/1", "URL": "http://e.org/i/1"}, "URL"),
        ({"url": "http://e.org/p/1", "Image URL": "http://e.org/i/1"}, "Image URL"),
        ({"one": "http://e.org/p/1", "other": "http://e.org/i/1"}, None),
    ],
)
def test_of_several_columns_of_addresses_that_of_the_pictures_is_taken(
    tmp_path: Path, columns: dict[str, str], chosen: str | None
) -> None:
    pq.write_table(pa.table({name: [value] for name, value in columns.items()}), tmp_path / "a.parquet")
    if chosen is None:
        with pytest.raises(UserError, match="several columns of addresses, one, other, .*: call that one image_url"):
            column_of_addresses(tmp_path / "a.parquet")
    else:
        assert column_of_addresses(tmp_path / "a.parquet") == chosen


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
