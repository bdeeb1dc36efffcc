"""A service gives each query the answer that it would get alone, from one state of the lake that the answer names, whatever
happens."""

import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import SimpleNamespace

import numpy as np
import pytest

import mmret.search.service as service_module
import mmret.search.snapshot as snapshot_module
from mmret.atomic import replacing
from mmret.errors import UserError
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.search.models import model_folder
from mmret.search.query import Page, Query
from mmret.search.search import Searcher
from mmret.search.service import SearchService


@pytest.fixture
def lake(small_lake, tmp_path) -> Lake:
    shutil.copytree(small_lake[0], tmp_path / "lake")
    return Lake(tmp_path / "lake")


@pytest.fixture
def searcher(lake) -> Searcher:
    return Searcher(lake, resolve(lake)[0])


@pytest.fixture
def service(searcher):
    made = SearchService(searcher, ["demo", "untrained"], refresh_s=0.05)
    yield made
    made.stop()


def until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


def put(path, data: bytes) -> None:
    """Replace a file as training does: by renaming. A file that is mapped into memory and made shorter ends whoever reads it."""
    with replacing(path) as aside:
        aside.write_bytes(data)


def same(found, expected) -> None:
    np.testing.assert_allclose([h["score"] for h in found.hits], [h["score"] for h in expected.hits], atol=1e-5)
    assert found.checkpoint == expected.checkpoint and found.gallery == expected.gallery


def questions(lake) -> list[tuple[Query, Page, str]]:
    rows = lake.read("triplets").to_pylist()[:12]
    files = images_by_id(lake, [row["query_id"] for row in rows])
    made = []
    for n, row in enumerate(rows):
        recipe = "untrained" if n % 5 == 4 else "demo"
        made.append((Query(image_id=row["query_id"]), Page(k=7), recipe))
        made.append((Query(text=row["texts"][0]), Page(k=7), recipe))
        made.append((Query(image=files[row["query_id"]], text=row["texts"][0]), Page(k=5, explain=True), recipe))
        made.append(
            (Query(image_id=row["query_id"], text=row["texts"][0]), Page(k=3, offset=2, where="caption LIKE '%red%'"), recipe)
        )
    return made


def test_many_clients_at_once_get_the_answers_of_one_at_a_time(service, searcher, lake):
    asked = questions(lake)
    with ThreadPoolExecutor(8) as pool:  # before the start: they wait for vectors and model
        futures = list(pool.map(lambda q: service.submit(*q), asked))
    service.start()
    for (query, page, recipe), future in zip(asked, futures, strict=True):
        same(future.result(60), searcher.search(recipe, query, page.k, page.offset, page.where, page.explain))


def test_a_mistake_in_one_query_is_told_to_its_asker_alone(service, lake):
    service.start()
    good = [service.submit(Query(text=f"a red circle {n}"), Page(k=3)) for n in range(10)]
    bad = {
        "a picture, a text or both": service.submit(Query()),
        "no picture of the corpus has the id": service.submit(Query(image_id="0" * 32)),
        "cannot read the image": service.submit(Query(image=b"no picture", text="a")),
        "filter": service.submit(Query(text="a"), Page(where="nosuch = 1")),
        "k 0": service.submit(Query(text="a"), Page(k=0)),
        "no recipe 'other' is served here; there are demo, untrained": service.submit(Query(text="a"), Page(), "other"),
    }
    for said, future in bad.items():
        with pytest.raises(UserError, match=said):
            future.result(60)
    assert all(len(future.result(60).hits) == 3 for future in good)
    given_up = service.submit(Query(text="never mind"))
    given_up.cancel()
    assert service.submit(Query(text="a")).result(60).hits


def test_a_fault_of_the_model_with_one_query_fails_no_other(service, monkeypatch):
    service.start()
    until(lambda: service.status()["ready"])
    encode, model = snapshot_module.Model.encode, service.snapshot().model
    monkeypatch.setattr(
        snapshot_module.Model, "encode", lambda self, images, texts: 1 / 0 if "boom" in texts else encode(self, images, texts)
    )
    hold = model._lock
    with hold:  # so that all of them are in one batch
        futures = [service.submit(Query(text=text)) for text in ("a", "boom", "b", "c")]
        time.sleep(0.05)
    assert [f.exception(60) is None for f in futures] == [True, False, True, True]
    assert isinstance(futures[1].exception(), ZeroDivisionError)


def test_a_new_shard_and_a_new_checkpoint_are_taken_up_and_every_answer_is_right_for_the_state_it_names(service, searcher, lake):
    shards = lake.partitions("images")
    rows = lake.read("images", shards[-1])
    states = {}

    def expected() -> None:
        found = searcher.search("demo", Query(image_id=asked), k=200)
        states[(found.checkpoint, found.gallery)] = [h["score"] for h in found.hits]

    asked = lake.read("images", shards[0])["image_id"][0].as_py()
    lake.write("images", shards[-1], rows.slice(0, rows.num_rows - 5), "fewer")
    expected()
    service.start()
    until(lambda: service.status()["ready"])
    wrong, seen, stop = [], set(), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            found = service.submit(Query(image_id=asked), Page(k=200)).result(60)
            key = (found.checkpoint, found.gallery)
            seen.add(key)
            if key in states and not np.allclose([h["score"] for h in found.hits], states[key], atol=1e-5):
                wrong.append(key)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        lake.write("images", shards[-1], rows, "all")
        expected()
        until(lambda: service.status()["pictures"] == 180)
        first = service.status()["checkpoint"]
        for path in model_folder(lake, searcher.profile, "untrained").iterdir():
            if path.is_file():
                put(lake.root / "checkpoints" / "demo" / path.name, path.read_bytes())
        expected()
        until(lambda: service.status()["checkpoint"] != first)
        until(lambda: len(seen) >= 3)
    finally:
        stop.set()
        thread.join()
    assert not wrong and seen == set(states) and len(states) == 3


def test_a_state_that_cannot_be_opened_leaves_the_one_before_answering_and_is_reported(service, lake, monkeypatch):
    service.start()
    until(lambda: service.status()["ready"])
    before = service.submit(Query(text="a")).result(60)
    folder = lake.root / "checkpoints" / "demo"
    weights = next(folder.glob("*.safetensors"))
    kept = weights.read_bytes()
    put(weights, b"damaged")
    until(lambda: service.status()["error"])
    same(service.submit(Query(text="a")).result(60), before)
    assert service.status()["ready"]
    put(weights, kept)
    until(lambda: service.status()["error"] is None)


def test_what_cannot_be_opened_at_all_is_told_to_those_who_wait(lake, searcher):
    for path in (lake.root / "checkpoints" / "demo").glob("*.safetensors"):
        put(path, b"damaged")
    shutil.rmtree(lake.root / "gallery")
    service = SearchService(searcher, ["demo"], refresh_s=0.05)
    future = service.submit(Query(text="a"))
    service.start()
    with pytest.raises(UserError, match="cannot load|damaged|safetensors"):
        future.result(60)
    assert not service.status()["ready"] and service.status()["error"]
    service.stop()


def test_pictures_of_the_corpus_are_searched_for_before_the_model_is_loaded(lake, searcher, monkeypatch):
    gate, retriever = threading.Event(), snapshot_module.Model.retriever
    monkeypatch.setattr(
        snapshot_module.Model, "retriever", property(lambda self: gate.wait(30) and retriever.fget(self)), raising=True
    )
    service = SearchService(searcher, ["demo"], refresh_s=0.05)
    text = service.submit(Query(text="a red circle"))
    service.start()
    image_id = lake.read("images")["image_id"][0].as_py()
    assert len(service.submit(Query(image_id=image_id), Page(k=4)).result(60).hits) == 4
    assert not text.done() and service.status() | {"loading": "the model", "ready": False} == service.status()
    gate.set()
    assert text.result(60).hits
    until(lambda: service.status()["ready"] and service.status()["loading"] is None)
    service.stop()


def test_queries_that_are_being_decoded_when_the_service_stops_are_told_so_too(searcher, lake, monkeypatch):
    gate, decoding = threading.Event(), threading.Event()
    prepare = snapshot_module.Snapshot.prepare
    monkeypatch.setattr(
        snapshot_module.Snapshot, "prepare", lambda self, query: decoding.set() or gate.wait(30) and prepare(self, query)
    )
    data = next(iter(images_by_id(lake, lake.read("images")["image_id"].to_pylist()[:1]).values()))
    service = SearchService(searcher, ["demo"], refresh_s=0.05)
    service.start()
    until(lambda: service.status()["ready"])
    futures = [service.submit(Query(image=data)) for _ in range(6)]
    assert decoding.wait(30)
    threading.Timer(0.2, gate.set).start()
    service.stop()
    for future in futures:
        assert future.exception(10) is None or "stopping" in str(future.exception())


def test_a_query_whose_turn_comes_as_the_decoders_end_is_told_that_the_service_stops(searcher):
    service, future = SearchService(searcher, ["demo"]), Future()
    service._snapshots["demo"] = SimpleNamespace(model=SimpleNamespace(loaded=True))
    service._decoders.shutdown()
    assert not service._prepared(service_module._Request(Query(image=b"x"), Page(), "demo", future, 0.0))
    assert "stopping" in str(future.exception(0)) and not service._decoding


def test_what_many_are_told_is_an_exception_of_each_ones_own(searcher):
    error = UserError("no such thing")
    futures = []
    for _ in range(2):
        request = service_module._Request(Query(text="a"), Page(), "demo", Future(), 0.0)
        service_module._fail(request, error)
        futures.append(request.future)
    assert futures[0].exception() is not futures[1].exception() and str(futures[0].exception()) == "no such thing"


def test_who_asks_a_service_that_stops_is_told_so(searcher):
    service = SearchService(searcher, ["demo"])
    waiting = service.submit(Query(text="a"))
    service.stop()
    for future in (waiting, service.submit(Query(text="a"))):
        with pytest.raises(UserError, match="stopping"):
            future.result(5)


def test_what_is_observed_is_counted_once_a_query(searcher):
    seen = []
    service = SearchService(searcher, ["demo"], observe=lambda name, value: seen.append((name, value)))
    service.start()
    wait([service.submit(Query(text=str(n))) for n in range(20)], 60)
    service.stop()
    assert sum(value for name, value in seen if name == "batch_size") == 20
    assert sum(name == "wait_seconds" for name, _ in seen) == 20
    assert {name for name, _ in seen} == {"wait_seconds", "batch_size", "encode_seconds", "rank_seconds"}
    assert max(value for name, value in seen if name == "batch_size") <= service_module.MOST_AT_ONCE
