"""Where people misread MMEB: each rule of the official code that is easy to get wrong, pinned."""

from __future__ import annotations

import pytest

from mmret.benchmarks.mmeb.scorer import aggregate, published_sets

from .conftest import dump, load
from .layouts import (
    mmeb,
    mmeb_predictions,
)


def test_mmeb_means_are_over_sets_not_over_meta_tasks(call, tmp_path):
    values = call(
        "mmeb",
        "--annotations",
        mmeb(tmp_path),
        "--predictions",
        dump(tmp_path / "p.json", mmeb_predictions()),
        "--json",
    ).json
    assert values["sets"] == {"ImageNet-1K": 25, "N24News": 50, "ImageNet-A": 75, "GQA": 100}
    assert values["meta"] == {"classification": 50, "vqa": 100}
    assert (values["IND"], values["OOD"], values["overall"]) == (37.5, 87.5, 62.5)


def test_mmeb_a_subset_of_the_sets_is_scored_and_called_partial(golden, call, tmp_path):
    lists = dump(tmp_path / "p.json", {"ImageNet-1K": [[0]] * 1000, "SUN397": [[1]] * 1000})
    answer = call("mmeb", "--annotations", golden / "mmeb", "--predictions", lists, "--json")
    assert answer.json == {
        "sets": {"ImageNet-1K": 100, "SUN397": 0},
        "meta": {"classification": 50},
        "IND": 50,
        "OOD": None,
        "overall": 50,
    }
    assert "partial: 2 of 36 sets" in answer.err


def test_mmeb_published_aggregates_that_contradict_their_own_rows_do_not_come_out(golden):
    table = load(golden / "mmeb" / "paper_table6.json")
    names = {"Overall": "overall", "IND": "IND", "OOD": "OOD"}
    for model, column, published, recomputed in table["published_vs_recomputed_gt_0.06"]:
        values = aggregate(table["per_dataset"][model])
        ours = values[names[column]] if column in names else values["meta"][column.lower()]
        assert ours == pytest.approx(recomputed, abs=1e-3) and abs(ours - published) > 0.06


def test_mmeb_number_of_queries_is_read_from_the_parquet_files_not_assumed(call, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "N24News").mkdir()
    pq.write_table(
        pa.table({"qry_text": ["a", "b"], "tgt_text": [["x", "y"], ["x", "y", "z"]]}),
        tmp_path / "N24News" / "test.parquet",
    )
    arguments = ("mmeb", "--annotations", tmp_path, "--json", "--predictions")
    assert call(*arguments, dump(tmp_path / "p.json", {"N24News": [[0, 1], [2, 0]]})).json["sets"] == {"N24News": 50}
    assert "do not exist" in call(*arguments, dump(tmp_path / "q.json", {"N24News": [[2], [0]]})).err
    assert "3 rankings for the 2 queries" in call(*arguments, dump(tmp_path / "r.json", {"N24News": [[0]] * 3})).err
    assert "1 rankings for the 2 queries" in call(*arguments, dump(tmp_path / "s.json", {"N24News": [[0]]})).err


def test_mmeb_prompts_are_the_published_ones_with_their_spelling(golden):
    import yaml

    from mmret.benchmarks.mmeb.scorer import PROTOCOL

    ours = yaml.safe_load(PROTOCOL.read_text())["sets"]
    for task in load(golden / "mmeb" / "tasks.json"):
        entry = ours[task["dataset"]]
        assert entry["query_instruction"] == task["query_instruction"]
        assert entry["target_instruction"] == task["target_instruction"]
        assert (entry["query"], entry["target"]) == (
            task["query_modality"].replace("+", ""),
            task["target_modality"].replace("+", ""),
        )
    assert "to to" in ours["MSCOCO"]["query_instruction"]
    assert len(published_sets()) == 36
