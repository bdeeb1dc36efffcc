"""What the page shows is what the tables hold; free SQL can read the lake and nothing else, and change nothing."""

import itertools
import shutil
import time

import pytest

from mmret.curation.decisions import DecisionLog
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.schemas import SIGNALS
from mmret.web import tables as module
from mmret.web.browse import Filters, by_id, choices, count, page
from mmret.web.lineage import lineage
from mmret.web.pictures import SIDES, Thumbnails, url
from mmret.web.tables import Tables, run_query


@pytest.fixture(scope="module")
def tables(small_lake) -> Tables:
    return Tables(Lake(small_lake[0]))


@pytest.fixture
def own(small_lake, tmp_path) -> Tables:
    shutil.copytree(small_lake[0], tmp_path / "lake")
    return Tables(Lake(tmp_path / "lake"))


def everything(tables: Tables, filters: Filters, size: int = 37) -> list[dict]:
    pages = (page(tables, filters, n, size) for n in itertools.count())
    return list(itertools.chain.from_iterable(itertools.takewhile(bool, pages)))


def test_the_pages_together_are_the_table_in_its_order(tables):
    rows = tables.lake.read("triplets").to_pylist()
    shown = everything(tables, Filters())
    assert [{k: r[k] for k in rows[0]} for r in shown] == rows and count(tables, Filters()) == len(rows)
    captions = dict(zip(*(tables.lake.read("images")[c].to_pylist() for c in ("image_id", "caption")), strict=True))
    scores = {r["pair_id"]: r for r in tables.lake.read("pairs").to_pylist()}
    for row in shown:
        assert (row["query_caption"], row["target_caption"]) == (captions[row["query_id"]], captions[row["target_id"]])
        assert all(row[f"{s}_score"] == scores[row["pair_id"]][f"{s}_score"] for s in SIGNALS)


@pytest.mark.parametrize(
    ("filters", "holds"),
    [
        (Filters(split="test"), lambda r: r["split"] == "test"),
        (Filters(shard="shard-00001"), lambda r: r["shard"] == "shard-00001"),
        (Filters(signal="caption"), lambda r: "caption" in r["signals"]),
        (
            Filters(text="CIRCLE"),
            lambda r: any("circle" in t.lower() for t in (*r["texts"], r["query_caption"], r["target_caption"])),
        ),
        (Filters(text="100%' OR 1=1 --"), lambda r: False),
        (
            Filters(scores={"caption": (0.5, 0.9)}, signal="dino_image"),
            lambda r: "dino_image" in r["signals"] and r["caption_score"] is not None and 0.5 <= r["caption_score"] <= 0.9,
        ),
        (Filters(licences=("none such",)), lambda r: False),
        (Filters(decision="undecided"), lambda r: True),
    ],
)
def test_a_filter_shows_exactly_what_fits(tables, filters, holds):
    wanted = [r["pair_id"] for r in everything(tables, Filters()) if holds(r)]
    assert [r["pair_id"] for r in everything(tables, filters)] == wanted and count(tables, filters) == len(wanted)


def test_an_order_is_total_and_pages_do_not_overlap(tables):
    shown = everything(tables, Filters(order="-caption"), size=11)
    scores = [r["caption_score"] for r in shown if r["caption_score"] is not None]
    assert scores == sorted(scores, reverse=True) and len({r["pair_id"] for r in shown}) == len(shown) == count(tables, Filters())


def test_decisions_show_at_once_and_filter(own):
    ids = [r["pair_id"] for r in page(own, Filters(), 0, 5)]
    log = DecisionLog(own.lake, "ann")
    log.add(ids[:2], "rejected")
    log.add(ids[2:3], "accepted")
    assert [r["decision"] for r in page(own, Filters(), 0, 5)] == ["rejected", "rejected", "accepted", None, None]
    assert [r["pair_id"] for r in everything(own, Filters(decision="rejected"))] == ids[:2]
    assert count(own, Filters(decision="undecided")) == count(own, Filters()) - 3
    log.add(ids[:1], "withdrawn")
    assert page(own, Filters(), 0, 1)[0]["decision"] is None
    assert [h["decision"] for h in lineage(own, ids[0])["history"]] in ([], ["rejected", "withdrawn"])  # as of when it was opened


def test_a_changed_lake_is_seen(own, monkeypatch):
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.0)
    before = count(own, Filters())
    shard = own.lake.partitions("triplets")[0]
    own.lake.write("triplets", shard, own.lake.read("triplets", shard).slice(5), "x")
    assert count(own, Filters()) == before - 5


def test_lineage_is_what_the_tables_say(tables):
    row = page(tables, Filters(), 0, 1)[0]
    found = lineage(tables, row["pair_id"])
    description = [r for r in tables.lake.read("descriptions").to_pylist() if r["pair_id"] == row["pair_id"]][0]
    assert found["description"]["text"] == description["text"] and found["description"]["model"] == description["model"]
    assert found["instruction"]["texts"] == row["texts"] and set(found["encoders"]) == set(SIGNALS)
    assert [n["image_id"] for n in found["negatives"]] == [i for i in row["hard_negatives"] if i != row["query_id"]]
    assert lineage(tables, "0" * 32) is None and by_id(tables, "' OR 1=1 --") is None


def test_choices_are_what_the_filters_can_find(tables):
    found = choices(tables)
    assert found["shards"] == tables.lake.partitions("triplets")
    for texts, n in found["licences"].values():
        assert count(tables, Filters(licences=texts)) == n
    for signal, bounds in found["scores"].items():
        assert (
            count(tables, Filters(scores={signal: bounds}))
            == tables.rows(f"SELECT count(*) AS n FROM triplets JOIN pairs USING (pair_id) WHERE {signal}_score IS NOT NULL")[0][
                "n"
            ]
        )


def test_free_sql_chooses_pairs_in_its_own_order(tables):
    answer = run_query(tables, "SELECT pair_id FROM triplets ORDER BY pair_id DESC", 50)
    ids = answer.pair_ids()
    assert answer.more and len(ids) == 50 and list(ids) == sorted(ids, reverse=True)
    assert [r["pair_id"] for r in everything(tables, Filters(pair_ids=ids))] == list(ids)
    assert count(tables, Filters(pair_ids=(*ids, "none such"))) == 50
    assert run_query(tables, "SELECT count(*) AS n FROM images", 5).pair_ids() is None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('{lake}/../outside.txt')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM '/etc/passwd'",
        "COPY (SELECT 1) TO '{lake}/x.csv'",
        "SELECT 1; SELECT 2",
        "SET memory_limit = '90GB'",
        "SET enable_external_access = true",
        "ATTACH '{lake}/x.db'",
        "INSTALL httpfs",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW triplets",
        "SELECT * FROM tables",
        "SELECT nosuch FROM triplets",
        "",
        "SELECT * FROM read_parquet('https://127.0.0.1:1/x.parquet')",
    ],
)
def test_free_sql_reads_the_lake_and_nothing_else(own, tmp_path, sql):
    (tmp_path / "outside.txt").write_text("secret")
    before = sorted(p.name for p in own.lake.root.iterdir())
    with pytest.raises(UserError, match="SQL"):
        run_query(own, sql.replace("{lake}", str(own.lake.root)), 10)
    assert sorted(p.name for p in own.lake.root.iterdir()) == before and count(own, Filters())


def test_a_query_that_would_take_for_ever_is_stopped(tables, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(UserError, match="stopped after"):
        run_query(tables, "SELECT count(*) FROM triplets a, triplets b, triplets c, triplets d", 10)
    assert time.monotonic() - started < 60 and count(tables, Filters())


def test_thumbnails_are_made_of_pictures_only(tables):
    thumbnails = Thumbnails(tables.lake)
    image_id = tables.lake.read("images")["image_id"][0].as_py()
    assert thumbnails.get(image_id, SIDES[0]).startswith(b"\xff\xd8")
    for bad in ("0" * 32, "../../etc/passwd", "x' OR 1=1 --", ""):
        assert thumbnails.get(bad, SIDES[0]) is None
    assert thumbnails.get(image_id, 99_999) is None


def test_a_picture_that_is_not_there_yet_is_found_once_it_is(tables, monkeypatch):
    thumbnails, image_id = Thumbnails(tables.lake), tables.lake.read("images")["image_id"][0].as_py()
    with monkeypatch.context() as patched:
        patched.setattr("mmret.web.pictures.images_by_id", lambda lake, ids: {})
        assert thumbnails.get(image_id, SIDES[0]) is None
    assert thumbnails.get(image_id, SIDES[0]).startswith(b"\xff\xd8")
    assert url("a' onerror=") == f"/pictures/none/{SIDES[0]}"
