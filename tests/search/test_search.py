"""One search for command, page and server: they agree, the query picture is never its own answer, and mistakes are messages."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mmret.cli import app
from mmret.errors import UserError
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.progress import reporting
from mmret.search.models import model_folder, pick_recipe, trained_recipes
from mmret.search.names import ImageNames
from mmret.search.search import COLUMNS, Query, Searcher, query_image


@pytest.fixture(scope="module")
def lake(small_lake) -> Lake:
    return Lake(small_lake[0])


@pytest.fixture(scope="module")
def searcher(lake) -> Searcher:
    return Searcher(lake, resolve(lake)[0])


@pytest.fixture(scope="module")
def triplet(lake) -> dict:
    return lake.read("triplets").to_pylist()[0]


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
    assert searcher.search("demo", Query(text="a")).gallery == 179 and len(loads) > 1


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


def test_scores_are_cosines(searcher):
    scores = [hit["score"] for hit in searcher.search("demo", Query(text="a red circle"), k=180).hits]
    assert scores == sorted(scores, reverse=True) and np.abs(scores).max() <= 1 + 1e-5
