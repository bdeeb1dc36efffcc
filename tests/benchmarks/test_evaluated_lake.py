"""What the evaluation on a lake asks, in which order, and what it records."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mmret.benchmarks import stage
from mmret.benchmarks.triplets import Query
from mmret.hashing import uniform
from mmret.lake import Lake
from mmret.schemas import CHECKPOINTS, IMAGES_INDEX, TRIPLETS
from mmret.settings import EvaluateSettings, load_profile
from tests.mine.lakes import filled


@pytest.fixture
def lake(tmp_path) -> Lake:
    made = Lake(tmp_path)
    rows = [
        dict.fromkeys(TRIPLETS.names)
        | {"pair_id": f"{n:032x}", "query_id": f"q{n}", "target_id": f"t{n}", "texts": ["a", "b", "c"][: 1 + n % 3],
           "hard_negatives": [], "signals": [], "split": "test" if n % 2 else "train"}
        for n in range(20)
    ]  # fmt: skip
    made.write("triplets", "shard-00000", pa.Table.from_pylist(rows, TRIPLETS), "x")
    made.write("images", "shard-00000", filled(IMAGES_INDEX, {"image_id": ["a"], "root": ["folder"], "extra": ["{}"]}), "x")
    made.write("checkpoints", "demo", pa.Table.from_pylist([_checkpoint("demo")], CHECKPOINTS), "x")
    made.write("checkpoints", "empty", CHECKPOINTS.empty_table(), "x")
    return made


def _checkpoint(name: str) -> dict:
    return dict.fromkeys(CHECKPOINTS.names) | {"recipe": name, "folder": f"checkpoints/{name}"}


def test_held_out_queries_are_those_of_lowest_hash_of_split_test_each_with_one_of_its_texts(lake):
    found = stage.held_out_triplets(lake, EvaluateSettings(max_queries=4))
    test = sorted((f"{n:032x}", n) for n in range(1, 20, 2))
    chosen = sorted(test, key=lambda row: uniform("evaluate", row[0]))[:4]
    assert [(q.reference, q.targets) for q in found] == [(f"q{n}", frozenset([f"t{n}"])) for _, n in chosen]
    assert all(q.text in ["a", "b", "c"][: 1 + n % 3] for q, (_, n) in zip(found, chosen, strict=True))
    every = stage.held_out_triplets(lake, EvaluateSettings())
    assert len(every) == 10 and len({q.text for q in every}) > 1
    assert stage.held_out_edits(lake, EvaluateSettings()) == [], "of shapes corpora alone"


def test_the_untrained_model_is_measured_once_and_a_recipe_without_a_checkpoint_not_at_all(lake, monkeypatch):
    asked, dropped = [], []

    def figures(model, queries):
        asked.append((str(model.folder).removeprefix("folder of "), len(queries)))
        return {"R@1": 1.0, "image R@1": 2.0, "gallery": 7}

    monkeypatch.setattr(stage.Model, "evaluate", figures)
    monkeypatch.setattr(stage, "drop_other_galleries", lambda lake, folders: dropped.append(list(folders)))
    monkeypatch.setattr(stage, "model_folder", lambda lake, profile, recipe: f"folder of {recipe}")
    monkeypatch.setattr("mmret.retriever.models.kinds.embedding_digest", str)
    profile = load_profile("demo", {"recipes.empty": {}})
    stage.evaluate_recipe(lake, profile, "demo", "x")
    assert asked == [("untrained", 10), ("demo", 10)]
    rows = lake.read("evaluations", "demo").to_pylist()
    assert [(r["recipe"], r["benchmark"], r["metric"], r["value"], r["queries"], r["gallery"]) for r in rows] == [
        (recipe, "held-out triplets", metric, value, 10, 7)
        for recipe in ("untrained", "demo")
        for metric, value in (("R@1", 1.0), ("image R@1", 2.0))
    ]
    assert dropped == [["folder of untrained", "folder of demo"]] and rows[0]["inputs"] != rows[2]["inputs"]
    stage.evaluate_recipe(lake, profile, "empty", "x")
    assert len(asked) == 2, "copied"
    assert {r["recipe"] for r in lake.read("evaluations", "empty").to_pylist()} == {"untrained"}
    images = filled(IMAGES_INDEX, {"image_id": ["a", "b"], "root": ["folder"] * 2, "extra": ["{}"] * 2})
    lake.write("images", "shard-00000", images, "x")
    stage.evaluate_recipe(lake, profile, "demo", "x")
    assert len(asked) == 4, "another gallery is measured again"


def test_a_key_of_an_evaluation_is_of_model_queries_and_pictures_whatever_the_order_of_targets(lake, monkeypatch):
    monkeypatch.setattr("mmret.retriever.models.kinds.embedding_digest", str)
    key = lambda folder, *q: stage._evaluation_key(lake, folder, [Query(*one) for one in q])  # noqa: E731
    first = key("m", ("a", "x", frozenset(["b", "c"])))
    assert first == key("m", ("a", "x", frozenset(["c", "b"])))
    others = [key("n", ("a", "x", frozenset("bc"))), key("m", ("a", "y", frozenset("bc"))), key("m", ("b", "x", frozenset("bc"))),
              key("m", ("a", "x", frozenset("b"))), key("m")]  # fmt: skip
    assert len({first, *others}) == 6


def test_flags_of_a_composed_evaluation_count_queries_in_blocks_in_their_order(monkeypatch):
    from mmret.benchmarks import composed

    class Encoder:
        dim = 2

        def encode(self, images, texts, **options):
            assert options == {"instruction": "x"}
            return np.array([[float(i), float(t)] for i, t in zip(images, texts, strict=True)], np.float32)

    monkeypatch.setattr(composed, "_BLOCK", 2)
    found = composed.ComposedVectors(Encoder(), lambda ids: {i: i for i in ids}, {"instruction": "x"}).of(
        [(str(n), str(10 * n)) for n in range(5)]
    )
    assert found.tolist() == [[n, 10 * n] for n in range(5)]
