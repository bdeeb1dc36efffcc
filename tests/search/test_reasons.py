"""Reasons are triplets that the checkpoint was trained on, whatever the lake has become since, and the nearest there are."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from mmret.cli import app
from mmret.errors import UserError
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.retriever.train.data_state import checkpoint_rows
from mmret.search.reasons import MAX_ENCODED, NEAREST, Reason, Reasons
from mmret.search.search import Query, Searcher
from mmret.search.snapshot import Snapshot


@pytest.fixture(scope="module")
def searcher(small_lake) -> Searcher:
    lake = Lake(small_lake[0])
    return Searcher(lake, resolve(lake)[0])


@pytest.fixture(scope="module")
def trained(searcher) -> list[dict]:
    return checkpoint_rows(searcher.lake, "demo").to_pylist()


@pytest.fixture(scope="module")
def snapshot(searcher) -> Snapshot:
    return searcher.snapshot("demo")


def asked(triplet: dict) -> Query:
    return Query(image_id=triplet["query_id"], text=triplet["texts"][0])


def test_a_query_that_was_trained_on_is_its_own_first_reason(snapshot, trained):
    reasons = Reasons(snapshot.lake)
    for triplet in trained[:5]:
        first = reasons.why(snapshot, "demo", asked(triplet), triplet["target_id"], most=200).reasons[0]
        same = [
            row["pair_id"] for row in trained if (row["query_id"], row["texts"][0]) == (triplet["query_id"], triplet["texts"][0])
        ]
        assert first.pair_id in same and first.query_score == pytest.approx(1, abs=1e-4)
        assert first.is_target == (first.target_id == triplet["target_id"]) and first.text == triplet["texts"][0]


def test_reasons_are_those_that_comparing_with_every_training_triplet_finds(searcher, snapshot, trained):
    query = Query(text="a big red circle on a plain background")
    hit = searcher.search("demo", query, 1).hits[0]["image_id"]
    near = {hit: 1.0} | {h["image_id"]: h["score"] for h in searcher.search("demo", Query(image_id=hit), NEAREST - 1).hits}
    candidates = sorted(
        (row for row in trained if row["target_id"] in near), key=lambda row: (-near[row["target_id"]], row["pair_id"])
    )[:MAX_ENCODED]
    pictures = images_by_id(searcher.lake, [row["query_id"] for row in candidates])
    model = snapshot.model.retriever
    vectors = model.encode([pictures[r["query_id"]] for r in candidates], [r["texts"][0] for r in candidates])
    scores = vectors @ model.encode(texts=[query.text])[0]
    found = Reasons(snapshot.lake).why(snapshot, "demo", query, hit, most=5)
    assert found.candidates == len(candidates) and found.triplets == len(trained)
    np.testing.assert_allclose([r.query_score for r in found.reasons], np.sort(scores)[::-1][:5], atol=1e-5)
    assert all(r.target_score == near[r.target_id] and r.is_target == (r.target_id == hit) for r in found.reasons)


def test_the_cost_is_bounded_and_paid_once(snapshot, trained, monkeypatch):
    reasons, encoded, encode = Reasons(snapshot.lake), [], Snapshot.encode
    monkeypatch.setattr(Snapshot, "encode", lambda self, queries: encoded.append(len(queries)) or encode(self, queries))
    found = reasons.why(snapshot, "demo", asked(trained[0]), trained[0]["target_id"])
    assert sum(encoded) == 1 + found.candidates and 0 < found.candidates <= MAX_ENCODED
    encoded.clear()
    again = reasons.why(snapshot, "demo", asked(trained[0]), trained[0]["target_id"])
    assert encoded == [1] and again == found


def test_reasons_are_those_of_the_training_whatever_the_lake_has_become(small_lake, trained, tmp_path):
    shutil.copytree(small_lake[0], tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    snapshot = Searcher(lake, resolve(lake)[0]).snapshot("demo")
    before = Reasons(lake).why(snapshot, "demo", asked(trained[0]), trained[0]["target_id"], most=100)
    test = {row["pair_id"] for row in lake.read("triplets", filters=pc.field("split") == "test").to_pylist()}
    assert before.reasons and not test & {r.pair_id for r in before.reasons}
    for shard in lake.partitions("triplets"):
        rows = lake.read("triplets", shard)
        lake.write("triplets", shard, rows.slice(0, 0), "emptied")
    after = Reasons(lake).why(snapshot, "demo", asked(trained[0]), trained[0]["target_id"], most=100)
    assert [dataclasses.astuple(r)[:4] for r in after.reasons] == [dataclasses.astuple(r)[:4] for r in before.reasons]


def test_a_model_without_training_triplets_says_so_and_mistakes_are_messages(searcher, snapshot, trained, tmp_path, small_lake):
    reasons, query, hit = Reasons(searcher.lake), asked(trained[0]), trained[0]["target_id"]
    untrained = reasons.why(searcher.snapshot("untrained"), "untrained", query, hit)
    assert untrained.reasons == [] and "untrained was trained on no triplet" in untrained.remark
    with pytest.raises(UserError, match="no checkpoint of recipe 'nosuch'"):
        searcher.snapshot("nosuch")
    with pytest.raises(UserError, match="0" * 32):
        reasons.why(snapshot, "demo", query, "0" * 32)
    with pytest.raises(UserError, match="a picture, a text or both"):
        reasons.why(snapshot, "demo", Query(), hit)
    shutil.copytree(small_lake[0], tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    lake.write("checkpoints", "demo", lake.read("checkpoints", "demo"), "x")  # recorded before states were
    with pytest.raises(UserError, match="older than recorded states"):
        Reasons(lake).why(snapshot, "demo", query, hit)


def test_a_triplet_whose_query_picture_is_gone_is_left_out(snapshot, trained, monkeypatch):
    from mmret.search import reasons as module

    whole = Reasons(snapshot.lake).why(snapshot, "demo", asked(trained[0]), trained[0]["target_id"], most=100)
    lost = whole.reasons[0].query_id
    find = module.images_by_id
    monkeypatch.setattr(module, "images_by_id", lambda lake, ids: {i: d for i, d in find(lake, ids).items() if i != lost})
    less = Reasons(snapshot.lake).why(snapshot, "demo", asked(trained[0]), trained[0]["target_id"], most=100)
    assert {r.pair_id for r in less.reasons} == {r.pair_id for r in whole.reasons if r.query_id != lost}


def test_the_command_prints_reasons_only_where_asked_and_in_json_beside_each_hit(searcher, trained):
    line = ["search", "--lake", str(searcher.lake.root), "--image", trained[0]["query_path"], "--text", trained[0]["texts"][0]]
    run = CliRunner().invoke
    plain, with_reasons = (json.loads(run(app, [*line, "-k", "3", *more, "--json"]).stdout) for more in ([], ["--why"]))
    assert [{k: v for k, v in hit.items() if k != "reasons"} for hit in with_reasons] == plain
    assert list(with_reasons[0]["reasons"][0]) == [field.name for field in dataclasses.fields(Reason)]
    shown = run(app, [*line, "-k", "3", "--why"])
    assert shown.exit_code == 0 and with_reasons[0]["reasons"][0]["pair_id"] in shown.stdout
    untrained = run(app, [*line, "-k", "3", "--why", "--recipe", "untrained"])
    assert "image 1, 2, 3: untrained was trained on no triplet" in " ".join(untrained.stderr.split())
