"""Invariants: a recipe of fewer signals keeps of a pair's hard negatives those that its signals retrieved, and the query
image; with all signals nothing changes."""

import pyarrow as pa

from mmret.lake import Lake
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.rows import COLUMNS, also_reads, keep_negatives, training_rows
from mmret.schemas import NEIGHBOURS
from mmret.settings import EvaluateSettings, LicenceSettings, Recipe

ANY = (LicenceSettings(), EvaluateSettings())


def test_negatives_are_those_the_signals_found(triplets):
    rows = triplets.select(COLUMNS)
    pairs = [(r["query_id"], n) for r in rows.to_pylist() for n in r["hard_negatives"][1:]]
    found = pa.table({"query_id": [q for q, _ in pairs[::2]], "target_id": [t for _, t in pairs[::2]]})
    kept = keep_negatives(rows, found)
    there = set(zip(found["query_id"].to_pylist(), found["target_id"].to_pylist(), strict=True))
    lost = 0
    for before, after in zip(rows.to_pylist(), kept.to_pylist(), strict=True):
        query, mined = before["query_id"], before["hard_negatives"][1:]
        assert after["hard_negatives"] == [query, *(n for n in mined if (query, n) in there)]
        lost += len(before["hard_negatives"]) - len(after["hard_negatives"])
        assert {k: v for k, v in before.items() if k != "hard_negatives"} == {
            k: v for k, v in after.items() if k != "hard_negatives"
        }
    assert lost > 10


def test_a_lake_gives_a_recipe_the_rows_of_its_signals(triplets, tmp_path):
    lake = Lake(tmp_path)
    lake.write("triplets", "shard-00000", triplets, "x")
    first = triplets.to_pylist()[0]
    neighbours = [
        {
            "query_id": first["query_id"],
            "signal": signal,
            "target_id": target,
            "score": 0.9,
            "rank": None if above else 0,
            "above_band": above,
        }
        for target, signal, above in zip(
            [*first["hard_negatives"][1:], "x", "y", "z"],
            ["caption", "dino_image", "caption"] * 3,
            [False, False, True] * 3,
            strict=False,
        )
    ]
    lake.write("neighbours", "shard-00000", pa.Table.from_pylist(neighbours, NEIGHBOURS), "x")
    assert training_rows(lake, Recipe(), *ANY).equals(triplets.select(COLUMNS))
    rows = training_rows(lake, Recipe(signals=("caption",)), *ANY)
    inside = {n["target_id"] for n in neighbours if n["signal"] == "caption" and not n["above_band"]}
    for row in rows.to_pylist():
        mined = row["hard_negatives"][1:]
        assert set(mined) <= (inside if row["query_id"] == first["query_id"] else set())
    assert len(TrainingSet(rows, Recipe(signals=("caption",), batch_size=4)).of["composed"].mined) <= len(inside)


def test_tables_that_decide_on_the_rows_are_named():
    apart = LicenceSettings(share_alike="apart")
    assert also_reads(Recipe()) == also_reads(Recipe(), LicenceSettings()) == ()
    assert also_reads(Recipe(), apart) == also_reads(Recipe(licence_set="unknown")) == ("images",)
    assert also_reads(Recipe(signals=("caption",)), apart) == ("neighbours", "images")
    naive = Recipe(pair_source="naive", negatives="query", pairs=3)
    assert also_reads(naive) == also_reads(naive, apart) == ("images",)
