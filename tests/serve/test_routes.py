"""Every route over the small lake: the same answers as the search itself, nothing of the server's paths, errors in one sentence."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from mmret.ingest.pictures.images import images_by_id
from mmret.lake.configuration import resolve
from mmret.search.search import Query, Searcher
from mmret.serve.limits import Limits
from tests.conftest import CHECKOUT
from tests.serve.conftest import served, until_ready

UNKNOWN = "0" * 32


@pytest.fixture(scope="module")
def triplet(lake) -> dict:
    return lake.read("triplets").to_pylist()[0]


@pytest.fixture(scope="module")
def picture(lake, triplet) -> bytes:
    return images_by_id(lake, [triplet["query_id"]])[triplet["query_id"]]


def ids(answer: dict) -> list[str]:
    return [hit["image_id"] for hit in answer["hits"]]


def ask(client, **asked) -> dict:
    answer = client.post("/search", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer, status: int) -> str:
    """The one sentence of an error."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"] and "\n" not in answer.json()["error"]
    return answer.json()["error"]


def test_each_way_to_ask_gives_what_the_search_itself_finds(lake, client, triplet, picture):
    text, image_id = triplet["texts"][0], triplet["query_id"]
    expected = Searcher(lake, resolve(lake)[0]).search("demo", Query(picture, text), 10)
    encoded = base64.b64encode(picture).decode()
    answers = [
        ask(client, image=encoded, text=text, k=10),
        ask(client, image=f"data:image/png;base64,{encoded}", text=text, k=10),
        ask(client, image_id=image_id, text=text, k=10),
        client.get("/search", params={"image_id": image_id, "text": text, "k": 10}).json(),
        client.post("/search/upload", data={"text": text, "k": "10"}, files={"image": ("x.png", picture)}).json(),
        client.post("/search/batch", json={"queries": [{"image_id": image_id, "text": text, "k": 10}]}).json()["answers"][0],
    ]
    for answer in answers:
        assert ids(answer) == [hit["image_id"] for hit in expected.hits]
        np.testing.assert_allclose([h["score"] for h in answer["hits"]], [h["score"] for h in expected.hits], atol=1e-5)
        assert image_id not in ids(answer) and answer["gallery"] == 180 and answer["recipe"] == "demo"
        assert answer["checkpoint"] and answer["exact"] is True and answer["recall"] is None


def test_pages_follow_each_other_without_gap_or_repeat(client):
    whole = ask(client, text="a red circle", k=180)
    found, offset = [], 0
    while offset is not None:
        page = ask(client, text="a red circle", k=50, offset=offset)
        assert [hit["rank"] for hit in page["hits"]] == list(range(offset + 1, offset + 1 + len(page["hits"])))
        found += ids(page)
        offset = page["next_offset"]
    assert found == ids(whole) and len(set(found)) == 180


def test_a_filter_leaves_only_what_fulfils_it_and_says_how_many(lake, client):
    where = "caption ILIKE '%red%'"
    wanted = {row["image_id"] for row in lake.read("images").to_pylist() if "red" in row["caption"].lower()}
    answer = ask(client, text="a circle", where=where, k=180)
    assert set(ids(answer)) == wanted and answer["matching"] == len(wanted) < answer["gallery"]
    assert "nosuch" in refused(client.post("/search", json={"text": "a", "where": "nosuch = 1"}), 400)


def test_an_explanation_has_the_score_of_either_part(client, triplet):
    both = ask(client, image_id=triplet["query_id"], text=triplet["texts"][0], explain=True, k=3)
    assert all(isinstance(hit["image_score"], float) and isinstance(hit["text_score"], float) for hit in both["hits"])
    text = ask(client, text="a red circle", explain=True, k=3)
    assert all(hit["image_score"] is None and abs(hit["text_score"] - hit["score"]) < 1e-5 for hit in text["hits"])
    assert "image_score" not in ask(client, text="a red circle", k=3)["hits"][0]


def test_a_batch_has_an_answer_or_an_error_for_each_query_in_order(client):
    queries = [
        {"text": "a red circle", "k": 2},
        {"k": "x"},
        3,
        {"image_id": UNKNOWN},
        {"text": "a blue star", "k": 1},
        {"text": " "},
    ]
    answers = client.post("/search/batch", json={"queries": queries}).json()["answers"]
    assert [answer.get("status", 200) for answer in answers] == [200, 422, 422, 404, 200, 422]
    assert ids(answers[0]) == ids(ask(client, **queries[0])) and ids(answers[4]) == ids(ask(client, **queries[4]))
    assert all(set(answer) == {"error", "status"} for answer in answers if "error" in answer)


def test_a_hundred_at_once_get_what_each_gets_alone(lake, client):
    rows = lake.read("images").to_pylist()
    asked = [{"text": rows[n]["caption"], "k": 7, "offset": n % 3} for n in range(50)]
    asked += [{"image_id": rows[n]["image_id"], "text": "in blue" if n % 2 else "", "k": 5} for n in range(50)]
    alone = [ask(client, **one) for one in asked]
    with ThreadPoolExecutor(25) as pool:
        together = list(pool.map(lambda one: ask(client, **one), asked))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose([h["score"] for h in one["hits"]], [h["score"] for h in other["hits"]], atol=1e-5)
        assert {k: v for k, v in one.items() if k != "hits"} == {k: v for k, v in other.items() if k != "hits"}
        assert ids(one) == ids(other)


def test_a_row_has_no_path_of_the_server_and_a_picture_is_made_anew(lake, client, picture, triplet):
    row = client.get(f"/images/{triplet['query_id']}").json()
    assert row["path"] == triplet["query_path"] and "root" not in row and row["extra"]["shape"]
    answer = client.get(row["picture"])
    assert answer.headers["content-type"] == "image/jpeg" and answer.content != picture
    assert Image.open(io.BytesIO(answer.content)).format == "JPEG"
    for wrong in (UNKNOWN, "x", "..%2f..%2flake.yaml", "%00"):
        for route in (f"/images/{wrong}", f"/images/{wrong}/picture"):
            refused(client.get(route), 404)


def test_state_and_figures(client):
    assert client.get("/health").json() == {"alive": True}
    ready = client.get("/ready").json()
    assert ready["ready"] and ready["pictures"] == 180 and ready["recipe"] == "demo" and ready["exact"]
    assert client.get("/recipes").json() == {"default": "demo", "recipes": ["demo"], "rerankers": []}
    assert ask(client, text="a", recipe="demo")["checkpoint"] == ready["checkpoint"]
    ask(client, text="a")
    figures = client.get("/metrics").text
    for line in ('mmret_requests_total{route="/search",status="200"}', "mmret_gallery_pictures 180.0",
                 "mmret_ready 1.0", "mmret_batch_queries_count", 'mmret_search_seconds_count{step="encode"}',
                 "mmret_waiting_queries 0.0"):  # fmt: skip
        assert line in figures, line
    counted = [
        line for line in figures.splitlines() if line.startswith(("mmret_search_seconds_count", "mmret_batch_queries_count"))
    ]
    assert counted and all(float(line.split()[-1]) > 0 for line in counted)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "a picture, a text or both"),
        ({"text": "a", "k": 0}, 422, "^k: "),
        ({"text": "a", "k": "5"}, 422, "^k: "),
        ({"text": "a", "k": 10**9}, 422, "k: at most 200"),
        ({"text": "a", "offset": 10**6}, 422, "offset: at most"),
        ({"text": "a" * 3000}, 422, "text: at most 2000"),
        ({"text": "a", "where": "1=1 " * 600}, 422, "where: at most 2000"),
        ({"text": "a", "colour": 1}, 422, "^colour: "),
        ({"image_id": "../x"}, 422, "^image_id: "),
        ({"image_id": UNKNOWN}, 404, "picture"),
        ({"text": "a", "recipe": "../demo"}, 404, "no recipe of this name"),
        ({"image": "????"}, 422, "not base64"),
        ({"image": base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode()}, 415, "SVG"),
        ({"image": base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()}, 400, "truncated"),
        ({"image_id": UNKNOWN, "image": "aaaa"}, 422, "one picture"),
        ({"image_url": "https://example.org/x.png"}, 403, "fetches no pictures"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_sentence(client, body, status, said):
    import re

    assert re.search(said, refused(client.post("/search", json=body), status))


def test_bodies_that_are_none(client):
    kind = {"content-type": "application/json"}
    for body in (
        b"",
        b"{",
        b"\xff",
        b'{"text": NaN}'[:-1],
        b"[" * 100_000,
        b'{"text": "\\ud800"}',
        b'{"text":' + b'{"a":' * 50_000,
    ):
        assert refused(client.post("/search", content=body, headers=kind), 400)
    assert refused(client.post("/search", content=b"[]", headers=kind), 422)
    assert refused(client.post("/search", content=b'{"text": "a"}', headers={"content-type": "text/plain"}), 415)
    assert refused(client.post("/search/upload", json={"text": "a"}), 415)
    assert refused(client.post("/search/upload", content=b"x", headers={"content-type": "multipart/form-data"}), 400)
    assert refused(client.post("/search/batch", json={"queries": []}), 422)
    assert refused(client.post("/search/batch", json={"queries": [{}] * 65}), 422)
    refused(client.put("/search"), 405)
    refused(client.get("/nothing"), 404)
    refused(client.get("/search", params={"text": "a", "k": "x"}), 422)


def test_too_many_pixels_are_refused_by_the_header_alone(client):
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 200_000
    answer = client.post("/search/upload", files={"image": ("x.png", bomb.getvalue())})
    assert "too_many_pixels" in refused(answer, 413)


def test_no_answer_of_any_route_holds_a_path_of_the_server(lake, client, triplet):
    page = client.get("/openapi.json").json()
    asked = []
    for route, methods in page["paths"].items():
        for method in methods:
            for image_id in (triplet["query_id"], UNKNOWN, "%2e%2e%2fx"):
                asked.append(client.request(method, route.replace("{image_id}", image_id)))
    wrong = {"text": "a", "where": f"read_text('{lake.root}/lake.yaml') = ''", "recipe": "x"}
    asked += [client.post("/search", json=wrong), client.post("/search", json={**wrong, "recipe": None}), client.get("/docs")]
    asked += [client.post("/search", json={"text": "a", "k": 180})]
    assert len(asked) > 20 and {answer.status_code for answer in asked} <= {200, 400, 404, 415, 422}
    for answer in asked:
        for leak in (str(lake.root), str(lake.root.parent), str(CHECKOUT), "site-packages", "Traceback", '"root"'):
            assert leak not in answer.text, (answer.url, leak)


def test_the_page_of_the_api_is_whole_and_takes_nothing_from_elsewhere(client):
    page = client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "://" not in page.text
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "start.js"):
        assert client.get(f"/docs/{name}").status_code == 200
    assert client.get("/docs/..%2fapp.py").status_code == 404
    described = client.get("/openapi.json").json()
    for path, methods in described["paths"].items():
        for operation in methods.values():
            assert operation["summary"] and "200" in operation["responses"], path
    examples = described["paths"]["/search"]["post"]["requestBody"]["content"]["application/json"]["schema"]["examples"]
    assert client.post("/search", json={**examples[0]}).status_code == 200
    assert json.dumps(described).count("ErrorAnswer") > 5


def test_the_last_page_says_that_it_is_the_last(lake, client, triplet):
    asked = {"image_id": triplet["query_id"], "k": 100}
    first = ask(client, **asked)
    second = ask(client, **asked, offset=first["next_offset"])
    assert len(first["hits"]) + len(second["hits"]) == first["matching"] == 179 and second["next_offset"] is None
    with served(lake, limits=Limits(offset=10)) as server, httpx.Client(base_url=server.address, timeout=60) as other:
        until_ready(other)
        assert ask(other, text="a", k=10)["next_offset"] == 10 and ask(other, text="a", k=10, offset=10)["next_offset"] is None


def test_a_body_of_nothing_but_parts_is_refused_before_it_is_read(client):
    many = b'{"queries": [' + b"{}," * 500_000 + b"{}]}"
    answer = client.post("/search/batch", content=many, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422 and "more parts" in answer.json()["error"]
