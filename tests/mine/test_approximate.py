"""Invariants: what the index finds are true edges with exact scores, and nearly all there are; near-duplicates do not crowd
the band out; another model's rows and later shards stay out; recall counts exactly what is missing; below the set size
mining stays exact."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pytest

from mmret.lake import Lake
from mmret.mine.lake_vectors import select_images, shard_vectors
from mmret.mine.recall import exact_lists, in_band_recall, sample
from mmret.mine.stage import lake_recall, mine_candidates, mine_neighbours
from mmret.schemas import SIGNALS
from mmret.settings import IndexSettings, MineSettings
from tests.mine.corpora import BAND, BANDS, brute_force, clustered, image_ids, rows_of, shards
from tests.mine.lakes import add_shard

COUNT, WIDTH, CUTS = 900, 32, [400, 800]


def no_encoder(signal: str):
    raise AssertionError("no band is proposed here")


def world() -> tuple[list[str], dict[str, np.ndarray]]:
    vectors = {s: clustered(COUNT, WIDTH, at, clusters=30, spread=0.9, repeats=0.05) for at, s in enumerate(SIGNALS)}
    vectors["caption"][:80] = vectors["caption"][0]  # more near-duplicates than a search returns
    return image_ids(COUNT), vectors


def options(**index: object) -> MineSettings:
    small = {"kind": "ivf_rq", "from_rows": 1, "partition_rows": 64, "bits": 8, "probes": 8, "checked": 60}
    chosen = IndexSettings(**small | index)
    return MineSettings(k=10, bands=BANDS, index=chosen, tile=64)


def make(lake: Lake, upto: int = 3) -> Lake:
    ids, vectors = world()
    for shard in shards(ids, vectors, CUTS)[:upto]:
        add_shard(lake, shard.shard, shard.ids, shard.vectors)
    return lake


def mine(lake: Lake, settings: MineSettings) -> None:
    for shard in lake.shards():
        mine_candidates(lake, shard, settings, "x", no_encoder)
    for shard in lake.shards():
        mine_neighbours(lake, shard, settings, "x")


@pytest.mark.parametrize("kind", ["ivf_rq", "ivf_pq"])
def test_the_index_finds_true_edges_and_nearly_all_of_them(tmp_path, kind):
    lake, settings = make(Lake(tmp_path)), options(kind=kind)
    mine(lake, settings)
    ids, vectors = world()
    exact = {row[:3]: row for row in brute_force(ids, vectors, COUNT, BANDS)}
    found = rows_of(lake.read("neighbours"))
    assert all(exact[row[:3]][3] == row[3] and exact[row[:3]][5] == row[5] for row in found)
    wanted = {row[:3] for row in brute_force(ids, vectors, settings.k, BANDS) if not row[5]}
    share = len(wanted & {row[:3] for row in found if not row[5]}) / len(wanted)
    assert share > 0.95
    notes = [lake.facts("candidates", s).notes for s in lake.shards()]
    assert [n["index"] for n in notes] == [kind] * 3
    assert all(r > 0.9 for n in notes for r in n["recall"].values())
    assert all(abs(r - share) < 0.1 for r in lake_recall(lake, settings).values())


def test_near_duplicates_do_not_crowd_the_band_out(tmp_path):
    lake, settings = make(Lake(tmp_path), 1), options(fetch=1)
    mine(lake, settings)
    ids, vectors = world()
    copies = set(ids[:80])
    wanted = {
        row[:3]
        for row in brute_force(ids[:400], {"caption": vectors["caption"][:400]}, settings.k, BANDS)
        if row[0] in copies and not row[5]
    }
    found = {row[:3] for row in rows_of(lake.read("neighbours")) if row[1] == "caption" and not row[5]}
    assert len(wanted) > 100 and len(wanted & found) > 0.9 * len(wanted)


def test_later_shards_and_other_models_stay_out(tmp_path):
    before, after = make(Lake(tmp_path / "before"), 2), make(Lake(tmp_path / "after"))
    ids, vectors = world()
    add_shard(
        Lake(tmp_path / "after"),
        "shard-00009",
        [f"other-{i}" for i in ids[:400]],
        {"caption": vectors["caption"][:400]},
        model="tests@2+none",
    )
    (after.root / "corpus_manifest" / "shard-00009.parquet").unlink()
    settings = options()
    for lake in (before, after):
        mine_candidates(lake, "shard-00001", settings, "x", no_encoder)
    edges = after.read("candidates", "shard-00001")
    known = set(ids[:800])
    assert set(edges["query_id"].to_pylist()) | set(edges["target_id"].to_pylist()) <= known
    assert set(edges["query_shard"].to_pylist()) == {"shard-00000", "shard-00001"}


@pytest.mark.parametrize("named", [1000, 0], ids=["in the filter", "afterwards"])
def test_vectors_of_pictures_that_were_removed_or_moved_are_no_targets(tmp_path, monkeypatch, named):
    monkeypatch.setattr("mmret.mine.approximate._MOST_NAMED", named)
    lake, settings = make(Lake(tmp_path), 2), options()
    rows = lake.read("caption", "shard-00000")
    gone, moved = set(rows["image_id"][:30].to_pylist()), rows["image_id"][40].as_py()
    for signal in SIGNALS:
        rows, facts = lake.read(signal, "shard-00000"), lake.facts(signal, "shard-00000")
        left = rows.filter(pc.invert(pc.is_in(rows["image_id"], value_set=rows["image_id"][:41].combine_chunks())))
        lake.write(signal, "shard-00000", left, facts.inputs, **facts.notes)
    mine_candidates(lake, "shard-00001", settings, "x", no_encoder)
    edges = lake.read("candidates", "shard-00001")
    seen = set(edges["query_id"].to_pylist()) | set(edges["target_id"].to_pylist())
    assert len(seen) > 400 and not seen & (gone | {moved})


def test_a_small_corpus_is_searched_exactly(tmp_path):
    lake, settings = make(Lake(tmp_path), 1), options(from_rows=401)
    facts = mine_candidates(lake, "shard-00000", settings, "x", no_encoder)
    assert "index" not in facts.notes and not lake.lance("caption").list_indices()


def test_recall_is_the_share_of_the_exact_lists_that_was_found():
    ids, vectors = world()
    parts = shards(ids, vectors, CUTS)
    settings = MineSettings(k=10, tile=64)
    asked = sample(ids, 50)
    assert asked == sample(reversed(ids), 50) and len(asked) == 50
    (whole,) = shards(ids, vectors)
    exact = exact_lists(select_images(whole, asked), parts, settings, BANDS)
    brute = [row for row in brute_force(ids, vectors, 10, BANDS) if row[0] in set(asked) and not row[5]]
    assert sorted(rows_of(exact)) == sorted(row[:3] for row in brute)
    found = exact.append_column("above_band", pc.equal(exact["signal"], "nothing"))
    assert in_band_recall(found, exact, SIGNALS) == dict.fromkeys(SIGNALS, 1.0)
    some = found.filter(pc.not_equal(found["signal"], "caption"))
    assert in_band_recall(some, exact, SIGNALS) == {"clip_image": 1.0, "dino_image": 1.0, "caption": 0.0}
    half = found.slice(0, 0)
    assert set(in_band_recall(half, exact, SIGNALS).values()) == {0.0}
    assert BAND.high < 1


def test_the_vectors_are_those_of_the_shard(tmp_path):
    lake = make(Lake(tmp_path), 1)
    ids, vectors = world()
    own = shard_vectors(lake, "shard-00000")
    chosen = select_images(own, [ids[7], ids[3]])
    assert chosen.ids == [ids[7], ids[3]] and np.array_equal(chosen.vectors["caption"], vectors["caption"][[7, 3]])


def test_the_asset_check_fails_where_too_little_was_found(tmp_path):
    from assets.checks.mining import in_band_recall
    from resources.lake import LakeResource, ProfileResource

    lake, settings = make(Lake(tmp_path)), options()
    dumped = settings.model_dump(exclude={"signals"})
    resources = {
        "lake": LakeResource(folder=str(tmp_path)),
        "profile": ProfileResource(overrides={f"mine.{name}": value for name, value in dumped.items()}),
    }
    mine(lake, settings)
    result = in_band_recall(**resources)
    assert result.passed and result.metadata["floor"].value == settings.index.recall_floor
    for shard in lake.shards():
        rows = lake.read("neighbours", shard)
        lake.write("neighbours", shard, rows.filter(pc.not_equal(rows["signal"], "caption")), "x")
    result = in_band_recall(**resources)
    assert not result.passed and result.metadata["caption"].value == 0.0
    exactly = make(Lake(tmp_path / "exact"), 1)
    mine(exactly, MineSettings(k=10, bands=BANDS, tile=64))
    result = in_band_recall(lake=LakeResource(folder=str(exactly.root)), profile=resources["profile"])
    assert result.passed and result.metadata["search"].value == "exact"


def test_an_index_is_trained_once_and_takes_new_rows_in(tmp_path):
    from mmret.encode.vectors import vector_table
    from mmret.mine.approximate import build_index

    def index():
        return {i.name: i for i in vector_table(lake, "shard-00000", "caption").list_indices() if i.columns == ["vector"]}

    lake, settings = make(Lake(tmp_path), 1), options().index
    for _ in range(2):
        build_index(vector_table(lake, "shard-00000", "caption"), settings, WIDTH)
        ((name, first),) = index().items()
        assert first.num_indexed_rows == 400
    ids, vectors = world()
    for shard in shards(ids, vectors, CUTS)[1:]:
        add_shard(lake, shard.shard, shard.ids, shard.vectors)
    build_index(vector_table(lake, "shard-00000", "caption"), settings, WIDTH)
    assert {n: i.num_indexed_rows for n, i in index().items()} == {name: 900}
    for wanted in (settings.model_copy(update={"kind": "ivf_pq"}), settings.model_copy(update={"partition_rows": 4})):
        build_index(vector_table(lake, "shard-00000", "caption"), wanted, WIDTH)
        assert len(index()) == 1 and name not in index()
