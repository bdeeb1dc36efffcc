"""Invariants: a Lance table opens only with the columns and types it was made with; columns that were added to the schema later
are added to it, as nulls and without writing a row; an older lake reads, grows and compacts as before."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmret.errors import UserError
from mmret.ingest.pictures.images import read_images
from mmret.ingest.seal import seal
from mmret.ingest.stage import ingest_shard
from mmret.lake import Lake, history
from mmret.lake.as_of import LakeAsOf
from mmret.lake.compact import compact
from mmret.schemas import IMAGES, vectors
from mmret.settings import CorpusSettings, HistorySettings, IngestSettings
from mmret.warehouse import connect, refresh_catalogue
from tests.ingest.files import captioned, jpeg, png


def test_vectors_of_another_width_or_precision_are_refused_with_what_to_do(tmp_path: Path):
    lake = Lake(tmp_path)
    lake.lance("clip_image", vectors(8))
    for other in (vectors(16), pa.schema([*list(vectors(8))[:-1], ("vector", pa.list_(pa.float32(), 8))])):
        with pytest.raises(
            UserError, match="vector as .*8.*expected .*another encoder.*delete .*clip_image.lance.*mmret run --lake"
        ):
            lake.lance("clip_image", other)
    assert lake.lance("clip_image", vectors(8)).count_rows() == 0


def test_columns_of_another_name_or_missing_ones_are_refused(tmp_path: Path):
    lake = Lake(tmp_path)
    lake.lance("clip_image", vectors(8))
    for other in (vectors(8).append(pa.field("new", pa.string())), vectors(8).remove(0)):
        with pytest.raises(UserError, match="has columns"):
            lake.lance("clip_image", other)


@pytest.fixture
def older(tmp_path: Path) -> tuple[Lake, Path]:
    """A lake of two pictures as it was before table ``images`` had a column ``remark``."""
    source = captioned(tmp_path / "pictures", {"a.png": png(1), "b.jpg": jpeg(2)})
    lake = Lake(tmp_path / "lake")
    grow(lake, source)
    lake.lance("images").drop_columns(["remark"])
    for path in (lake.path("images", "shard-00000"), *(lake.root / v.key for v in history.versions(lake, "images", "shard-00000"))):
        table = pq.read_table(path)
        path.unlink()
        pq.write_table(table.drop_columns(["remark"]), path)
    return Lake(lake.root), source


def grow(lake: Lake, source: Path) -> None:
    corpus = CorpusSettings(sources=(str(source),), shard_size=4)
    for shard, rows in seal(lake, corpus, IngestSettings()):
        lake.write("corpus_manifest", shard, rows, "x")
    for shard in lake.shards():
        ingest_shard(lake, shard, IngestSettings(), "x")


def test_an_older_lake_reads_as_before_with_nulls(older: tuple[Lake, Path]):
    lake, _ = older
    assert lake.read("images")["remark"].to_pylist() == [None, None]
    assert lake.read("images", columns=["remark", "image_id"])["remark"].to_pylist() == [None, None]  # asked for by name too
    assert lake.read("images", columns=["path"])["path"].to_pylist() == ["a.png", "b.jpg"]
    assert [len(batch) for batch in read_images(lake, "shard-00000")] == [2]
    then = LakeAsOf(lake, history.current_state(lake))
    assert then.read("images")["remark"].to_pylist() == [None, None]
    with connect(lake) as con:
        assert con.execute("SELECT count(*), count(remark) FROM images").fetchone() == (2, 0)


def test_an_older_lake_grows_and_what_it_has_is_not_read_again_nor_becomes_another_table(older: tuple[Lake, Path]):
    lake, source = older
    digest = lake.facts("images", "shard-00000").digest
    (source / "a.png").unlink()  # stored already
    assert ingest_shard(lake, "shard-00000", IngestSettings(), "y")["computed"] == 0
    assert lake.facts("images", "shard-00000").digest == digest
    assert set(lake.lance("images").schema.names) == set(IMAGES.names)
    captioned(source, {"a.png": png(1), "b.jpg": jpeg(2), "cut.jpg": jpeg(3)[:-2]})
    grow(lake, source)
    assert lake.read("images")["remark"].to_pylist() == [None, None, "no_end_mark"]
    assert lake.facts("images", "shard-00000").digest == digest
    with connect(lake) as con:
        assert con.execute("SELECT path FROM images WHERE remark = 'no_end_mark'").fetchall() == [("cut.jpg",)]
    compact(lake, HistorySettings(), time.time_ns(), refresh_catalogue)
    found = [row for shard in lake.shards() for batch in read_images(lake, shard) for row in batch.to_pylist()]
    assert [row["data"] for row in found] == [png(1), jpeg(2), jpeg(3)[:-2]]
    grow(lake, source)
    assert lake.read("images").num_rows == 3


def test_two_processes_may_add_the_column_at_once(older: tuple[Lake, Path]):
    lake, _ = older
    first, second = lake._lance.open_table("images"), lake._lance.open_table("images")
    assert "remark" in lake._fitted(first, "images", IMAGES).schema.names
    assert "remark" in lake._fitted(second, "images", IMAGES).schema.names
