"""One search for command, page and server: they agree, the query picture is never its own answer, and mistakes are messages."""

import io
import json
import re
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image
from typer.testing import CliRunner

from mmret.cli import app
from mmret.errors import UserError
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.progress import reporting
from mmret.retriever.models.kinds import task_options
from mmret.search.models import model_folder, pick_recipe, trained_recipes
from mmret.search.names import ImageNames
from mmret.search.options import SearchOptions
from mmret.search.query import Page
from mmret.search.search import COLUMNS, Query, Searcher, query_image
from mmret.search.service import SearchService, _Request
from mmret.search.snapshot import Model
from mmret.tasks import TASKS


@pytest.fixture(scope="module")
def lake(small_lake) -> Lake:
    return Lake(small_lake[0])


@pytest.fixture(scope="module")
def searcher(lake) -> Searcher:
    return Searcher(lake, resolve(lake)[0])


@pytest.fixture(scope="module")
def triplet(lake) -> dict:
    return lake.read("triplets").to_pylist()[0]


@pytest.mark.parametrize("tasks, told", [
    ({"composed": 1.0}, {}), ({"composed": 0.5, "image_to_image": 0.5}, {"instruction": TASKS["image_to_image"].instruction}),
])  # fmt: skip
def test_a_picture_alone_asks_an_mllm_as_it_was_trained_and_as_it_is_measured(searcher, triplet, tmp_path, tasks, told):
    asks, plain = [], searcher.snapshot("demo")

    class Recording:
        def encode(self, images, texts, **options):
            asks.append((images is not None, texts is not None, options))
            return np.tile(plain.gallery.vectors([0]), (len(images or texts), 1))

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": {"kind": "mllm", "tasks": tasks}}))
    model = Model(tmp_path, "digest")
    model._retriever = Recording()
    here = replace(plain, model=model)
    by_id = here.prepare(Query(image_id=triplet["query_id"]))
    here.encode([by_id, here.prepare(Query(image_of(searcher.lake, triplet)))])
    assert asks == [(True, False, told)] and task_options(tmp_path, TASKS["image_to_image"]) == told
    assert (by_id.vector is None) == bool(told), "what is stored is the picture as a candidate"
    request = _Request(by_id.query, Page(), "demo", Future(), 0.0)
    assert SearchService._needs_model(request, here) == bool(told)
    asks.clear()
    both = here.prepare(Query(image_id=triplet["query_id"], text="in red"))
    here.answer([both], here.encode([both]), Page(k=1, explain=True))
    assert [options for *kind, options in asks if kind == [True, False]] == [told] * bool(told)


def image_of(lake, triplet) -> bytes:
    return images_by_id(lake, [triplet["query_id"]])[triplet["query_id"]]


@pytest.mark.parametrize("recipe", ["demo", "untrained"])
def test_the_command_prints_what_the_search_function_finds(lake, searcher, triplet, recipe):
    image, text = images_by_id(lake, [triplet["query_id"]])[triplet["query_id"]], triplet["texts"][0]
    found = searcher.search(recipe, Query(image, text, triplet["target_id"]), k=180)
    line = [
        "search",
        "--lake",
        lake.root,
        "--recipe",
        recipe,
        "--image",
        triplet["query_path"],
        "--text",
        text,
        "-k",
        180,
        "--json",
    ]
    printed = json.loads(CliRunner().invoke(app, list(map(str, line))).stdout)
    assert printed == [{**hit, "score": round(hit["score"], 4)} for hit in found.hits]
    assert list(printed[0]) == ["score", *COLUMNS]
    ids = [hit["image_id"] for hit in found.hits]
    assert triplet["query_id"] not in ids and len(set(ids)) == 179 and found.gallery == 180
    assert found.target_rank >= ids.index(triplet["target_id"]) + 1


def test_the_rank_of_a_target_counts_ties_before_it_and_not_the_query_picture(lake, searcher, triplet):
    query = images_by_id(lake, [triplet["query_id"]])[triplet["query_id"]]
    for target in lake.read("images")["image_id"].to_pylist()[:20]:
        found = searcher.search("demo", Query(query, target=target), k=180)
        scores = {hit["image_id"]: hit["score"] for hit in found.hits}
        if target == triplet["query_id"]:
            assert found.target_rank == 1  # itself is what it asks for
        else:
            assert abs(found.target_rank - sum(s >= scores[target] for s in scores.values())) <= 1  # products may differ in a bit


def test_a_search_that_cannot_be_made_is_a_message(searcher):
    for query in (Query(), Query(text="  ")):
        with pytest.raises(UserError, match="a picture, a text or both"):
            searcher.search("demo", query)
    with pytest.raises(UserError, match="no checkpoint of recipe '../demo'.*there are demo, untrained"):
        searcher.search("../demo", Query(text="x"))
    with pytest.raises(UserError, match="cannot read the image .*unsupported_format: an SVG drawing"):
        searcher.search("demo", Query(image=b"<svg onload=alert(1)>"))


def test_a_model_is_loaded_once_and_again_when_the_corpus_has_changed(lake, tmp_path, monkeypatch):
    import mmret.retriever.models.load as loading

    shutil.copytree(lake.root, tmp_path / "lake")
    copy, loads = Lake(tmp_path / "lake"), []
    searcher = Searcher(copy, resolve(copy)[0])
    load = loading.Retriever.load
    monkeypatch.setattr(loading.Retriever, "load", staticmethod(lambda folder: loads.append(folder) or load(folder)))
    assert [searcher.search("demo", Query(text=t)).gallery for t in ("a", "b")] == [180, 180] and len(loads) == 1
    shard = copy.partitions("images")[-1]
    rows = copy.read("images", shard)
    copy.write("images", shard, rows.slice(0, rows.num_rows - 1), "x")
    before = searcher.search("demo", Query(text="a"))
    assert before.gallery == 179 and len(loads) == 1  # the model is the same
    shutil.copytree(model_folder(copy, searcher.profile, "untrained"), copy.root / "checkpoints" / "demo", dirs_exist_ok=True)
    after = searcher.search("demo", Query(text="a"))
    assert after.checkpoint != before.checkpoint and len(loads) > 1
    other = searcher.search("untrained", Query(text="a"))
    assert [(h["image_id"], h["score"]) for h in after.hits] == [(h["image_id"], h["score"]) for h in other.hits]


def test_whoever_waits_for_the_first_search_is_told_how_far_the_corpus_is_embedded(lake, tmp_path):
    shutil.copytree(lake.root, tmp_path / "lake")
    shutil.rmtree(tmp_path / "lake" / "gallery")
    copy, told = Lake(tmp_path / "lake"), []
    with reporting(lambda task, done, total, note="": told.append((task, done, total))):
        Searcher(copy, resolve(copy)[0]).search("demo", Query(text="a"))
    assert told[-1] == ("gallery", 180, 180)


def test_the_first_recipe_trained_by_run_is_the_one_searched(lake):
    profile = resolve(lake)[0]
    assert trained_recipes(lake, profile) == ["demo"]
    assert pick_recipe(lake, profile) == "demo" and pick_recipe(lake, profile, "untrained") == "untrained"
    assert model_folder(lake, profile, "demo") == lake.root / "checkpoints" / "demo"
    assert model_folder(lake, profile, "untrained").is_dir()


def test_a_picture_of_the_corpus_is_named_by_id_path_or_absolute_path_and_a_file_is_read(lake, tmp_path):
    row = lake.read("images").to_pylist()[3]
    names = ImageNames(lake)
    for name in (row["image_id"], row["path"], f"./{row['path']}", str(Path(row["root"]) / row["path"])):
        assert names.resolve(name, "here") == row["image_id"]
    with pytest.raises(UserError, match="^here: no image of the corpus is called 'nosuch'"):
        names.resolve("nosuch", "here")
    data = images_by_id(lake, [row["image_id"]])[row["image_id"]]
    (tmp_path / "own.png").write_bytes(data)
    assert query_image(lake, Path(row["path"])) == query_image(lake, tmp_path / "own.png") == data
    with pytest.raises(UserError, match="holds no lake yet"):
        ImageNames(Lake(tmp_path / "none"))


def test_hints_name_the_lake_that_was_searched(lake, monkeypatch):
    names = ImageNames(lake)
    with pytest.raises(UserError, match=re.escape(f"`mmret sql --lake {lake.address} ")):
        names.resolve("nosuch", "here")
    monkeypatch.setattr(ImageNames, "resolve", lambda *_: None)  # as for a picture among the rejects
    with pytest.raises(UserError, match=re.escape(f"`mmret sql --lake {lake.address} ")):
        query_image(lake, Path("rejected.png"))


def test_scores_are_cosines(searcher):
    scores = [hit["score"] for hit in searcher.search("demo", Query(text="a red circle"), k=180).hits]
    assert scores == sorted(scores, reverse=True) and np.abs(scores).max() <= 1 + 1e-5


def scored(found) -> list[tuple]:
    return [(hit["image_id"], hit["score"]) for hit in found.hits]


def test_pages_of_results_are_one_list_and_a_picture_by_id_is_its_file(searcher, lake, triplet):
    whole = searcher.search("demo", Query(image_id=triplet["query_id"]), k=179)
    assert triplet["query_id"] not in {hit["image_id"] for hit in whole.hits} and len(whole.hits) == 179
    parts = [searcher.search("demo", Query(image_id=triplet["query_id"]), k=50, offset=at) for at in range(0, 200, 50)]
    assert [hit for part in parts for hit in part.hits] == whole.hits
    data = images_by_id(lake, [triplet["query_id"]])[triplet["query_id"]]
    for text in ("", triplet["texts"][0]):
        one, two = (
            searcher.search("demo", Query(text=text, **q), k=179) for q in ({"image": data}, {"image_id": triplet["query_id"]})
        )
        np.testing.assert_allclose([h["score"] for h in one.hits], [h["score"] for h in two.hits], atol=1e-5)
        assert dict(scored(one)).keys() == dict(scored(two)).keys()


def test_a_filter_leaves_what_it_says_and_changes_no_score(searcher, lake):
    whole = searcher.search("demo", Query(text="a red circle"), k=180)
    wanted = set(lake.read("images").filter(pc.match_substring(lake.read("images")["caption"], "circle"))["image_id"].to_pylist())
    found = searcher.search("demo", Query(text="a red circle"), k=180, where="caption LIKE '%circle%'")
    assert 0 < len(wanted) < 180 and found.matching == len(wanted) and found.gallery == whole.matching == 180
    assert scored(found) == [hit for hit in scored(whole) if hit[0] in wanted]
    with pytest.raises(UserError, match="filter cannot be used"):
        searcher.search("demo", Query(text="a"), where="nosuch > 1")


@pytest.mark.parametrize("own", [True, False], ids=["of the corpus", "a new picture"])
def test_explained_scores_are_cosines_with_either_part_alone(searcher, lake, triplet, own):
    data = images_by_id(lake, [triplet["query_id"]])[triplet["query_id"]]
    if not own:
        turned = io.BytesIO()
        Image.open(io.BytesIO(data)).convert("RGB").rotate(90).save(turned, "PNG")
        data = turned.getvalue()
    alone = {
        name: dict(scored(searcher.search("demo", q, k=180)))
        for name, q in {"image": Query(data), "text": Query(text="red")}.items()
    }
    found = searcher.search("demo", Query(data, "red"), k=170, explain=True)
    assert list(found.hits[0]) == ["score", *COLUMNS, "image_score", "text_score"]
    for hit in found.hits:
        assert abs(hit["image_score"] - alone["image"][hit["image_id"]]) < 1e-5
        assert abs(hit["text_score"] - alone["text"][hit["image_id"]]) < 1e-5
    (hit,) = searcher.search("demo", Query(text="red"), k=1, explain=True).hits
    assert hit["image_score"] is None and abs(hit["text_score"] - hit["score"]) < 1e-6


def test_many_queries_at_once_are_the_same_queries_one_by_one(searcher, triplet):
    queries = [
        Query(text="red"),
        Query(image_id=triplet["query_id"]),
        Query(image_id=triplet["target_id"], text="blue"),
        Query(text="a"),
    ]
    together = searcher.search_many("demo", queries, k=30)
    for query, found in zip(queries, together, strict=True):
        alone = searcher.search("demo", query, k=30)
        np.testing.assert_allclose([h["score"] for h in found.hits], [h["score"] for h in alone.hits], atol=1e-5)
    assert searcher.search_many("demo", []) == []


@pytest.mark.parametrize(
    "options", [SearchOptions("int8"), SearchOptions("binary", rescore=18), SearchOptions(index_from=50)], ids=str
)
def test_a_search_at_lower_precision_or_through_the_index_says_so(lake, searcher, tmp_path, options):
    exact = searcher.search("demo", Query(text="a red circle"), k=5)
    assert exact.exact and exact.recall is None
    shutil.copytree(lake.root, tmp_path / "lake")
    copy = Lake(tmp_path / "lake")
    found = Searcher(copy, resolve(copy)[0], options).search("demo", Query(text="a red circle"), k=5)
    assert not found.exact and (found.recall is None) == (options.index_from != 50)
    assert dict(scored(exact)).keys() == dict(scored(found)).keys()


@pytest.mark.parametrize("query", [Query(image_id="f" * 32), Query(image_id="../x", text="a")], ids=["unknown", "no id"])
def test_an_id_that_is_none_of_the_corpus_is_a_message(searcher, query):
    with pytest.raises(UserError, match="no picture of the corpus has the id"):
        searcher.search("demo", query)


def test_a_picture_of_the_corpus_is_searched_by_without_importing_the_model(lake, searcher, triplet):
    hits = searcher.search("demo", Query(image_id=triplet["query_id"]), k=3).hits  # embeds the corpus, if nobody has
    lines = f"""
        import sys
        from mmret.lake import Lake
        from mmret.lake.configuration import resolve
        from mmret.search.query import Page, Query
        from mmret.search.search import Searcher
        lake = Lake({str(lake.root)!r})
        here = Searcher(lake, resolve(lake)[0]).open("demo")
        prepared = [here.prepare(Query(image_id={triplet["query_id"]!r}))]
        found = here.answer(prepared, here.encode(prepared), Page(k=3))[0]
        assert [hit["image_id"] for hit in found.hits] == {[hit["image_id"] for hit in hits]!r}
        assert "transformers" not in sys.modules, "its import takes seconds, in which a server could answer"
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_filter_works_on_a_lake_that_was_written_before_a_column_came(lake, tmp_path):
    import pyarrow.parquet as pq

    shutil.copytree(lake.root, tmp_path / "lake")
    older = Lake(tmp_path / "lake")
    for shard in older.partitions("images"):
        path = older.path("images", shard)
        with pq.ParquetFile(path) as file:
            rows = file.read()
        path.unlink()
        pq.write_table(rows.drop_columns(["remark"]), path)
    found = Searcher(older, resolve(older)[0]).search("demo", Query(text="a red circle"), where="remark IS NULL AND width > 0")
    assert found.matching == found.gallery == 180


def test_a_run_leaves_the_vectors_that_a_first_search_asks_for_of_the_trained_and_of_the_untrained_model(lake):
    from mmret.retriever.models.load import embedding_digest

    profile, evaluated = resolve(lake)[0], lake.facts("evaluations", "demo").written
    for recipe in ("demo", "untrained"):
        folder = lake.root / "gallery" / embedding_digest(model_folder(lake, profile, recipe))
        assert sorted(path.stem for path in folder.iterdir()) == lake.partitions("images")
        assert all(path.stat().st_mtime_ns <= evaluated for path in folder.iterdir())


def test_how_many_match_leaves_the_query_s_own_picture_out(searcher, triplet):
    own = Query(image_id=triplet["query_id"])
    assert searcher.search("demo", own, k=1).matching == 179 and searcher.search("demo", Query(text="a"), k=1).matching == 180
    only = f"image_id = '{triplet['query_id']}'"
    assert (
        searcher.search("demo", own, where=only).matching == 0 and searcher.search("demo", own, where=f"NOT {only}").matching == 179
    )


def test_a_shard_that_is_rewritten_while_another_is_read_is_never_taken_for_what_it_was(lake, tmp_path, monkeypatch):
    import mmret.search.snapshot as snapshot_module

    shutil.copytree(lake.root, tmp_path / "lake")
    copy = Lake(tmp_path / "lake")
    searcher = Searcher(copy, resolve(copy)[0])
    before = searcher.open("demo")
    first, *_, last = copy.partitions("images")
    for shard, rows in ((first, copy.read("images", first)), (last, copy.read("images", last))):
        copy.write("images", shard, rows.slice(0, rows.num_rows - 1), "fewer")
    grown = searcher.open("demo", before)
    reading, wrote = snapshot_module.gallery_shards, []

    def shards(*arguments, **keywords):
        for shard in reading(*arguments, **keywords):
            yield shard
            if not wrote:  # after the digests were read, before the last shard is
                rows = copy.read("images", last)
                wrote.append(copy.write("images", last, rows.take(list(range(rows.num_rows))[::-1]), "turned"))

    monkeypatch.setattr(snapshot_module, "gallery_shards", shards)
    copy.write("images", first, copy.read("images", first).slice(1), "fewer again")
    opened = searcher.open("demo", grown)
    expected = Searcher(copy, resolve(copy)[0]).open("demo")
    assert wrote and opened.rows.equals(expected.rows)
    places = range(len(expected.gallery))
    np.testing.assert_allclose(opened.gallery.vectors(places), expected.gallery.vectors(places), atol=1e-6)


def test_reasons_are_not_given_of_a_checkpoint_that_has_been_replaced(lake, tmp_path, triplet):
    from mmret.search.reasons import Reasons

    shutil.copytree(lake.root, tmp_path / "lake")
    copy = Lake(tmp_path / "lake")
    searcher = Searcher(copy, resolve(copy)[0])
    here = searcher.snapshot("demo")
    shutil.copytree(model_folder(copy, searcher.profile, "untrained"), copy.root / "checkpoints" / "demo", dirs_exist_ok=True)
    with pytest.raises(UserError, match="the checkpoint of 'demo' was replaced since: search again"):
        Reasons(copy).why(here, "demo", Query(text="a"), triplet["target_id"])
