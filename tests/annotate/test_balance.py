"""Invariants of the choice among servers, on a clock of its own: who is asked next, who is left alone and for how long, and when
waiting ends."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from mmret.annotate.backends import balance
from mmret.annotate.backends.balance import (
    CONNECT_PATIENCE,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MAX_ALIKE,
    MAX_BAD_ANSWERS,
    PROBES,
    Balancer,
    Server,
    Unreachable,
    said,
)
from mmret.annotate.backends.server_words import Trouble
from mmret.annotate.retry import UNREACHABLE

GONE = Trouble(UNREACHABLE, "connection refused", "moment")
BAD = Trouble("http_500", "it broke", "moment")
BUSY = Trouble("http_503", "busy", "moment")


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(balance, "time", made)
    return made


def known(*names: str, slots: int = 4, patience: float = 100.0) -> Balancer:
    """Servers that have answered before."""
    urls = tuple(f"http://{name}" for name in names)
    return Balancer(urls, slots, patience, frozenset(urls))


def taken(balancer: Balancer, tries: int) -> list[str]:
    """Who gets the next tries, none of which ends."""

    async def take() -> list[str]:
        return [(await asyncio.wait_for(balancer._take(), 1)).url for _ in range(tries)]

    return asyncio.run(take())


def places(balancer: Balancer, server: Server, now: float) -> int:
    """How many tries at a time a server is given."""
    before, server.in_flight = server.in_flight, 0
    while balancer._has_slot(server, now):
        server.in_flight += 1
    found, server.in_flight = server.in_flight, before
    return found


def test_the_next_try_goes_to_the_server_with_the_fewest(clock: Clock) -> None:
    balancer = known("a", "b", "c")
    assert Counter(taken(balancer, 6)) == {"http://a": 2, "http://b": 2, "http://c": 2}
    balancer.servers[1].in_flight = 0
    assert taken(balancer, 2) == ["http://b"] * 2 and balancer.in_flight == 6


def test_a_server_is_one_however_often_and_with_whatever_slash_it_is_named() -> None:
    balancer = Balancer(("http://a/v1", "http://a/v1/", "http://b/v1"), 8, 10.0, frozenset({"http://a/v1"}))
    assert [(server.url, server.answered) for server in balancer.servers] == [("http://a/v1", True), ("http://b/v1", False)]
    assert balancer.capacity == 16 and balancer.any_known and not balancer.any_answer and not balancer.any_contact


def test_a_new_server_is_not_paused_and_gets_a_few_tries_until_it_answers() -> None:
    balancer = Balancer(("http://a",), 3 * PROBES, 10.0)
    (server,) = balancer.servers
    assert places(balancer, server, 0.0) == PROBES and not balancer.any_known
    balancer.record_success(server)
    assert places(balancer, server, 0.0) == 3 * PROBES and balancer.any_known and balancer.any_answer and balancer.any_contact


def test_pauses_double_with_each_failure_up_to_the_longest_and_an_answer_ends_them(clock: Clock) -> None:
    balancer = known("a")
    (server,) = balancer.servers
    pauses = []
    for _ in range(10):
        balancer.record_failure(server, GONE)
        pauses.append(server.paused_until - clock.now)
        balancer.record_failure(server, GONE)  # under way when the first failed
        assert server.paused_until - clock.now == pauses[-1]
        clock.now = server.paused_until
    assert pauses == [min(LONGEST_PAUSE, FIRST_PAUSE * 2**n) for n in range(10)]
    assert places(balancer, server, clock.now) == 1
    balancer.record_success(server)
    assert places(balancer, server, clock.now) == 4 and server.trouble is None
    balancer.record_failure(server, GONE)
    assert server.paused_until == clock.now + FIRST_PAUSE


def test_bad_answers_pause_a_server_only_in_a_row(clock: Clock) -> None:
    balancer = known("a")
    (server,) = balancer.servers
    for _ in range(3):
        for _ in range(MAX_BAD_ANSWERS - 1):
            balancer.record_bad_answer(server, BAD)
        assert server.paused_until <= clock.now
        balancer.record_success(server)
    for _ in range(MAX_BAD_ANSWERS):
        balancer.record_bad_answer(server, BAD)
    assert server.paused_until == clock.now + FIRST_PAUSE and not server.refusal


@pytest.mark.parametrize(
    "answered, troubles, refuses",
    [
        (False, [BAD] * MAX_ALIKE, True),
        (False, [BAD] * (MAX_ALIKE - 1), False),
        (True, [BAD] * MAX_ALIKE, False),  # an answer shows that not every request is refused
        (False, [BUSY] * MAX_ALIKE, False),
        (False, [Trouble("http_500", "the model is loading", "moment")] * MAX_ALIKE, False),
        (False, [BAD, Trouble("http_500", "something else", "moment")] * MAX_ALIKE, False),
        (False, [BAD, Trouble("http_502", "it broke", "moment")] * MAX_ALIKE, False),
    ],
)
def test_only_a_server_that_answered_nothing_and_says_the_same_every_time_is_asked_no_more(
    answered: bool, troubles: list[Trouble], refuses: bool, clock: Clock
) -> None:
    balancer = known("a") if answered else Balancer(("http://a",), 4, 100.0)
    for trouble in troubles:
        balancer.record_bad_answer(balancer.servers[0], trouble)
    assert balancer.all_refuse == refuses
    assert places(balancer, balancer.servers[0], clock.now + 1e6) == (0 if refuses else 1)
    if refuses:
        assert balancer.servers[0].refusal == "HTTP 500 it broke"


def test_a_server_that_asks_to_be_left_alone_gets_half_as_many_tries_once_a_pause_and_more_with_each_answer(clock: Clock) -> None:
    balancer = known("a", slots=8)
    (server,) = balancer.servers
    for _ in range(5):  # all were under way when it began to ask
        balancer.pause(server, 3.0, BUSY)
    assert server.limit == 4 and server.paused_until == clock.now + 3.0 and server.trouble == BUSY
    balancer.pause(server, 1.0, BUSY)
    assert server.paused_until == clock.now + 3.0  # the longest counts
    clock.now += 3.0
    assert places(balancer, server, clock.now) == 4
    balancer.pause(server, 1e9, BUSY)
    assert server.limit == 2 and server.paused_until == clock.now + LONGEST_PAUSE
    for _ in range(4):
        clock.now = server.paused_until
        balancer.pause(server, 1.0, BUSY)
    assert server.limit == 1 and server.failures == 0
    limits = []
    for _ in range(60):
        balancer.record_success(server)
        limits.append(server.limit)
    assert limits[:3] == [2.0, 2.5, 2.9] and limits[-1] == 8 and limits == sorted(limits)


def test_waiting_ends_when_nobody_has_answered_for_the_patience_and_sooner_where_nobody_was_there(clock: Clock) -> None:
    def gives_up_after(balancer: Balancer) -> float:
        began, last = clock.now, balancer._last_success
        for waited in (CONNECT_PATIENCE - 1, CONNECT_PATIENCE, 99.0, 100.0):
            clock.now = last + waited
            for server in balancer.servers:
                server.paused_until, server.in_flight = 0.0, 0
            try:
                taken(balancer, 1)
            except Unreachable:
                clock.now = began
                return waited
        return float("inf")

    balancer = Balancer(("http://a", "http://b"), 4, 100.0)
    assert gives_up_after(balancer) == CONNECT_PATIENCE
    balancer.record_failure(balancer.servers[0], GONE)
    assert not balancer.any_contact and gives_up_after(balancer) == CONNECT_PATIENCE
    balancer.record_bad_answer(balancer.servers[1], BAD)
    balancer.record_failure(balancer.servers[0], GONE)
    assert balancer.any_contact and gives_up_after(balancer) == 100.0  # whoever was there once, was there
    clock.now += 50
    balancer.record_contact()
    assert balancer._last_success == clock.now
    clock.now += 50
    balancer.record_success(balancer.servers[0])
    assert balancer._last_success == clock.now and gives_up_after(balancer) == 100.0
    hasty = Balancer(("http://a",), 4, 5.0)
    clock.now += 5.0
    with pytest.raises(Unreachable):
        taken(hasty, 1)


def test_nothing_is_waited_for_where_every_server_refuses(clock: Clock) -> None:
    balancer = known("a", "b")
    balancer.record_refusal(balancer.servers[0], Trouble("http_401", "bad key", "server"))
    assert not balancer.all_refuse and taken(balancer, 2) == ["http://b"] * 2
    balancer.record_success(balancer.servers[0])  # asked before it began to refuse: its words are kept
    assert balancer.servers[0].refusal == "HTTP 401 bad key" and balancer.servers[0].trouble.words == "bad key"
    balancer.record_refusal(balancer.servers[1], Trouble("tls", "", "server"))
    assert balancer.all_refuse and balancer.servers[1].refusal == "tls"
    with pytest.raises(Unreachable):
        taken(balancer, 1)


def test_the_trouble_told_is_that_of_a_server_that_was_there() -> None:
    balancer = known("a", "b", "c")
    assert balancer.trouble is None
    balancer.record_failure(balancer.servers[0], GONE)
    assert balancer.trouble == GONE
    balancer.record_bad_answer(balancer.servers[1], BAD)
    balancer.record_bad_answer(balancer.servers[2], BUSY)
    assert balancer.trouble == BAD


def test_a_place_is_given_back_whatever_became_of_the_try_and_wakes_who_waits() -> None:
    async def run() -> tuple[int, str]:
        balancer = known("a", slots=1)
        try:
            async with balancer.slot():
                waiting = asyncio.create_task(asyncio.wait_for(balancer._take(), 5))
                await asyncio.sleep(0.01)
                assert balancer.in_flight == 1 and not waiting.done()
                raise TimeoutError
        except TimeoutError:
            pass
        return balancer.in_flight, (await asyncio.wait_for(waiting, 0.5)).url

    assert asyncio.run(run()) == (0, "http://a")


def test_a_closed_balancer_gives_no_place() -> None:
    balancer = known("a")
    balancer.close()
    assert places(balancer, balancer.servers[0], 0.0) == 0


@pytest.mark.parametrize(
    "trouble, words",
    [(BAD, "HTTP 500 it broke"), (Trouble("http_502", "", "moment"), "HTTP 502"), (GONE, "unreachable: connection refused")],
)
def test_a_trouble_is_said_with_the_servers_words(trouble: Trouble, words: str) -> None:
    assert said(trouble) == words


def test_a_server_that_lets_many_time_out_with_no_answer_between_is_given_fewer_at_a_time_and_one_slow_request_changes_nothing(
    clock: Clock,
) -> None:
    """As llama.cpp with one slot: what waits there longer than a try may take is broken off, and was for nothing."""
    balancer = known("a", slots=32)
    server, late = balancer.servers[0], Trouble("timeout", "no answer in 60 s", "moment")
    for _ in range(20):
        balancer.record_failure(server, late)
        balancer.record_success(server)
    assert server.limit == 32
    for _ in range(31):  # the rest of 32, of which one was answered
        balancer.record_failure(server, late)
    assert server.limit == 1
    for _ in range(31):
        balancer.record_failure(server, Trouble("connection", "broken off", "moment"))
    balancer.record_success(server)
    assert server.limit == 2, "it gets more as it answers"
