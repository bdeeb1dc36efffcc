"""``/why`` gives what the search's own reasons give, and refuses in one sentence."""

import base64
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice

import pytest

from mmret.ingest.pictures.images import images_by_id
from mmret.lake.configuration import resolve
from mmret.retriever.train.data_state import checkpoint_rows
from mmret.search.query import Query
from mmret.search.reasons import Reasons
from mmret.search.search import Searcher


@pytest.fixture(scope="module")
def triplet(lake) -> dict:
    return checkpoint_rows(lake, "demo").to_pylist()[0]


def test_the_reasons_are_those_of_the_search_by_id_or_by_file(lake, client, triplet):
    image_id, text, found = triplet["query_id"], triplet["texts"][0], triplet["target_id"]
    expected = Reasons(lake).why(
        Searcher(lake, resolve(lake)[0]).snapshot("demo"), "demo", Query(image_id=image_id, text=text), found
    )
    encoded = base64.b64encode(images_by_id(lake, [image_id])[image_id]).decode()
    for picture in ({"image_id": image_id}, {"image": encoded}):
        answer = client.post("/why", json={**picture, "text": text, "found": found}).json()
        assert [r["pair_id"] for r in answer["reasons"]] == [r.pair_id for r in expected.reasons] and answer["remark"] is None
        assert answer["reasons"][0] == pytest.approx(vars(expected.reasons[0]), abs=1e-4)
        assert (answer["triplets"], answer["candidates"]) == (expected.triplets, expected.candidates)
    assert len(client.post("/why", json={"text": text, "found": found, "most": 1}).json()["reasons"]) == 1


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"text": "x", "found": "0" * 32}, 404, "no picture of the corpus"),
        ({"text": "x", "found": "../../etc"}, 422, "found"),
        ({"text": "x"}, 422, "found"),
        ({}, 422, "found"),
        ({"text": "x", "found": "0" * 32, "recipe": "nosuch"}, 404, "no recipe of this name"),
        ({"text": "x", "found": "0" * 32, "most": 1000}, 422, "most"),
        ({"found": "0" * 32}, 422, "a picture, a text or both"),
        ({"image": "eA==", "found": "0" * 32}, 415, "picture"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(client, asked, status, said):
    answer = client.post("/why", json=asked)
    assert (answer.status_code, list(answer.json())) == (status, ["error"]) and said in answer.json()["error"]


def test_many_at_once_are_told_to_come_again_and_searches_go_on(client, triplet, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr("mmret.search.reasons.Reasons.why", lambda *asked: go_on.wait(30) and 1 / 0)
    asked = {"image_id": triplet["query_id"], "found": triplet["target_id"]}
    with ThreadPoolExecutor(12) as pool:
        waiting = [pool.submit(client.post, "/why", json=asked) for _ in range(12)]
        refused = list(islice(as_completed(waiting, timeout=10), 4))
        assert [answer.result().status_code for answer in refused] == [503] * 4
        encoded = base64.b64encode(b"no picture").decode()
        assert client.post("/search", json={"image": encoded}).status_code == 415
        go_on.set()
    assert sorted(answer.result().status_code for answer in waiting) == [500] * 8 + [503] * 4
