"""Shrinking and growing again: shards stay sealed, no row is lost, and the corpus is the one that was asked for."""

import pytest

from mmret.errors import UserError
from mmret.ingest.stage import ingest_shard, seal_corpus
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from tests.assets.pictures import drop


@pytest.fixture
def sources(tmp_path):
    """Two folders of six pictures; the first picture of the second is also the last of the first."""
    drop(tmp_path / "a", 0, 6)
    drop(tmp_path / "b", 5, 11)
    return str(tmp_path / "a"), str(tmp_path / "b")


def sealed(lake: Lake, **choice) -> dict[str, dict]:
    """What asset corpus_manifest does; all rows by path, and which shards were written."""
    settings, choices = resolve(lake, **choice)
    lake.write_configuration(choices)
    before = {shard: lake.facts("corpus_manifest", shard).written for shard in lake.shards()}
    done = seal_corpus(lake, settings, "x")
    touched = [shard for shard in lake.shards() if lake.facts("corpus_manifest", shard).written != before.get(shard)]
    assert (done.changed_shards, done.rows) == (
        len(before.keys() & set(touched)),
        sum(lake.facts("corpus_manifest", shard).rows for shard in touched if shard not in before),
    )
    rows = {(r["root"], r["path"]): r for r in lake.read("corpus_manifest").to_pylist()}
    return {"rows": rows, "touched": touched, "taken": {p for (_, p), r in rows.items() if r["reason"] is None}}


def test_a_removed_source_leaves_its_rows_with_the_reason_and_its_duplicates_step_in(tmp_path, sources):
    lake, (a, b) = Lake(tmp_path / "lake"), sources
    first = sealed(lake, sources=sources, shard_size=4)
    assert len(first["rows"]) == 12 and len(first["taken"]) == 11
    assert first["rows"][b, "0000005.png"]["reason"] == "duplicate"
    gone = sealed(lake, remove=[a])
    assert {r["reason"] for (root, _), r in gone["rows"].items() if root == a} == {"source_removed"}
    assert gone["rows"][b, "0000005.png"]["reason"] is None, "the picture is still in a source that is taken"
    assert gone["touched"] == ["shard-00000", "shard-00001"] and len(gone["rows"]) == 12
    assert sealed(lake)["touched"] == []
    back = sealed(lake, sources=[a])
    assert back["rows"] == first["rows"] and back["touched"] == ["shard-00000", "shard-00001"]


def test_a_lower_limit_leaves_the_last_rows_out_and_a_higher_one_takes_them_again(tmp_path, sources):
    lake = Lake(tmp_path / "lake")
    first = sealed(lake, sources=sources, shard_size=4)
    lower = sealed(lake, overrides={"corpus.images": 9})
    assert lower["touched"] == ["shard-00002"]
    assert [r["reason"] for r in lower["rows"].values()].count("beyond_limit") == 3 and len(lower["rows"]) == 12
    assert sealed(lake)["touched"] == []
    assert sealed(lake, overrides={"corpus.images": None})["rows"] == first["rows"]
    drop(tmp_path / "b", 11, 13)
    assert len(sealed(lake)["rows"]) == 14, "new rows are sealed as ever"


def test_a_limit_counts_only_sources_that_are_taken(tmp_path, sources):
    lake, (a, _) = Lake(tmp_path / "lake"), sources
    assert len(sealed(lake, sources=sources, shard_size=4, overrides={"corpus.images": 8})["taken"]) == 7
    less = sealed(lake, remove=[a])
    assert less["taken"] == {f"{i:07d}.png" for i in range(5, 11)}


def test_every_row_is_still_an_image_or_a_reject(tmp_path, sources):
    lake, (a, _) = Lake(tmp_path / "lake"), sources
    for choice in ({"sources": sources, "shard_size": 4}, {"remove": [a]}, {"sources": [a]}):
        found = sealed(lake, **choice)
        for shard in lake.shards():
            ingest_shard(lake, shard, resolve(lake)[0].ingest, "")
        images, rejects = lake.read("images"), lake.read("rejects")
        assert images.num_rows + rejects.num_rows == 12
        assert set(images["path"].to_pylist()) == found["taken"]


def test_a_source_that_is_not_there_or_is_the_last_is_not_removed(tmp_path, sources):
    lake, (a, b) = Lake(tmp_path / "lake"), sources
    sealed(lake, sources=[a])
    with pytest.raises(UserError, match="has no source"):
        resolve(lake, remove=[b])
    with pytest.raises(UserError, match="needs a source"):
        resolve(lake, remove=[a])
