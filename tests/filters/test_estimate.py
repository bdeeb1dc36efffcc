"""Pins of what asking the judge about candidates costs: before triplets exist, and of those that do, it is what will be asked."""

from __future__ import annotations

import pyarrow as pa
import pytest

from mmret.cli.estimate import estimate_cost
from mmret.filters.estimate import estimate_judging
from mmret.hashing import pair_id
from mmret.lake import Lake
from mmret.schemas import TABLES
from mmret.settings import load_profile

IDS = [f"{i:032x}" for i in range(12)]
VISION = {"annotate.vision": {"model": "m", "urls": ["http://localhost:1"], "price_in": 2.0}}
TEACHER, FILTER = {"recipes.demo.teacher": "judge"}, {"recipes.demo.filters": ["judge"]}


def filled(lake: Lake, table: str, rows: list[dict], **notes: int) -> None:
    schema = TABLES[table]
    empty = {field.name: pa.nulls(len(rows), field.type) for field in schema}
    given = {name: pa.array([row[name] for row in rows], schema.field(name).type) for name in rows[0]}
    lake.write(table, "s", pa.table(empty | given, schema), "x", **notes)


@pytest.fixture
def lake(tmp_path):
    lake = Lake(tmp_path / "lake")
    pairs = [{"pair_id": pair_id(*ends), "query_id": ends[0], "target_id": ends[1]} for ends in zip(IDS, IDS[1:], strict=False)]
    filled(lake, "pairs", pairs)
    return lake


def with_triplets(lake: Lake) -> None:
    rows = [
        {
            "pair_id": pair_id(*ends),
            "query_id": ends[0],
            "target_id": ends[1],
            "texts": ["make it blue", "now blue"],
            "hard_negatives": [ends[0], IDS[11]],
            "split": "train" if n < 8 else "test",
        }
        for n, ends in enumerate(zip(IDS, IDS[1:10], strict=False))
    ]
    filled(lake, "triplets", rows, train=8)


@pytest.mark.parametrize(("asks", "a_pair", "a_triplet"), [(TEACHER, 3 * (1 + 5), 2 * 3), (FILTER, 3 + 4, 2 + 1)])
def test_the_judge_of_a_recipe_is_counted_before_there_are_triplets_and_of_them(lake, asks, a_pair, a_triplet):
    profile = load_profile("demo", VISION | asks | {"annotate.instructions_per_pair": 3, "mine.hard_negatives": 5})
    found = estimate_judging(lake, profile)
    assert (found.kind, found.requests, found.stored) == ("candidate", 11 * a_pair, 0) and found.cost > 0
    assert estimate_cost(lake, profile)["kinds"][-1]["to_send"] == 11 * a_pair
    with_triplets(lake)
    assert estimate_judging(lake, profile).requests == 8 * a_triplet
    few = load_profile("demo", VISION | asks | {"recipes.demo.pairs": 2})
    assert estimate_judging(lake, few).requests == 2 * a_triplet


def test_recipes_that_ask_no_judge_cost_none_and_an_empty_lake_none_yet(lake, tmp_path):
    assert estimate_judging(lake, load_profile("demo", VISION)) is None
    assert estimate_judging(Lake(tmp_path / "empty"), load_profile("demo", VISION | TEACHER)).requests == 0
