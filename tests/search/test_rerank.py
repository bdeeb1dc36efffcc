"""Invariants of a reranker in search: it orders the first hits by its scores, those behind the depth stay, pages and filters see
one order; command, function and service agree; nothing takes a reranker for a retriever, and each is told so; an evaluation has
recall before and after, and what the retriever did not bring no reranker finds."""

import io
import json
import shutil
import threading
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import mmret.search.service as service_module
from mmret.benchmarks.figures import nest
from mmret.benchmarks.stage import evaluate_recipe
from mmret.cli import app
from mmret.cli.run_summary_directions import print_directions
from mmret.errors import UserError
from mmret.export.model_card import write_model_card
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.retriever.models.clip_reranker import ClipReranker
from mmret.schemas import CHECKPOINTS
from mmret.search.models import first_retriever, pick_recipe, pick_reranker, trained_recipes, trained_rerankers
from mmret.search.pixels import PixelBudget
from mmret.search.query import Page, Query
from mmret.search.rerank import LoadedReranker
from mmret.search.search import Searcher
from mmret.search.service import SearchService
from mmret.settings import Recipe, RerankerSettings
from mmret.stage_declaration import Reads
from mmret.stages import STAGES

pytestmark = pytest.mark.usefixtures("one_thread")
NAME = "reranker"


@pytest.fixture(scope="module")
def lake(small_lake, tmp_path_factory) -> Lake:
    """The small lake with a reranker that orders at random, recorded as training records one."""
    made = Lake(shutil.copytree(small_lake[0], tmp_path_factory.mktemp("reranked") / "lake"))
    reranker = ClipReranker.begin(made.root / "towers" / "clip", RerankerSettings(grid=2), seed=3, device="cpu")
    torch.nn.init.normal_(reranker.model.head.weight, std=3.0, generator=torch.Generator().manual_seed(2))
    folder = made.root / "checkpoints" / NAME
    folder.mkdir()
    reranker.save(folder)
    settings = Recipe(kind="reranker").model_dump_json()
    row = {"recipe": NAME, "folder": f"checkpoints/{NAME}", "step": 1, "loss": 1.0, "pairs": 1, "seconds": 1.0}
    row["settings"] = settings
    made.write("checkpoints", NAME, pa.Table.from_pylist([row], CHECKPOINTS), "x", kind="reranker")
    return made


@pytest.fixture(scope="module")
def profile(lake):
    plain = resolve(lake)[0]
    recipes = {**plain.recipes, NAME: Recipe(kind="reranker", retriever="demo")}
    return plain.model_copy(update={"recipes": recipes})


@pytest.fixture(scope="module")
def searcher(lake, profile) -> Searcher:
    return Searcher(lake, profile)


@pytest.fixture(scope="module")
def query(lake) -> Query:
    row = lake.read("triplets").to_pylist()[0]
    return Query(images_by_id(lake, [row["query_id"]])[row["query_id"]], row["texts"][0], row["target_id"])


def ids(result) -> list[str]:
    return [hit["image_id"] for hit in result.hits]


def test_the_first_hits_are_ordered_by_its_scores_and_those_behind_stay(lake, searcher, query):
    plain = searcher.search("demo", query, k=60)
    found = searcher.search("demo", query, k=60, rerank=NAME, rerank_depth=20)
    assert (
        set(ids(found)[:20]) == set(ids(plain)[:20]) and ids(found)[:20] != ids(plain)[:20] and ids(found)[20:] == ids(plain)[20:]
    )
    scores = [hit["rerank_score"] for hit in found.hits]
    assert scores[:20] == sorted(scores[:20], reverse=True) and set(scores[20:]) == {None}
    files = images_by_id(lake, ids(found)[:20])
    own = searcher.rerankers.of(NAME).reranker.score([(query.image, query.text)] * 20, [files[i] for i in ids(found)[:20]])
    np.testing.assert_allclose(own, scores[:20], rtol=1e-4)
    cosines = {hit["image_id"]: hit["score"] for hit in plain.hits}
    assert all(hit["score"] == cosines[hit["image_id"]] for hit in found.hits)


def test_pages_and_filters_see_one_order_and_a_target_among_the_first_has_its_new_rank(searcher, query):
    whole = ids(searcher.search("demo", query, k=40, rerank=NAME, rerank_depth=30))
    pages = [ids(searcher.search("demo", query, k=10, offset=at, rerank=NAME, rerank_depth=30)) for at in (0, 10, 20, 30)]
    assert [i for page in pages for i in page] == whole
    kept = "position % 2 = 0"
    some = searcher.search("demo", query, k=10, where=kept, rerank=NAME, rerank_depth=10)
    assert set(ids(some)) == set(ids(searcher.search("demo", query, k=10, where=kept)))
    target = whole[3]
    asked = Query(query.image, query.text, target)
    assert searcher.search("demo", asked, k=5, rerank=NAME, rerank_depth=30).target_rank == 4
    far = searcher.search("demo", query, k=180).hits[-1]["image_id"]
    at_the_end = searcher.search("demo", Query(query.image, query.text, far), k=5, rerank=NAME, rerank_depth=30)
    assert at_the_end.target_rank > 100


@pytest.mark.parametrize("asked", ["text", "image", "image_id"])
def test_queries_of_one_part_are_reranked_too(searcher, query, asked):
    own = searcher.search("demo", query, k=1).hits[0]["image_id"]
    one = {"text": Query(text=query.text), "image": Query(query.image), "image_id": Query(image_id=own)}[asked]
    found = searcher.search("demo", one, k=10, rerank=NAME, rerank_depth=10)
    assert set(ids(found)) == set(ids(searcher.search("demo", one, k=10))) and found.hits[0]["rerank_score"] is not None


def test_the_command_prints_what_the_search_function_finds(lake, searcher, query, tmp_path):
    (tmp_path / "query.png").write_bytes(query.image)
    line = ["search", "--lake", lake.root, "--image", tmp_path / "query.png", "--text", query.text, "--rerank", NAME]
    printed = json.loads(CliRunner().invoke(app, [*map(str, line), "--rerank-depth", "15", "--json"]).stdout)
    found = searcher.search("demo", query, k=10, rerank=NAME, rerank_depth=15)
    assert [hit["image_id"] for hit in printed] == ids(found)
    assert printed[0]["rerank_score"] == pytest.approx(found.hits[0]["rerank_score"], abs=1e-3)
    shown = CliRunner().invoke(app, list(map(str, line)))
    assert "rerank score" in shown.stdout and shown.exit_code == 0


def test_a_service_answers_as_the_function_does_and_other_queries_meanwhile(searcher, query):
    service = SearchService(searcher, ["demo"], refresh_s=0.05, rerankers=[NAME])
    service.start()
    try:
        page = Page(k=10, rerank=NAME, rerank_depth=15)
        slow, quick = service.submit(query, page), service.submit(query, Page(k=10))
        assert ids(slow.result(60)) == ids(searcher.search("demo", query, k=10, rerank=NAME, rerank_depth=15))
        assert "rerank_score" not in quick.result(60).hits[0]
        with pytest.raises(UserError, match="no reranker 'demo' is served here; there are reranker"):
            service.submit(query, Page(rerank="demo")).result(5)
    finally:
        service.stop()
    with pytest.raises(UserError, match="'demo' is no reranker but a retriever"):
        SearchService(searcher, ["demo"], rerankers=["demo"])


def test_pictures_are_searched_for_while_many_queries_wait_for_a_slow_reranker(searcher, query, monkeypatch):
    gate, rerank = threading.Event(), LoadedReranker.__call__
    monkeypatch.setattr(LoadedReranker, "__call__", lambda self, *asked: gate.wait(30) and rerank(self, *asked))
    service = SearchService(searcher, ["demo"], refresh_s=0.05, rerankers=[NAME])
    with Image.open(io.BytesIO(query.image)) as picture:
        service._pixels = PixelBudget(3 * picture.width * picture.height)
    service.start()
    try:
        slow = [service.submit(query, Page(k=3, explain=True, rerank=NAME, rerank_depth=4)) for _ in range(20)]
        assert len(service.submit(query, Page(k=5)).result(20).hits) == 5
        assert not any(future.done() for future in slow)
        assert all(request.prepared[1].image is None for request in service._in_rerank), "only their files are kept"
        gate.set()
        expected = searcher.search("demo", query, 3, explain=True, rerank=NAME, rerank_depth=4)
        assert all(ids(future.result(60)) == ids(expected) for future in slow)
        assert slow[0].result().hits[0].keys() == expected.hits[0].keys()
        assert service._pixels._free == service._pixels.most
    finally:
        gate.set()
        service.stop()


@pytest.mark.parametrize("ended", [False, True])
def test_a_query_that_reaches_the_reranker_as_the_service_stops_is_told_so(searcher, query, ended):
    service, future = SearchService(searcher, ["demo"], rerankers=[NAME]), Future()
    prepared = service_module.Prepared(query, None, query.text, None, None)
    request = service_module._Request(query, Page(rerank=NAME), "demo", future, 0.0, (None, prepared))
    gate = threading.Event()
    service._reranking.submit(gate.wait, 30)  # another is being reranked
    service._stopping.set()
    if ended:
        service.stop()
    service._rerank_later(request, np.zeros((1, 4), np.float32))
    if not ended:
        service.stop()
    gate.set()
    with pytest.raises(UserError, match="the server is stopping"):
        future.result(5)
    assert not ended or not service._in_rerank


def test_nothing_takes_a_reranker_for_a_retriever(lake, profile, searcher, tmp_path):
    assert trained_recipes(lake, profile) == ["demo"] and trained_rerankers(lake, profile) == [NAME]
    assert searcher.recipes() == ["demo", "untrained"] and pick_recipe(lake, profile) == "demo"
    with pytest.raises(UserError, match=f"recipe '{NAME}' is a reranker, .*search with demo and --rerank {NAME}"):
        pick_recipe(lake, profile, NAME)
    with pytest.raises(UserError, match="no checkpoint of reranker 'nobody'"):
        pick_reranker(lake, profile, "nobody")
    only = profile.model_copy(update={"train": (NAME,), "recipes": {NAME: profile.recipes[NAME], "demo": profile.recipes["demo"]}})
    assert first_retriever(only) == "demo"
    with pytest.raises(UserError, match="no recipe of a retriever"):
        first_retriever(only.model_copy(update={"recipes": {NAME: profile.recipes[NAME]}}))
    for command in (["export-onnx", "--out", "o"], ["embed", str(tmp_path), "--out", "o"], ["serve"], ["search", "--text", "x"]):
        said = CliRunner().invoke(app, [*command, "--lake", str(lake.root), "--recipe", NAME])
        assert isinstance(said.exception, UserError) and "is a reranker" in str(said.exception), command


def test_an_evaluation_has_recall_before_and_after_and_a_retriever_is_not_measured_again(lake, profile):
    before = {
        (r["benchmark"], r["metric"]): r["value"] for r in lake.read("evaluations", "demo").to_pylist() if r["recipe"] == "demo"
    }
    evaluate_recipe(lake, profile, NAME, "x")
    rows = lake.read("evaluations", NAME).to_pylist()
    found = {(r["benchmark"], r["metric"]): r["value"] for r in rows}
    assert {r["recipe"] for r in rows} == {NAME} and {b for b, _ in found} == {"held-out triplets", "held-out edits"}
    for benchmark in ("held-out triplets", "held-out edits"):
        for k in (1, 5, 10, 50):
            assert found[benchmark, f"first R@{k}"] == pytest.approx(before[benchmark, f"R@{k}"])
        assert found[benchmark, "R@50"] == found[benchmark, "first R@50"]  # 50 hits, in another order
    assert any(found[b, f"R@{k}"] != found[b, f"first R@{k}"] for b in ("held-out triplets", "held-out edits") for k in (1, 5, 10))
    figures = nest([*lake.read("evaluations", "demo").to_pylist(), *rows])
    with io.StringIO() as shown:
        print_directions(figures, {}, Console(file=shown, width=200))
        assert "untrained → demo" in shown.getvalue() and NAME not in shown.getvalue()
    card = write_model_card(lake, profile, NAME).read_text()
    assert "mmret.Reranker.load" in card and "first R@1" in card and "sentence-transformers" not in card
    lake.path("evaluations", NAME).unlink()


def test_an_evaluation_follows_the_retriever_it_begins_with(profile):
    stage = STAGES["evaluations"]
    assert stage.conditional_reads(profile, NAME) == (Reads("checkpoints", "named", "demo"),)
    assert stage.conditional_reads(profile, "demo") == ()
    deeper = profile.model_copy(update={"evaluate": profile.evaluate.model_copy(update={"rerank_depth": 20})})
    assert stage.fingerprint_settings(deeper, NAME) != stage.fingerprint_settings(profile, NAME)
    assert stage.fingerprint_settings(deeper, "demo") == stage.fingerprint_settings(profile, "demo")


def test_a_picture_that_is_gone_is_said(searcher, query):
    rerank = searcher.rerankers.of(NAME)
    with pytest.raises(UserError, match="is gone from the lake"):
        rerank(SimpleNamespace(query=query, image=query.image, text=query.text), ["0" * 32])


def test_a_request_may_have_its_results_reranked_by_what_is_served(lake, searcher, query):
    conftest = pytest.importorskip("tests.serve.conftest", reason="the server needs the extra 'serve'")
    import httpx

    with conftest.served(lake, rerankers=(NAME,)) as server, httpx.Client(base_url=server.address, timeout=60) as client:
        conftest.until_ready(client)
        found = searcher.search("demo", Query(text=query.text), k=10, rerank=NAME, rerank_depth=15)
        answer = client.get("/search", params={"text": query.text, "k": 10, "rerank": NAME, "rerank_depth": 15}).json()
        assert [hit["image_id"] for hit in answer["hits"]] == ids(found) and answer["hits"][0]["rerank_score"] is not None
        assert "rerank_score" not in client.get("/search", params={"text": query.text}).json()["hits"][0]
        assert client.get("/recipes").json()["rerankers"] == [NAME]
        refused = client.get("/search", params={"text": "x", "rerank": "demo"})
        assert refused.status_code == 404 and "there are reranker" in refused.json()["error"]
        deep = client.post("/search", json={"text": "x", "rerank": NAME, "rerank_depth": 101})
        assert deep.status_code == 422 and "rerank_depth: at most 100" in deep.json()["error"]
        assert 'step="rerank"' in client.get("/metrics").text
