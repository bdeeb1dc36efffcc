"""Vectors by row: those that reading the whole shards gives, in any order and from any shard; what is missing or zero is named."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mmret.encode.vectors import VectorRows, read_vectors
from mmret.errors import UserError
from mmret.lake import Lake
from tests.mine.corpora import clustered
from tests.mine.lakes import MODEL, add_shard

SIGNAL = "clip_image"
SHARDS = ("shard-00000", "shard-00001", "shard-00002")


def names(shard: str, count: int = 40) -> list[str]:
    return [f"{shard[-1]}-{n}" for n in range(count)]


@pytest.fixture
def lake(tmp_path) -> Lake:
    made = Lake(tmp_path)
    for at, shard in enumerate(SHARDS):
        add_shard(made, shard, names(shard), {SIGNAL: clustered(40, 16, at)})
    return made


def rows_of(lake: Lake, wanted: list[tuple[str, str]]) -> VectorRows:
    ids, shards = (pa.array(column, pa.string()) for column in zip(*wanted, strict=True))
    return VectorRows(lake, SIGNAL, ids, shards)


def test_rows_equal_those_of_whole_shards_in_any_order(lake):
    whole = {(shard, name): v for shard in SHARDS for name, v in zip(*read_vectors(lake, shard, SIGNAL), strict=True)}
    wanted = [(name, shard) for shard in SHARDS for name in names(shard)]
    some = [wanted[at] for at in np.random.default_rng(0).permutation(len(wanted))[:70]]
    rows, at = rows_of(lake, some), np.random.default_rng(1).permutation(70)[:33]
    expected = np.stack([whole[some[i][1], some[i][0]] for i in at])
    assert rows.take(at).dtype == np.float16 and np.array_equal(rows.take(at), expected)
    assert rows.take(np.zeros(0, np.int64)).shape == (0, 16)


def test_a_row_of_another_shard_or_model_is_not_taken_for_it(lake):
    other = clustered(1, 16, 9)
    add_shard(lake, "shard-00003", ["0-1"], {SIGNAL: other}, model=MODEL)
    add_shard(lake, "shard-00004", ["0-1"], {SIGNAL: clustered(1, 16, 8)}, model="another@1+none")
    mine = read_vectors(lake, SHARDS[0], SIGNAL)[1][1]
    assert np.array_equal(rows_of(lake, [("0-1", SHARDS[0])]).take(np.array([0]))[0], mine)
    assert np.array_equal(rows_of(lake, [("0-1", "shard-00003")]).take(np.array([0])), other)
    with pytest.raises(UserError, match="of different models"):
        rows_of(lake, [("0-1", SHARDS[0]), ("0-1", "shard-00004")])


def test_rows_are_found_beyond_as_many_shards_as_a_filter_names(lake, monkeypatch):
    monkeypatch.setattr("mmret.encode.vectors._MOST_NAMED", 1)
    wanted = [("0-3", SHARDS[0]), ("2-5", SHARDS[2])]
    expected = np.stack([read_vectors(lake, shard, SIGNAL)[1][int(name[2:])] for name, shard in wanted])
    assert np.array_equal(rows_of(lake, wanted).take(np.arange(2)), expected)


def test_rows_that_are_gone_or_no_unit_vectors_are_named(lake):
    lake.lance(SIGNAL).delete("image_id = '1-7'")
    with pytest.raises(UserError, match=r"1 of 40 vectors of clip_image, shard-00001 are gone from the lake \(1-7"):
        rows_of(lake, [("0-3", SHARDS[0]), ("1-7", SHARDS[1])])
    with pytest.raises(UserError, match="shard-00009 has no vectors of clip_image yet"):
        rows_of(lake, [("9-7", "shard-00009")])
    bad = clustered(2, 16, 3)
    bad[1] = 0
    add_shard(lake, "shard-00003", ["x", "y"], {SIGNAL: bad})
    rows = rows_of(lake, [("x", "shard-00003"), ("y", "shard-00003")])
    assert np.array_equal(rows.take(np.array([0])), bad[:1])
    with pytest.raises(UserError, match=r"vectors of clip_image, shard-00003 are no unit vectors \(y has"):
        rows.take(np.array([1, 0]))
