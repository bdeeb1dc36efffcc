"""The pages without a browser: keys and departures at any moment raise nothing, and whoever waits reads what for."""

import asyncio
import logging
import shutil
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("nicegui", reason="the page needs the extra 'gallery'")

from nicegui.testing.user_simulation import user_simulation

from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.search.search import Query, Searcher
from mmret.web import browse, browse_page
from mmret.web.app import add_pages
from mmret.web.search_progress import SearchProgress
from mmret.web.site import Site, open_site

SECONDS = 60


@pytest.fixture(scope="module")
def site(small_lake) -> Site:
    lake = Lake(small_lake[0])
    return open_site(lake, resolve(lake)[0], "tester")


def visit(site: Site, act: Callable[[Any], Awaitable[None]], caplog: pytest.LogCaptureFixture) -> None:
    """Run ``act`` with a simulated visitor of the pages; whatever a page's handlers raised is logged, and an error here."""

    async def run() -> None:
        async with user_simulation() as user:
            add_pages(site)
            await act(user)

    # NiceGUI forgets the modules of pages and their packages, `mmret` itself too: what is imported later would be another one
    own = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "mmret"}
    try:
        with caplog.at_level(logging.ERROR):
            asyncio.run(run())
    finally:
        sys.modules.update(own)
    # on a busy machine NiceGUI logs that it gave up on cancelling the tasks of a visitor at the end: no fault of a page
    faults = [r.getMessage() for r in caplog.records if not r.getMessage().startswith("Could not cancel")]
    assert not faults, faults


async def until(holds: Callable[[], Any]) -> None:
    for _ in range(SECONDS * 20):
        if holds():
            return
        await asyncio.sleep(0.05)
    pytest.fail("it did not happen in time")


def labels(client: Any) -> list[str]:
    from nicegui import ui

    return [e.text for e in client.elements.values() if isinstance(e, ui.label)]


def press(client: Any, key: str) -> None:
    """``key`` as the browser sends it."""
    from nicegui import ui

    (keyboard,) = (e for e in client.elements.values() if isinstance(e, ui.keyboard))
    modifiers = dict.fromkeys(("altKey", "ctrlKey", "shiftKey", "metaKey"), False)
    (listener,) = keyboard._event_listeners.values()
    event = {"action": "keydown", "repeat": False, "key": key, "code": key, "location": 0, **modifiers}
    keyboard._handle_event({"listener_id": listener.id, "args": event})


class Gate:
    """A function that waits until it is opened; ``entered`` once somebody is in it."""

    def __init__(self, function: Callable[..., Any]):
        self.function, self.entered, self.opened = function, threading.Event(), threading.Event()

    def __call__(self, *arguments: Any) -> Any:
        self.entered.set()
        assert self.opened.wait(SECONDS)
        return self.function(*arguments)


def test_a_visit_leaves_the_project_s_modules_as_they_are_for_the_tests_after_it(site, caplog):
    async def come(user: Any) -> None:
        await user.open("/")

    visit(site, come, caplog)
    assert sys.modules["mmret.web.browse_page"] is browse_page and sys.modules["mmret"].web.browse_page is browse_page


def test_every_key_may_be_pressed_before_the_filters_have_loaded(site, monkeypatch, caplog):
    gate = Gate(browse.choices)
    monkeypatch.setattr(browse_page.browse, "choices", gate)

    async def act(user: Any) -> None:
        client = await user.open("/")
        assert {"reading the triplets", "reading what the filters can be set to"} <= set(labels(client))
        await until(gate.entered.is_set)
        for key in "/jknp":
            press(client, key)
        await asyncio.sleep(0.2)
        gate.opened.set()
        await until(lambda: "Free SQL" in labels(client))
        press(client, "/")
        await asyncio.sleep(0.1)

    visit(site, act, caplog)


@pytest.mark.parametrize("address", ["/", "/search", "/search?text=a+red+circle"])
def test_a_page_may_be_left_while_it_loads(site, monkeypatch, caplog, address):
    gates = [Gate(site.searches.recipes), Gate(browse.choices), Gate(site.searches.search)]
    monkeypatch.setattr(site.searches, "recipes", gates[0])
    monkeypatch.setattr(browse_page.browse, "choices", gates[1])
    monkeypatch.setattr(site.searches, "search", gates[2])
    if "text" in address:
        gates[0].opened.set()

    async def act(user: Any) -> None:
        client = await user.open(address)
        await until(lambda: any(g.entered.is_set() and not g.opened.is_set() for g in gates))
        client.delete()
        await asyncio.sleep(0.2)
        for gate in gates:
            gate.opened.set()
        await asyncio.sleep(0.3)

    visit(site, act, caplog)


def test_a_search_that_is_left_by_its_visitor_does_not_touch_the_page(site, monkeypatch, caplog):
    gate = Gate(site.searches.search)
    monkeypatch.setattr(site.searches, "search", gate)

    async def act(user: Any) -> None:
        from nicegui import ui

        client = await user.open("/search")
        await until(lambda: "Nothing asked yet" in labels(client))
        with client:
            user.find(ui.input).type("a red circle").trigger("keydown.enter")
        await until(gate.entered.is_set)
        client.delete()
        gate.opened.set()
        await asyncio.sleep(0.3)

    visit(site, act, caplog)


def test_who_waits_for_a_first_search_reads_how_far_the_corpus_is_embedded(small_lake, tmp_path, monkeypatch, caplog):
    from mmret.search import corpus_vectors

    shutil.copytree(small_lake[0], tmp_path / "lake")
    shutil.rmtree(tmp_path / "lake" / "gallery")
    lake, gate = Lake(tmp_path / "lake"), Gate(corpus_vectors.pq.write_table)
    site = open_site(lake, resolve(lake)[0], "tester")
    monkeypatch.setattr(corpus_vectors.pq, "write_table", lambda rows, aside: gate(rows, aside))
    first = lake.facts("images", lake.partitions("images")[0]).rows

    async def act(user: Any) -> None:
        client = await user.open("/search?text=a+red+circle")
        wait = f"embedding the corpus with demo: {first} of 180 pictures"
        await until(
            lambda: sum(wait in text for text in labels(client)) == 2
        )  # of both checkpoints: the second waits for the first
        gate.opened.set()
        await until(lambda: {"demo: 180 pictures", "untrained: 180 pictures"} <= set(labels(client)))

    visit(site, act, caplog)


def test_what_a_search_waits_for_is_told_to_others_too_and_forgotten_after_a_failure(small_lake):
    from mmret.errors import UserError

    lake = Lake(small_lake[0])
    searches = SearchProgress(Searcher(lake, resolve(lake)[0]))
    assert searches.wait_message("demo") == "loading the checkpoint of demo"
    searches.search("demo", Query(text="a red circle"), 3)
    assert searches.wait_message("demo") == "searching with demo"
    with pytest.raises(UserError, match="a picture, a text or both"):
        searches.search("demo", Query(), 3)
    assert searches.wait_message("demo") == "searching with demo"


def test_every_search_is_in_the_address_and_an_address_that_came_back_is_asked_without_a_new_one(site, monkeypatch, caplog):
    from nicegui.functions.navigate import History

    told: list[tuple[str, str]] = []
    for how in ("push", "replace"):
        monkeypatch.setattr(History, how, lambda self, address, how=how: told.append((how, address)))

    def answered(client: Any) -> bool:
        return {"demo: 180 pictures", "untrained: 180 pictures"} <= set(labels(client))

    async def act(user: Any) -> None:
        from nicegui import ui

        client = await user.open("/search?text=a+red+circle&first=2")
        await until(lambda: answered(client) and "2 to 25" in labels(client))
        assert told == [("replace", "/search?text=a+red+circle&left=demo&right=untrained&first=2")]
        with client:
            fields = [e for e in client.elements.values() if isinstance(e, ui.input)]
            fields[0].value = "a blue star"
            user.find(kind=ui.button, content="Search").click()
        await until(lambda: answered(client) and "1 to 24" in labels(client))
        assert told[1:] == [("push", "/search?text=a+blue+star&left=demo&right=untrained")]
        (listener,) = [x for x in client.layout._event_listeners.values() if x.type == "address_changed"]
        client.layout._handle_event({"listener_id": listener.id, "args": "?text=a+red+circle&first=2"})
        await until(lambda: answered(client) and "2 to 25" in labels(client))
        assert len(told) == 2 and fields[0].value == "a red circle"

    visit(site, act, caplog)


def test_what_is_asked_before_the_checkpoints_are_known_is_answered_once_they_are(site, monkeypatch, caplog):
    gate = Gate(site.searches.recipes)
    monkeypatch.setattr(site.searches, "recipes", gate)

    async def act(user: Any) -> None:
        from nicegui import ui

        client = await user.open("/search?left=untrained")
        await until(gate.entered.is_set)
        with client:
            fields = [e for e in client.elements.values() if isinstance(e, ui.input)]
            fields[0].value = "a blue star"
            user.find(ui.input).trigger("keydown.enter")
        await asyncio.sleep(0.2)
        gate.opened.set()
        await until(lambda: labels(client).count("untrained: 180 pictures") == 2)

    visit(site, act, caplog)


def test_an_upload_that_is_gone_is_said_and_nothing_else_is_answered_in_its_place(site, caplog):
    async def act(user: Any) -> None:
        client = await user.open(f"/search?text=a+red+circle&upload={'0' * 32}")
        await until(lambda: "The picture of this address is not here any more" in labels(client))
        assert not any(text.startswith("demo:") for text in labels(client))

    visit(site, act, caplog)


def test_the_libraries_of_a_first_search_are_imported_as_soon_as_a_page_is_open_and_once(small_lake, monkeypatch, caplog):
    from mmret.web import search_progress

    lake = Lake(small_lake[0])
    imported: list[str] = []
    monkeypatch.setattr(search_progress, "_import_models", lambda: imported.append(threading.current_thread().name))
    for address in ("/", "/search"):
        site = open_site(lake, resolve(lake)[0], "tester")

        async def act(user: Any, address: str = address) -> None:
            for _ in range(2):
                await user.open(address)
                await until(lambda: imported)

        visit(site, act, caplog)
        assert imported == ["imports for the first search"]
        imported.clear()
