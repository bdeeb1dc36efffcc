"""Kinds of hostile requests, each a function of a random generator: bytes for a socket, and how they are sent."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from PIL import Image

from tests.hostile import HOSTILE
from tests.serve.harmful_sql import SQL

WORDS = [
    *HOSTILE,
    "",
    " ",
    "\0",
    "a\0b",
    "\ufeff",
    "\u202e",
    "\ud800",
    "𝕬" * 50,
    "é" * 500,
    "%s%n%x",
    "$(id)",
    "`id`",
    "; rm -rf /",
    "' OR '1'='1",
    "../" * 20 + "etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "a" * 5000,
    "null",
    "-1",
    "1e999",
    "NaN",
    "{}",
    "\r\nX: y\r\n",
]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    1.5,
    2**31,
    2**63,
    2**64,
    10**400,
    -(10**30),
    1e308,
    [],
    {},
    [[]],
    [None] * 50,
    {"a": {"b": 1}},
    {"$ne": 1},
    *WORDS,
]
FIELDS = ("text", "image", "image_id", "image_url", "k", "offset", "where", "explain", "recipe")
ADDRESSES = [
    "http://169.254.169.254/latest/meta-data/",
    "http://127.0.0.1:22/",
    "http://localhost/",
    "http://[::1]/",
    "file:///etc/passwd",
    "gopher://x/",
    "http://0x7f000001/",
    "http://2130706433/",
    "http://user:pw@example.org/",
    "//example.org",
    "http://",
    "http://[",
    "x",
]


@dataclass(frozen=True)
class Attack:
    """Bytes for one connection; ``may_be_silent``: a server may leave it without an answer until it closes."""

    data: bytes
    seconds: float = 40
    pieces: int = 1
    pause: float = 0.0
    half: bool = False
    may_be_silent: bool = False


def http(method: str, target: str | bytes, body: bytes = b"", *headers: str | bytes, length: bool = True) -> bytes:
    """A request as a well-behaved client writes it, but for what is given."""
    target = target.encode("utf-8", "surrogatepass") if isinstance(target, str) else target
    lines = [b"%s %s HTTP/1.1" % (method.encode(), target), b"Host: localhost", b"Connection: close"]
    lines += [header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header for header in headers]
    if length and (body or method == "POST"):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def post_json(found: Any, route: str = "/search") -> bytes:
    body = json.dumps(found, ensure_ascii=True, default=str).encode()
    return http("POST", route, body, "Content-Type: application/json")


def types(rng: random.Random) -> Attack:
    """JSON of wrong types, unknown fields, numbers out of range, texts that are code."""
    asked = {name: rng.choice(VALUES) for name in rng.sample(FIELDS, rng.randint(1, 4))}
    if rng.random() < 0.5:
        asked.setdefault("text", "a red circle")
    if rng.random() < 0.1:
        asked[rng.choice(WORDS)] = rng.choice(VALUES)
    if rng.random() < 0.2:
        return Attack(
            post_json({"queries": [rng.choice([asked, *VALUES]) for _ in range(rng.choice([1, 3, 70]))]}, "/search/batch")
        )
    if rng.random() < 0.1:
        found = {"found": rng.choice(["0" * 32, *VALUES]), "most": rng.choice([1, 3, 10**9, "x"])}
        return Attack(
            post_json({**found, **{name: value for name, value in asked.items() if name in ("text", "image_id")}}, "/why")
        )
    return Attack(post_json(rng.choice([asked, asked, asked, asked, rng.choice(VALUES)]), rng.choice(["/search", "/search/batch"])))


def broken_json(rng: random.Random) -> Attack:
    """What is no JSON, or JSON that is very deep, wide, repeated or cut."""
    deep = rng.choice([50, 5000, 200_000])
    body = rng.choice(
        [
            b"[" * deep,
            b'{"a":' * deep,
            b'{"queries":' + b"[" * deep + b"]" * deep + b"}",
            b'{"text": "' + b"a" * deep + b'"}',
            b'{"text": "a", ' * 3,
            b'{"text": "a", "text": "b"}',
            b'{"text": "\\ud800\\udc"}',
            b'{"k": 1e99999, "text": "a"}',
            b'{"k": ' + b"9" * deep + b"}",
            b'\xff\xfe{\0"\0',
            b'\xef\xbb\xbf{"text": "a"}',
            b'{"text": NaN}',
            b"\0" * 100,
            b'{"queries": [' + b'{"text":"a"},' * 60 + b'{"text":"b"}]}',
            b"{" + b'"a":1,' * deep + b'"b":1}',
            b'{"text": "\xc3\x28"}',
            rng.randbytes(300),
            b"",
        ]
    )
    if rng.random() < 0.3 and body:
        body = body[: rng.randrange(len(body))]
    return Attack(http("POST", rng.choice(["/search", "/search/batch"]), body, "Content-Type: application/json"))


def sql(rng: random.Random) -> Attack:
    """Filters that try to read or write elsewhere, to run for ever, or to name what they should not."""
    where = rng.choice(SQL)
    change = rng.random()
    if change < 0.2:
        where = f"({where}) {rng.choice(['AND', 'OR', 'UNION', '||', ';'])} ({rng.choice(SQL)})"
    elif change < 0.3 and where:
        at = rng.randrange(len(where))
        where = where[:at] + rng.choice(["'", '"', ";", "--", "/*", "\\", "\n", "(", ")", "\u00a0"]) + where[at:]
    elif change < 0.4:
        where = where.swapcase()
    asked = {"text": "a red circle", "where": where, "k": 3}
    if rng.random() < 0.2:
        return Attack(http("GET", "/search?text=a&where=" + quote(where.encode("utf-8", "replace"))))
    return Attack(post_json(asked))


def picture(rng: random.Random) -> bytes:
    """A file that is cut, damaged, enormous by its header, no picture, or one that unfolds."""
    kind = rng.choice(["cut", "flipped", "header", "bomb", "magic", "text", "empty", "tiff", "good"])
    if kind == "empty":
        return b""
    if kind == "text":
        return rng.choice(
            [b"<svg onload='x'/>", b"%!PS-Adobe\n(/etc/passwd) run", b"GIF89a;alert(1)", b"\x7fELF" + rng.randbytes(50), b"PK\3\4"]
        )
    if kind == "magic":
        heads = [
            b"\xff\xd8\xff\xe0",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            b"RIFF\xff\xff\xff\xffWEBP",
            b"II*\0",
            b"\0\0\0\x0cjP  \r\n",
            b"BM",
        ]
        return rng.choice(heads) + rng.randbytes(rng.randint(0, 3000))
    if kind == "tiff":  # a directory that points to itself
        return b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + struct.pack("<HHII", 256, 4, 1, 2**31) + struct.pack("<I", 8)
    if kind in ("header", "bomb"):
        width, height = rng.choice([(2**31 - 1, 2**31 - 1), (100_000, 100_000), (65_000, 1), (1, 10**8), (0, 5), (20_000, 20_000)])
        rows = zlib.compress(b"\0" * (1_000_000 if kind == "bomb" else 10), 9)
        return (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", rows)
            + chunk(b"IEND", b"")
        )
    side = rng.choice([1, 16, 64, 300])
    out = io.BytesIO()
    image = Image.frombytes("RGB", (side, side), rng.randbytes(3 * side * side))
    image.save(out, rng.choice(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]))
    data = bytearray(out.getvalue())
    if kind == "cut":
        return bytes(data[: rng.randrange(len(data))])
    if kind == "flipped":
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def pictures(rng: random.Random) -> Attack:
    """Bad pictures, in base64 and in forms."""
    data = picture(rng)
    if rng.random() < 0.5:
        text = base64.b64encode(data).decode()
        text = rng.choice([text, text, "data:image/png;base64," + text, "data:," + text, text[:-1], text + "!", "=" + text])
        return Attack(post_json({"image": text, "text": rng.choice(["", "in blue"]), "k": 2}))
    return Attack(form([("image", data, "x.png"), ("text", b"in blue", None)], rng))


def form(parts: list[tuple[str, bytes, str | None]], rng: random.Random, *more: str) -> bytes:
    edge = f"edge{rng.random()}".encode()
    body = b""
    for name, data, file in parts:
        told = f'; filename="{file}"' if file is not None else ""
        body += (
            b"--"
            + edge
            + f'\r\nContent-Disposition: form-data; name="{name}"{told}\r\n\r\n'.encode("utf-8", "replace")
            + data
            + b"\r\n"
        )
    return http(
        "POST", "/search/upload", body + b"--" + edge + b"--\r\n", b"Content-Type: multipart/form-data; boundary=" + edge, *more
    )


def forms(rng: random.Random) -> Attack:
    """Forms without an edge, with thousands of parts, names that are paths, character sets that are none."""
    kind = rng.randrange(7)
    if kind == 0:
        return Attack(
            form([(rng.choice(WORDS[:20]), b"x", rng.choice(["../../x.png", "/etc/cron.d/x", "a\0.png", "", None]))] * 3, rng)
        )
    if kind == 1:
        return Attack(form([(f"f{n}", b"x", None) for n in range(rng.choice([13, 2000]))], rng))
    if kind == 2:
        kinds = [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=" + "x" * 300,
            "multipart/mixed; boundary=a",
            "multipart/form-data; boundary=a; charset=rot13",
            "multipart/form-data; boundary=a; charset=utf-7",
            "multipart/form-data; boundary=é",
            "multipart/form-data; boundary=a; charset=base64",
            "multipart/form-data; boundary=a; charset=idna",
            "x",
            "",
        ]
        body = rng.choice(
            [
                b"",
                b"--a\r\n",
                b'--a\r\nContent-Disposition: form-data; name="text"\r\n\r\n\xff\xfe\r\n--a--\r\n',
                rng.randbytes(200),
            ]
        )
        return Attack(http("POST", "/search/upload", body, "Content-Type: " + rng.choice(kinds)))
    if kind == 3:
        head = b"--a\r\n" + rng.choice([b"X: " + b"y" * 100_000, b"X: y\r\n" * 5000, b"Content-Disposition: form-data", b"\0\0\0"])
        return Attack(
            http("POST", "/search/upload", head + b"\r\n\r\nx\r\n--a--\r\n", "Content-Type: multipart/form-data; boundary=a")
        )
    if kind == 4:
        whole = form([("text", b"a" * rng.choice([10, 100_000]), None), ("k", b"2", None)], rng)
        return Attack(whole[: rng.randrange(len(whole) // 2, len(whole))], half=True, may_be_silent=True)
    if kind == 5:
        return Attack(
            form([(name, str(rng.choice(VALUES)).encode("utf-8", "replace")[:3000], None) for name in rng.sample(FIELDS, 4)], rng)
        )
    return Attack(form([("image", picture(rng), "x"), ("image", picture(rng), "y")], rng))


def paths(rng: random.Random) -> Attack:
    """Targets that climb, repeat, are encoded twice, or are no targets."""
    climb = rng.choice(["../", "..%2f", "%2e%2e/", "%252e%252e%252f", "..\\", "..%5c", "....//", "%c0%ae%c0%ae/", "..;/", "%00/"])
    end = rng.choice(["etc/passwd", "lake.yaml", "lance/images.lance", "gallery", "app.py", "x"])
    begin = rng.choice(
        ["/", "/images/", "/images/" + "0" * 32 + "/", "/docs/", "/search/", "//", "/./", "/recipes/", "/static-offline-docs/"]
    )
    target = begin + climb * rng.randint(1, 8) + end
    target = rng.choice(
        [
            target,
            target,
            target,
            "http://evil.example" + target,
            "*",
            "/" + "a" * rng.choice([100, 9000]),
            "/%",
            "/%zz",
            "/images/%ff",
            "/?" + "a&" * 3000,
            "/images/" + "0" * 32 + "/picture?side=" + rng.choice(["0", "-1", "1e9", "99999999", "512&side=160"]),
            "/docs?x=<script>",
            "/openapi.json/..",
        ]
    )
    raw = target.encode() + (b"\xff\xfe" if rng.random() < 0.05 else b"")
    return Attack(
        http(rng.choice(["GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "PATCH", "OPTIONS", "CONNECT"]), raw),
        half=True,
        may_be_silent=True,
    )


def queries(rng: random.Random) -> Attack:
    """Query strings of everything."""
    names = [*FIELDS, "x", "text[]", "__proto__", ""]
    given = [
        f"{rng.choice(names)}={quote(str(rng.choice(VALUES)).encode('utf-8', 'replace')[:1500])}" for _ in range(rng.randint(1, 5))
    ]
    if rng.random() < 0.5:
        given.append("text=a")
    return Attack(http("GET", "/search?" + "&".join(given)))


def headers(rng: random.Random) -> Attack:
    """Heads that are too long, double, folded, smuggling, or not HTTP at all."""
    big = rng.choice([100, 20_000, 300_000])
    extra = rng.choice(
        [
            "X: " + "y" * big,
            "X" * big + ": y",
            "Cookie: " + "a=b; " * big,
            "Host: evil.example",
            "Host: localhost",
            "Content-Length: 5",
            "Content-Length: -5",
            "Content-Length: 99999999999999999999",
            "Content-Length: 0x10",
            "Content-Length: +5",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding : chunked",
            "X: a\0b",
            "X: a\r\n folded",
            "X : y",
            ": y",
            "X",
            "Expect: 100-continue",
            "Expect: 200-ok",
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13",
            "Upgrade: h2c\r\nHTTP2-Settings: x",
            "Authorization: Bearer " + "x" * 3000,
            "Authorization: \xff",
            "Origin: https://evil.example",
            "Origin: null",
            "X-Forwarded-For: 127.0.0.1",
            "X-Forwarded-Host: evil.example",
            "Range: bytes=0-99999999999",
            "Accept-Encoding: " + "gzip," * 500,
            "Content-Type: application/json; charset=utf-16",
            "Content-Encoding: gzip",
            "If-None-Match: *",
            "\r\n".join(f"X-{n}: y" for n in range(rng.choice([50, 5000]))),
            "Referer: " + "/" * 4000,
        ]
    )
    if rng.random() < 0.25:
        lines = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"get / http/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + rng.randbytes(200),
            rng.randbytes(500),
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n",
            b"\r\n" * 2000,
            b"G" * 100_000,
            b"GET " + b"/a" * 100_000,
            b"GET / HTTP/1.1\nHost: localhost\n\n",
            b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50,
        ]
        return Attack(rng.choice(lines), half=True, may_be_silent=True)
    method, target, body = rng.choice(
        [("GET", "/search?text=a", b""), ("POST", "/search", b'{"text": "a"}'), ("GET", "/health", b"")]
    )
    return Attack(
        http(method, target, body, extra, *(["Content-Type: application/json"] if body else [])), half=True, may_be_silent=True
    )


def lies(rng: random.Random) -> Attack:
    """Bodies that are not as long as they say, chunks that are none, a second request inside the first."""
    head = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    body = b'{"text": "a red circle", "k": 1}'
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    whole = b"%x\r\n%s\r\n0\r\n" % (len(body), body)
    data = rng.choice(
        [
            head + b"Content-Length: 10\r\n\r\n" + body,
            head + b"Content-Length: 5000\r\n\r\n" + body,
            head + b"Content-Length: 16777217\r\n\r\n" + body,
            chunked + whole + b"\r\n",
            chunked + b"ffffffffffffffff\r\n" + body,
            chunked + b"7fffffff\r\n" + body,
            chunked + b"-1\r\n" + body,
            chunked + b"zz\r\n" + body,
            chunked + b"5;" + b"x" * 50_000 + b"\r\n",
            chunked + b"20" + body,
            chunked + whole + b"X: y\r\n" * 3000 + b"\r\n",
            chunked + b"1\r\n{\r\n" * 200,
            chunked + b"0\r\n\r\n",
            head + b"Content-Length: 32\r\nTransfer-Encoding: chunked\r\n\r\n" + whole + b"\r\n",
            head + b"Content-Length: 32\r\nContent-Length: 31\r\n\r\n" + body,
            head + b"Content-Length: 0\r\n\r\n" + http("GET", "/metrics"),
            chunked + b"0\r\n\r\n" + http("DELETE", "/x"),
            head + b"Expect: 100-continue\r\nContent-Length: 32\r\n\r\n" + body,
            head + b"Content-Encoding: gzip\r\nContent-Length: 32\r\n\r\n" + body,
            chunked + (b"10000\r\n" + b"a" * 65536 + b"\r\n") * rng.choice([3, 300]),
        ]
    )
    return Attack(data, half=True, may_be_silent=True)


def addresses(rng: random.Random) -> Attack:
    """Pictures that the server is to fetch from where it should not."""
    return Attack(post_json({"image_url": rng.choice(ADDRESSES), "text": rng.choice(["", "a"])}))


def slow(rng: random.Random) -> Attack:
    """A request in many small pieces, often without its end."""
    whole = rng.choice([post_json({"text": "a red circle", "k": 1}), http("GET", "/search?text=a")])
    cut = rng.choice([len(whole), len(whole) - 1, len(whole) // 2, 10])
    return Attack(whole[:cut], pieces=rng.choice([3, 10]), pause=0.01, half=True, may_be_silent=True)


def large(rng: random.Random) -> Attack:
    """Bodies at and over the limit, and pictures of millions of pixels in few bytes."""
    if rng.random() < 0.5:
        size = rng.choice([2**20, 2**24 - 100, 2**24 + 1])
        return Attack(
            http("POST", "/search", b'{"text": "' + b"a" * size + b'"}', "Content-Type: application/json"), may_be_silent=False
        )
    out = io.BytesIO()
    side = rng.choice([1000, 4900, 6000, 20_000])
    Image.new(rng.choice(["1", "L"]), (side, side)).save(out, "PNG", compress_level=1)
    return Attack(form([("image", out.getvalue(), "x.png"), ("k", b"1", None)], rng))


KINDS: dict[str, Callable[[random.Random], Attack]] = {
    kind.__name__: kind for kind in (types, broken_json, sql, pictures, forms, paths, queries, headers, lies, addresses, slow)
}
RARE = {"large": large}
"""Kinds that cost seconds each."""
