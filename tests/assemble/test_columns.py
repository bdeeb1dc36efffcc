"""Invariant: every column of a triplet is that of its own pair, picture and text; a pair that became none has the first reason."""

from __future__ import annotations

import pyarrow as pa
import pytest

from mmret.assemble.stage import assemble_shard
from mmret.assemble.triplets import assemble
from mmret.curation.licences import MAIN, licence_set, licence_sets, read_licence
from mmret.curation.split import split_of
from mmret.lake import Lake
from mmret.schemas import CORPUS_MANIFEST, DESCRIPTIONS, IMAGES_INDEX, INSTRUCTIONS, PAIRS, TRIPLETS
from mmret.settings import EvaluateSettings, LicenceSettings
from tests.mine.lakes import filled

SETTINGS = EvaluateSettings(held_out=0.5)


def tables() -> dict[str, pa.Table]:
    """Pairs in reverse order; of the second query two; no rows for p4, no instruction for p3, an empty description for p5."""
    names = [f"p{n}" for n in (5, 4, 3, 2, 1, 0)]
    queries, targets = ["q5", "q4", "q3", "q1", "q1", "q0"], ["t5", "t4", "t3", "t2", "t1", "t0"]
    described = ["p0", "p1", "p2", "p3", "p5"]
    return {
        "pairs": filled(PAIRS, {
            "pair_id": names, "query_id": queries, "target_id": targets, "signals": [["caption"], ["dino_image"]] * 3,
            "hard_negatives": [[f"n{n}"] for n in names],
        }),
        "descriptions": filled(DESCRIPTIONS, {
            "pair_id": described, "model": [f"describer of {n}" for n in described], "text": ["x"] * 5,
            "status": ["ok", "ok", "ok", "ok", "failed"],
        }),
        "instructions": filled(INSTRUCTIONS, {
            "pair_id": ["p5", *described[:3]], "model": [f"writer of {n}" for n in ["p5", *described[:3]]],
            "texts": [["five"], ["zero"], ["one", "uno"], ["two"]], "status": ["ok"] * 4,
        }),
        "images": pa.table({
            "image_id": [*queries[:4], "q0", *targets[:5]],
            "path": [f"path of {n}" for n in [*queries[:4], "q0", *targets[:5]]],
            "licence": pa.array([f"licence of {n}" if n != "t1" else None for n in [*queries[:4], "q0", *targets[:5]]]),
        }),
    }  # fmt: skip


def test_a_triplet_has_the_texts_makers_paths_and_licences_of_its_own_pair_sorted_by_query_and_pair():
    made = tables()
    rows, left_out = assemble(made["pairs"], made["descriptions"], made["instructions"], made["images"], SETTINGS)
    assert rows.schema == TRIPLETS and left_out == {"no_description": 2, "no_instructions": 1, "unknown_image": 1}
    assert rows.select(["pair_id", "query_id", "target_id", "texts", "hard_negatives", "signals"]).to_pylist() == [
        {"pair_id": "p1", "query_id": "q1", "target_id": "t1", "texts": ["one", "uno"], "hard_negatives": ["q1", "np1"],
         "signals": ["caption"]},
        {"pair_id": "p2", "query_id": "q1", "target_id": "t2", "texts": ["two"], "hard_negatives": ["q1", "np2"],
         "signals": ["dino_image"]},
    ]  # fmt: skip
    first, second = rows.to_pylist()
    assert (first["description_model"], first["instruction_model"]) == ("describer of p1", "writer of p1")
    assert (first["query_path"], first["target_path"]) == ("path of q1", "path of t1")
    assert [r["licence"] for r in (first, second)] == ["licence of q1 | unknown", "licence of q1 | licence of t2"]
    assert {r["split"] for r in (first, second)} == {split_of("q1", SETTINGS)}


def test_the_stage_notes_how_many_train_are_held_out_and_were_left_out_and_measures_only_where_there_are_rows(tmp_path):
    lake, made, measured = Lake(tmp_path), tables(), []
    for name, table in made.items():
        if name != "images":
            lake.write(name, "shard-00000", table, "x", **({"linked_shards": ["shard-00000"]} if name == "pairs" else {}))
    images = made["images"]
    columns = {c: images[c].to_pylist() for c in images.column_names} | {"shard": ["shard-00000"] * images.num_rows}
    lake.write("images", "shard-00000", filled(IMAGES_INDEX, columns), "x")
    lake.write("corpus_manifest", "shard-00000", filled(CORPUS_MANIFEST, {"shard": ["shard-00000"]}), "x")

    def measure(rows: pa.Table) -> dict[str, int]:
        measured.append(rows.num_rows)
        return {"seen": rows.num_rows}

    for held_out in (0.0, 0.999):
        notes = assemble_shard(lake, "shard-00000", EvaluateSettings(held_out=held_out), "inputs", measure).notes
        assert (notes["train"], notes["test"]) == ((2, 0) if held_out == 0 else (0, 2)) and notes["quality"] == {"seen": 2}
        assert notes["left_out"] == {"no_description": 2, "no_instructions": 1, "unknown_image": 1}
    lake.write("descriptions", "shard-00000", DESCRIPTIONS.empty_table(), "x")
    notes = assemble_shard(lake, "shard-00000", SETTINGS, "inputs", measure).notes
    assert measured == [2, 2] and "quality" not in notes and notes["left_out"] == {"no_description": 6}
    assert "quality" not in assemble_shard(lake, "shard-00000", SETTINGS, "inputs").notes


@pytest.mark.parametrize("text, terms", [
    ("MIT AND GPL-3.0-only", {"share_alike"}), ("CC-BY-SA-4.0 OR CC-BY-NC-4.0", set()),
    ("CC-BY-NC-SA-4.0 OR CC-BY-NC-4.0", {"non_commercial"}), ("CC BY-ND 4.0", {"no_derivatives"}),
])  # fmt: skip
def test_a_choice_of_licences_asks_for_what_all_of_them_ask_and_a_sum_for_what_any_does(text, terms):
    assert set(read_licence(text).terms) == terms


def test_the_strictest_term_that_is_kept_apart_names_the_set_and_terms_that_are_kept_name_none():
    both = "CC BY-NC-SA 4.0"
    assert licence_set(both, LicenceSettings(share_alike="apart", non_commercial="apart")) == "non_commercial"
    assert licence_set(both, LicenceSettings(share_alike="apart")) == "share_alike"
    assert licence_set(both, LicenceSettings(share_alike="apart", non_commercial="exclude")) is None
    assert licence_set(both, LicenceSettings(unknown="exclude", no_derivatives="exclude")) == MAIN
    assert licence_set("CC0 | CC BY-NC 4.0", LicenceSettings(exclude=("CC-BY-NC-4.0",))) is None
    assert licence_set("CC BY 4.0", LicenceSettings(exclude=("CC-BY-NC*",))) == MAIN


def test_negatives_excluded_by_licence_are_dropped_from_every_set_and_counted():
    texts = ["CC0", "CC BY-SA 4.0"]
    columns = {"pair_id": ["0", "1"], "licence": texts, "hard_negatives": [["q", "free", "nc"]] * 2}
    rows = filled(TRIPLETS, columns)
    images = pa.table({"image_id": ["q", "free", "nc"], "licence": ["CC BY-NC 4.0", "CC0", "CC BY-NC 4.0"]})
    found = licence_sets(rows, LicenceSettings(share_alike="apart", non_commercial="exclude"), images)
    assert [t["hard_negatives"].to_pylist() for t in found.sets.values()] == [[["q", "free"]]] * 2 and found.dropped_negatives == 2
    assert list(found.sets) == [MAIN, "share_alike"] and found.excluded == {}
    assert licence_sets(rows, LicenceSettings(share_alike="exclude")).excluded == {"CC BY-SA 4.0": 1}
