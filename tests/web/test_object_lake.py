"""The page over a lake in an object store: what it shows, that free SQL stays inside, and that decisions are seen by others."""

import shutil

import pytest

from mmret.curation.decisions import DecisionLog
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.web.browse import Filters, count, page
from mmret.web.lineage import lineage
from mmret.web.pictures import SIDES, Thumbnails
from mmret.web.tables import Tables, run_query
from tests.storage.copies import copy_lake
from tests.storage.stores import in_memory

pytest.importorskip("obstore", reason="object stores need the extra 'object-store'")


@pytest.fixture
def local(small_lake, tmp_path) -> Lake:
    return Lake(shutil.copytree(small_lake[0], tmp_path / "local"))


@pytest.fixture
def lake(local, monkeypatch, tmp_path) -> Lake:
    in_memory(monkeypatch, tmp_path)
    return copy_lake(local, Lake("s3://bucket/demo"))


def test_it_shows_what_it_shows_of_a_folder(lake, local):
    ours, theirs = Tables(lake), Tables(local)
    for filters in (Filters(), Filters(text="circle", order="-caption"), Filters(shard="shard-00001", signal="caption")):
        assert page(ours, filters) == page(theirs, filters) and count(ours, filters) == count(theirs, filters)
    first = page(ours, Filters())[0]
    assert lineage(ours, first["pair_id"]) == lineage(theirs, first["pair_id"])
    assert Thumbnails(lake).get(first["query_id"], SIDES[0]) == Thumbnails(local).get(first["query_id"], SIDES[0]) is not None


def test_free_sql_reads_the_lake_and_nothing_else(lake, local):
    tables = Tables(lake)
    assert run_query(tables, "SELECT count(*) FROM triplets", 5).rows[0][0] > 0
    assert run_query(tables, f"SELECT count(*) FROM read_parquet('{lake.address}/triplets/*.parquet')", 5).rows[0][0] > 0
    for place in (f"{local.root}/triplets/*.parquet", "/etc/passwd", "s3://bucket/demo-2/x.parquet", "s3://other/x.parquet"):
        with pytest.raises(UserError, match="disabled by configuration|objects of this lake only"):
            run_query(tables, f"SELECT * FROM read_parquet('{place}')", 5)
    with pytest.raises(UserError, match="disabled by configuration|objects of this lake only"):
        run_query(tables, "SELECT * FROM read_text('s3://bucket/demo/../../other/lake.yaml')", 5)


def test_decisions_are_kept_in_the_store_and_seen_by_every_page(lake):
    tables = Tables(lake)
    chosen = [row["pair_id"] for row in page(tables, Filters())[:2]]
    DecisionLog(lake, "one").add(chosen[:1], "accepted")
    DecisionLog(Lake(lake.address), "two").add(chosen[1:], "rejected")
    for each in (tables, Tables(Lake(lake.address))):
        assert {r["pair_id"]: r["decision"] for r in page(each, Filters())[:2]} == dict(
            zip(chosen, ("accepted", "rejected"), strict=True)
        )
