"""Pins of servers that refuse: what concerns every request stops the run early, in the server's own words and with what to do; what
concerns one is that row's reason; what a server names as unsupported is left out. Nothing that was answered is paid twice."""

from __future__ import annotations

import asyncio
import json
import socketserver
import threading
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from mmret.annotate.answers import Stats
from mmret.annotate.backends.address import address_hint
from mmret.annotate.backends.balance import PROBES, Balancer
from mmret.annotate.backends.dialect import Dialect
from mmret.annotate.backends.server_words import Trouble, trouble_of, words_of
from mmret.annotate.describe import describe
from mmret.annotate.instruct import instruct
from mmret.annotate.protocol import Request
from mmret.annotate.store import AnswerStore
from mmret.errors import UserError
from tests.annotate.annotation_run import SHARD, AnnotationRun
from tests.annotate.server import RudeServer, Slow, Status, completion
from tests.annotate.test_openai_server import DESCRIPTION, _annotator, _answer, _describe, _nobody, _pairs, _settings


def _error(message: str, **more: str) -> str:
    return json.dumps({"error": {"message": message, **more}})


@pytest.mark.parametrize(
    "act, words, todo",
    [
        (Status(401, _error("Incorrect API key provided")), "HTTP 401 Incorrect API key", "api_key_variable"),
        (Status(403, "Forbidden"), "HTTP 403 Forbidden", "a key for this model"),
        (Status(404, '{"detail": "Not Found"}'), "HTTP 404 Not Found", "they mostly end in /v1"),
        (Status(404, _error("The model `m` does not exist.")), "The model `m` does not exist.", "a name that the server knows"),
        (Status(400, _error("invalid model: m")), "HTTP 400 invalid model: m", "a name that the server knows"),
        (Status(402, "no credits"), "HTTP 402 no credits", "pay"),
        (Status(429, _error("You exceeded your current quota", code="insufficient_quota")), "HTTP 429 You exceeded", "pay"),
        (Status(307, "", Location="https://elsewhere/v1"), "redirects to https://elsewhere/v1", "set annotate.vision.urls to"),
        (Status(200, "<html><head><title>Log in</title></head></html>"), "(a web page) Log in", "a proxy in front of one"),
        (Status(200, ""), "(an empty response)", "mend annotate.vision.urls"),
        (Status(502, "<html><title>502 Bad Gateway</title></html>"), "(a web page) 502 Bad Gateway", "the server's own log"),
        (Status(422, '{"detail": [{"loc": ["body", "messages"], "msg": "bad"}]}'), "body.messages: bad", "mend it"),
        (Status(413, "Payload Too Large"), "Payload Too Large", "lower annotate.vision.image_size"),
        (Status(400, _error("maximum context length is 512 tokens")), "maximum context length", "a longer context"),
        (Status(500, _error("image input is not supported")), "image input is not supported", "a model that sees pictures"),
        (Status(400, "\x1b[31mno\x07\u202e [red]"), "“[31mno [red]”", "What to do"),
    ],
    ids=str,
)
def test_what_every_request_meets_stops_the_run_in_the_servers_words(act: Status, words: str, todo: str, tmp_path: Path) -> None:
    with RudeServer(lambda body, number: act) as server:
        settings = _settings(server.url, tries=2, timeout_s=1.5, deadline_s=3.0)
        with pytest.raises(UserError, match="run again") as stopped:
            _describe(settings, 300, AnswerStore(tmp_path))
        assert server.got < 100
    message = str(stopped.value)
    assert words in message and todo in message and message.isprintable() and "unreachable" not in message


def test_few_requests_that_all_fail_stop_the_run_as_well() -> None:
    with RudeServer(lambda body, number: Status(400, "no")) as server, pytest.raises(UserError, match="1 × http_400"):
        _describe(_settings(server.url), 1)


def test_long_words_are_cut() -> None:
    assert len(words_of("x" * 100_000)) <= 240


def test_where_nobody_is_the_address_and_the_cause_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmret.annotate.backends.balance.CONNECT_PATIENCE", 1.0)
    with pytest.raises(UserError, match=r"unreachable; what happened: “.*connect.*What to do: start the server, or mend"):
        _describe(_settings(_nobody(), deadline_s=60.0), 40)


def test_a_server_without_tls_asked_for_tls_is_told_from_nobody() -> None:
    class Plain(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Plain) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        with pytest.raises(UserError, match="tls: .*http:// where the server has no certificate"):
            _describe(_settings(f"https://127.0.0.1:{server.server_address[1]}/v1"), 5)
        server.shutdown()


@pytest.mark.parametrize(
    "url, words",
    [
        ("localhost:8000/v1", "write it as http://HOST:PORT/v1"),
        ("http:///v1", "write it as http://HOST:PORT/v1"),
        ("http://h:99999/v1", "write it as http://HOST:PORT/v1"),
        ("http://h/v1/chat/completions", "leave /chat/completions out of"),
    ],
)
def test_an_address_that_can_be_none_is_refused_before_anything_is_sent(url: str, words: str) -> None:
    with pytest.raises(UserError, match=f"annotate.vision.urls: .*{words}"):
        _describe(_settings(url), 5)


def test_a_key_that_no_header_can_hold_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-“quoted”")
    with pytest.raises(UserError, match="OPENAI_API_KEY has characters that no key has"):
        _describe(_settings("http://127.0.0.1:1/v1"), 5)


def test_a_request_that_is_too_long_or_filtered_is_that_rows_reason() -> None:
    def behave(body: dict[str, Any], number: int) -> Any:
        if body["seed"] % 5 == 0:
            return Status(400, _error("This model's maximum context length is 512 tokens"))
        if body["seed"] % 5 == 1:
            return Status(400, _error("The prompt triggers our content management policy"))
        return _answer(body)

    with RudeServer(behave) as server:
        stats, settings = Stats(), _settings(server.url, attempts=1)
        rows = describe(_pairs(60), {}, _annotator(settings), settings, None, stats).to_pylist()
        assert server.got == 60
    assert {r["reason"] for r in rows} == {None, "prompt_too_long", "refusal"}
    assert stats.words["prompt_too_long"] == "This model's maximum context length is 512 tokens"


def test_answers_that_cannot_be_used_stop_the_run_before_all_are_paid(tmp_path: Path) -> None:
    with RudeServer(lambda body, number: completion("I think that", "length")) as server:
        for sent in (range(24, 150), range(1)):  # what was paid is known the next time
            before = server.got
            with pytest.raises(UserError, match=r"none of the first \d+ answers .* “I think that”. What to do: raise .*max_tokens"):
                _describe(_settings(server.url), 595, AnswerStore(tmp_path))
            assert server.got - before in sent


def test_a_model_that_refuses_one_picture_is_not_stopped() -> None:
    pairs = _pairs(60).to_pylist()
    first = pairs[0]["query_id"]
    table = _pairs(60).set_column(1, "query_id", [[first if i < 30 else p["query_id"] for i, p in enumerate(pairs)]])
    asked: list[int] = []

    def behave(body: dict[str, Any], number: int) -> str:
        asked.append(number)
        return "I'm sorry, but I cannot help with that." if number < 30 else _answer(body)

    with RudeServer(behave) as server:
        settings = _settings(server.url, concurrency=1, attempts=1)
        rows = describe(table, {}, _annotator(settings), settings, None).to_pylist()
    assert sum(r["reason"] == "refusal" for r in rows) == 30 and sum(r["status"] == "ok" for r in rows) == 30


def test_a_server_that_refuses_from_some_moment_on_stops_the_run_and_no_row_is_kept_as_refused(tmp_path: Path) -> None:
    with RudeServer(lambda body, number: _answer(body) if number < 40 else Status(400, "reconfigured")) as server:
        with pytest.raises(UserError, match="none of the last 60 requests: 60 × http_400.*reconfigured"):
            _describe(_settings(server.url), 400, AnswerStore(tmp_path))
    with RudeServer(_answer) as server:
        rows = _describe(_settings(server.url), 400, AnswerStore(tmp_path))
        assert server.got == 360
    assert {r["status"] for r in rows} == {"ok"}


def test_a_quota_used_up_in_the_middle_stops_the_run_and_the_rest_is_asked_later(tmp_path: Path) -> None:
    with RudeServer(lambda body, number: _answer(body) if number < 50 else Status(429, "insufficient_quota")) as server:
        with pytest.raises(UserError, match="HTTP 429 insufficient_quota"):
            _describe(_settings(server.url), 200, AnswerStore(tmp_path))
    assert AnswerStore(tmp_path).count("describe") == 50
    with RudeServer(_answer) as server:
        assert {r["status"] for r in _describe(_settings(server.url), 200, AnswerStore(tmp_path))} == {"ok"}
        assert server.got == 150


def test_a_stopped_stage_leaves_no_partition_and_the_next_run_finishes_it(
    annotation: AnnotationRun, reference: AnnotationRun
) -> None:
    reference.run()
    before = annotation.lake.facts("descriptions", SHARD)
    with pytest.raises(dg.Failure, match="in the server's own words: “no”"):
        annotation.run(lambda body, number: Status(400, "no"))
    assert annotation.lake.facts("descriptions", SHARD) == before
    assert annotation.run() == (120, 120) and annotation.tables() == reference.tables()


def test_one_server_that_refuses_everything_leaves_the_work_to_the_other() -> None:
    with RudeServer(_answer) as good, RudeServer(lambda body, number: Status(500, "no image input")) as bad:
        rows = _describe(_settings(good.url, bad.url, deadline_s=30.0), 200)
        assert bad.got < 30 and good.got >= 200
    assert {r["status"] for r in rows} == {"ok"}


def test_a_server_is_asked_a_few_things_at_once_until_it_has_answered_and_then_everything(tmp_path: Path) -> None:
    in_flight: list[int] = []
    with RudeServer(lambda body, number: in_flight.append(server.got - server.answered) or _answer(body), delay=0.2) as server:
        _describe(_settings(server.url, concurrency=32), 100)
    assert max(in_flight[:PROBES]) <= PROBES < 30 <= max(in_flight)


def test_no_place_is_given_to_a_server_that_has_failed() -> None:
    """All places of a pool for the one that fails at once would starve those that work."""
    balancer = Balancer(("http://a", "http://b"), 4, 10.0, frozenset({"http://a", "http://b"}))
    failed, works = balancer.servers
    balancer.record_failure(failed, Trouble("connection", "", "moment"))
    assert not balancer._has_slot(failed, failed.paused_until - 0.01) and balancer._has_slot(works, failed.paused_until - 0.01)
    assert balancer._has_slot(failed, failed.paused_until)
    failed.in_flight = 1
    assert not balancer._has_slot(failed, failed.paused_until)  # one try at a time until it answers
    balancer.record_success(failed)
    assert balancer._has_slot(failed, 0.0)


@pytest.mark.parametrize(
    "refusal, refused, learnt",
    [
        ("this model takes no max_tokens: send max_completion_tokens", "max_tokens", "max_completion_tokens instead of max_tokens"),
        (
            "Unsupported value: 'temperature' does not support 0.7. Only the default (1) value is supported.",
            "temperature",
            "no temp",
        ),
        ("body.seed: Extra inputs are not permitted", "seed", "no seed"),
        ("`temperature` and `top_p` cannot both be specified for this model", "top_p", "no top_p"),
        ("System role not supported", "system", "the system message as part of the user's"),
    ],
)
def test_what_a_server_refuses_by_name_is_left_out_from_then_on_and_said_once(refusal: str, refused: str, learnt: str) -> None:
    def fussy(body: dict[str, Any], number: int) -> Any:
        has = body["messages"][0]["role"] == "system" if refused == "system" else refused in body
        return Status(400, _error(refusal)) if has else completion(DESCRIPTION)

    with RudeServer(fussy) as server:
        settings = _settings(server.url, tries=1)
        annotator = _annotator(settings)
        rows = describe(_pairs(60), {}, annotator, settings, None).to_pylist()
        assert server.got <= 60 + PROBES
    assert {r["status"] for r in rows} == {"ok"}
    assert len(annotator.remarks) == 1 and learnt in annotator.remarks[0] and refusal[:40] in annotator.remarks[0]


def test_a_limit_that_is_too_high_is_no_parameter_that_is_refused() -> None:
    body = {"max_tokens": 512, "temperature": 2.0, "messages": [{"role": "user"}]}
    for words in ("max_tokens is too large: 512", "temperature must be between 0 and 1, not supported", "bad request"):
        assert Dialect().learn(400, words, body) == ""
    assert trouble_of(400, b"'max_tokens' is too large: this model's maximum context length is 99").code == "prompt_too_long"


def test_the_missing_v1_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def models(client: Any, url: str) -> list[str] | None:
        return ["other"] if url.endswith("/v1") else None

    monkeypatch.setattr("mmret.annotate.backends.address._models", models)
    with RudeServer(lambda body, number: Status(404, "Not Found")) as server:
        with pytest.raises(UserError, match="set the address to .*/v1: there the server answers"):
            _describe(_settings(server.url.removesuffix("/v1")), 5)
        with pytest.raises(UserError, match=r"set the model to one that .* serves: other"):
            _describe(_settings(server.url), 5)


@pytest.mark.parametrize("habit", ["eos_token", "thoughts", "parts", "max_tokens"])
def test_a_makers_habit_costs_no_row(habit: str, tmp_path: Path) -> None:
    def behave(body: dict[str, Any], number: int) -> Any:
        if habit == "max_tokens" and "max_tokens" in body:
            return Status(400, _error("this model takes no max_tokens: send max_completion_tokens", param="max_tokens"))
        text: Any = _answer(body)
        text = {"thoughts": "I compare [both].\n</think>\n\n" + text, "parts": [{"type": "text", "text": text}]}.get(habit, text)
        return {**completion(text, "eos_token" if habit == "eos_token" else "stop"), "usage": None}

    with RudeServer(behave) as server:
        settings = _settings(server.url)
        annotator, store = _annotator(settings), AnswerStore(tmp_path)
        described = describe(_pairs(40), {}, annotator, settings, store)
        rows = instruct(described, _pairs(40), {}, annotator, settings, store).to_pylist()
        assert server.got <= 80 + PROBES
    assert set(described["text"].to_pylist()) == {DESCRIPTION} and {r["status"] for r in rows} == {"ok"}


@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_what_was_sent_before_a_run_is_stopped_is_stored_and_nothing_more_is_sent(delay: float, tmp_path: Path) -> None:
    with RudeServer(lambda body, number: "N/A", delay=delay) as server:
        store = AnswerStore(tmp_path)
        with pytest.raises(UserError, match=r"none of the first \d+ answers of .* can be used"):
            # a second would run out at times on a busy machine, and an answer that comes too late for its try is not stored
            _describe(_settings(server.url, concurrency=64, timeout_s=30.0, deadline_s=60.0), 400, store)
        assert server.got == server.answered == store.count("describe") < 250


def test_an_answer_under_way_when_the_server_begins_to_refuse_is_stored(tmp_path: Path) -> None:
    def behaviour(body: dict[str, Any], number: int) -> Any:
        if number == 0:
            return Slow(0.4, DESCRIPTION)
        return Status(401, _error("the key was revoked"))

    with RudeServer(behaviour) as server:
        store = AnswerStore(tmp_path)
        with pytest.raises(UserError, match="the key was revoked"):
            _describe(_settings(server.url), 20, store)
        assert store.count("describe") == 1


def test_a_server_that_loads_its_model_is_waited_for_whatever_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmret.annotate.backends.openai_server._STARTING_PAUSE_S", 0.05)

    def behaviour(body: dict[str, Any], number: int) -> Any:
        return Status(500, _error("the model is loading, please wait")) if number < 12 else _answer(body)

    with RudeServer(behaviour) as server:
        assert {row["status"] for row in _describe(_settings(server.url, tries=2, deadline_s=60.0), 4)} == {"ok"}


@pytest.mark.parametrize(
    "words, sent",
    [
        ("`temperature` may only be set to 1 when thinking is enabled.", "no temperature"),
        ("Conversation roles must alternate user/assistant/user/assistant/...", "the system message as part of the user's"),
        ("messages.0.role: Input should be 'user' or 'assistant'", "the system message as part of the user's"),
    ],
)
def test_other_words_for_what_a_server_does_not_take_are_understood(words: str, sent: str) -> None:
    body = {"temperature": 0.7, "max_tokens": 9, "messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}
    assert Dialect().learn(400, words, body) == sent


def _hint(url: str, code: str, lists: dict[str, Any]) -> tuple[str, list[tuple[str, Any]]]:
    """What is advised about ``url`` where servers list models as ``lists`` says (JSON by path), and what was asked for it."""
    asked: list[tuple[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.path, request.extensions["timeout"]))
        return httpx.Response(200, json=lists[request.url.path]) if request.url.path in lists else httpx.Response(404)

    async def ask() -> str:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), timeout=300) as client:
            return await address_hint(client, url, "mine", code)

    return asyncio.run(ask()), asked


def test_what_an_address_should_be_is_asked_of_the_server_in_seconds_whatever_a_request_may_take() -> None:
    served = {"data": [{"id": f"m{n}"} for n in range(20)]}
    hint, asked = _hint("http://a", "http_404", {"/v1/models": served})
    assert hint == "set the address to http://a/v1: there the server answers"
    assert [path for path, _ in asked] == ["/models", "/v1/models"]
    assert all(set(bounds.values()) == {5.0} for _, bounds in asked)
    for code in ("http_404", "http_405", "http_400"):
        hint, _ = _hint("http://a/v1", code, {"/v1/models": served})
        assert hint == "set the model to one that http://a/v1 serves: m0, m1, m2, m3, m4, m5, m6, m7"
    assert _hint("http://a/v1", "http_401", {"/v1/models": served}) == ("", [])


@pytest.mark.parametrize("listed", [{"data": [{"id": "mine"}]}, {"data": []}, {"data": None}, {"models": []}, ["mine"], None])
def test_nothing_is_advised_where_a_list_of_models_tells_nothing(listed: Any) -> None:
    assert _hint("http://a", "http_404", {} if listed is None else {"/models": listed})[0] == ""


def test_no_request_is_answered_with_what_every_request_meets() -> None:
    answered = []
    with RudeServer(lambda body, number: Status(401, _error("bad key"))) as server:
        annotator = _annotator(_settings(server.url))
        asked = [Request("describe", f"{i}", f"{i:032x}", f"{i + 1:032x}") for i in range(40)]
        with pytest.raises(UserError, match="HTTP 401 bad key"):
            answered.extend(annotator.answers(asked))
    assert answered == []
