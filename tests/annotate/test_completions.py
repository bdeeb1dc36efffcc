"""Pins of what a server sends: a completion is read however it is written, packed, encoded or streamed, up to a bound; what is none
is told, and costs a bad answer and no traceback."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import httpx
import pytest

from mmret.annotate.backends.balance import Server
from mmret.annotate.backends.completion import NotACompletion, read_completion
from mmret.annotate.backends.http_words import plain_body, retry_after
from mmret.annotate.backends.openai_server import OpenAIAnnotator, TransientError
from mmret.errors import UserError
from mmret.settings import EngineSettings
from tests.annotate.server import RudeServer, Status, completion
from tests.annotate.test_openai_server import DESCRIPTION, _describe, _settings


def test_a_proxy_that_says_it_in_a_page_of_200_ok_is_understood() -> None:
    with pytest.raises(NotACompletion) as wrong:
        read_completion(b'{"error": {"code": 429, "message": "slow down"}}')
    assert wrong.value.status == 429


@pytest.mark.parametrize(
    "choice, text, finish",
    [
        ({"message": {"content": [{"type": "text", "text": "a "}, {"type": "output_text", "text": "b"}]}}, "a b", "stop"),
        ({"message": {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]}}, "a", "stop"),
        ({"message": {"content": "a", "reasoning_content": "hm", "reasoning": "hm"}, "finish_reason": None}, "a", "stop"),
        ({"message": {"content": None, "reasoning_content": "hm"}, "finish_reason": "length"}, "", "length"),
        ({"message": {"content": "a"}, "finish_reason": {"type": "eos_token", "id": 2}}, "a", "eos_token"),
        ({"message": {"content": "", "refusal": "I will not"}, "finish_reason": "stop"}, "I will not", "content_filter"),
        ({"message": {"content": None, "tool_calls": [{"function": {"arguments": '["a"]'}}]}}, '["a"]', "stop"),
        ({"text": "a", "finish_reason": ""}, "a", "stop"),
    ],
)
def test_a_completion_is_read_as_servers_write_it(choice: dict[str, Any], text: str, finish: str) -> None:
    for usage in (None, {}, {"prompt_tokens": None}, "none"):
        answer = read_completion(json.dumps({"choices": [choice], "usage": usage}).encode())
        assert (answer.text, answer.finish_reason, answer.tokens_in) == (text, finish, 0)
    told = read_completion(json.dumps({"choices": [choice], "usage": {"input_tokens": 3, "output_tokens": 2}}).encode())
    assert (told.tokens_in, told.tokens_out) == (3, 2)


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"[]", b"null", b'{"choices": []}', b'{"choices": [null]}', b'{"choices": [{"message": null}]}', b"[" * 9999]
    + [b'{"choices": [{"message": {"content": 5}}]}', b'{"choices": [{"message": {"content": "a"}, "finish_reason": "error"}]}'],
)
def test_what_is_no_completion_is_told(body: bytes) -> None:
    with pytest.raises(NotACompletion):
        read_completion(body)


_PIECES = [json.dumps({"choices": [{"delta": {"content": f"{word} "}}]}) for word in DESCRIPTION.split()]
_STREAMED = "".join(f"data: {piece}\n\n" for piece in (*_PIECES, '{"choices": [{"delta": {}, "finish_reason": "stop"}]}'))
_WHOLE = json.dumps(completion(DESCRIPTION))


@pytest.mark.parametrize(
    "body",
    [
        _STREAMED + "data: [DONE]\n\n",
        ": ping\n\n" + _STREAMED,
        "\ufeff" + _WHOLE,
        _WHOLE + "\n\n{}",
        json.dumps(_WHOLE),
        json.dumps({"code": 0, "data": completion(DESCRIPTION)}),
    ],
    ids=["stream", "stream with a ping", "mark", "trailing", "text in JSON", "wrapped"],
)
def test_a_completion_is_read_however_it_is_packed(body: str) -> None:
    assert read_completion(body.encode()).text.strip() == DESCRIPTION
    assert read_completion(body.encode()).finish_reason == "stop"


def test_a_stream_that_breaks_off_is_no_whole_answer() -> None:
    assert read_completion(_STREAMED.rpartition("data:")[0].encode()).finish_reason == "incomplete"
    with pytest.raises(NotACompletion, match="529"):
        read_completion(b'data: {"error": {"code": 529}}\n\n')
    with pytest.raises(NotACompletion, match="404"):
        read_completion(b'{"object": "error", "message": "no such model", "code": 404}')


@pytest.mark.parametrize(
    "act",
    [
        Status(201, _WHOLE),
        Status(200, gzip.compress(_WHOLE.encode()).decode("latin-1"), charset="latin-1"),
        Status(200, _WHOLE.replace("mug", "caf\xe9"), charset="latin-1", **{"Content-Type": "application/json; charset=latin-1"}),
    ],
    ids=["another status", "packed without a word", "another encoding"],
)
def test_a_completion_is_taken_however_it_is_sent(act: Status) -> None:
    with RudeServer(lambda body, number: act) as server:
        assert {row["status"] for row in _describe(_settings(server.url), 3)} == {"ok"}


def test_a_body_that_is_not_packed_as_it_says_is_a_bad_answer_and_no_traceback() -> None:
    act = Status(200, _WHOLE, **{"Content-Encoding": "gzip"})
    with RudeServer(lambda body, number: act) as server, pytest.raises(UserError, match="not packed as its head says"):
        _describe(_settings(server.url, tries=2, deadline_s=5.0), 12)


@pytest.mark.parametrize(
    "data, charset, read",
    [
        ("caf\xe9".encode("latin-1"), "latin-1", "caf\xe9"),
        ("caf\xe9".encode("utf-16-le"), "UTF-16-LE", "caf\xe9"),
        ("caf\xe9".encode(), "utf-8", "caf\xe9"),
        ("caf\xe9".encode(), "UTF8", "caf\xe9"),
        ("caf\xe9".encode(), None, "caf\xe9"),
        ("caf\xe9".encode(), "no-such-encoding", "caf\xe9"),
        (gzip.compress("caf\xe9".encode(), mtime=0), None, "caf\xe9"),
        (gzip.compress("caf\xe9".encode("latin-1"), mtime=0), "latin-1", "caf\xe9"),
        (gzip.compress(b"x" * 10_000, mtime=0), None, "x" * 1000),
        (b"\x1f\x8bno", None, "\x1f\x8bno"),
    ],
)
def test_a_body_is_read_in_its_encoding_unpacked_to_the_limit_and_else_left_as_it_is(
    data: bytes, charset: str | None, read: str
) -> None:
    assert plain_body(data, charset, 1000).decode("utf-8", "surrogateescape").encode("utf-8", "surrogateescape") == (
        data if read.startswith("\x1f") else read.encode()
    )


def test_what_a_wait_is_asked_for_is_seconds_and_never_less_than_none() -> None:
    assert [retry_after(value) for value in ("2.5", "0", "-3", "Wed, 21 Oct 2015", None)] == [2.5, 0.0, 0.0, None, None]


def test_a_completion_is_posted_to_the_servers_address_and_read_up_to_the_bound() -> None:
    got: list[tuple[str, str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        got.append((request.method, str(request.url), json.loads(request.content)))
        return httpx.Response(299, text="x" * 2000, headers={"Retry-After": "1"})

    async def exchange(bound: int) -> tuple[int, httpx.Headers, bytes]:
        engine = EngineSettings(model="m", max_answer_bytes=bound)
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            return await OpenAIAnnotator._exchange(client, Server("http://a/v1", 1), engine, {"n": 1})

    status, headers, data = asyncio.run(exchange(2000))
    assert (status, headers["retry-after"], data) == (299, "1", b"x" * 2000)
    assert got == [("POST", "http://a/v1/chat/completions", {"n": 1})]
    with pytest.raises(TransientError, match="too_large"):
        asyncio.run(exchange(1999))
