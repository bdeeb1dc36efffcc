"""The rules of mining at the place where they change, worked out by hand: who is near, who comes first, what a report counts, when
an index is used, built or added to, what a sample and a recall are, what the stages note of what they did."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from mmret.encode.vectors import model_filter
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.mine import approximate
from mmret.mine.approximate import _sub_vectors, build_index, uses_index
from mmret.mine.band_report import BINS, report
from mmret.mine.candidates import ShardVectors
from mmret.mine.choose import choose
from mmret.mine.lake_vectors import check_one_model, select_images, shard_vectors
from mmret.mine.ordering import Texts, arrange, number_texts, unique_inverse
from mmret.mine.recall import exact_lists, in_band_recall, sample
from mmret.mine.stage import mine_candidates, mine_neighbours, mine_pairs
from mmret.schemas import LEAKS, NEIGHBOURS, SIGNALS
from mmret.settings import BandSettings, IndexSettings, MineSettings
from tests.mine.corpora import BAND, BANDS, brute_force, clustered, image_ids
from tests.mine.lakes import MODEL, add_shard, filled
from tests.mine.test_choose import no_scores, ranked


def captions(shard_of: dict[str, str]) -> pa.Table:
    return pa.table({"image_id": [*shard_of], "caption": [*shard_of], "shard": [*shard_of.values()]})


def chosen(edges, shard_of: dict[str, str] | None = None, **settings) -> tuple[list[dict], dict[str, int]]:
    pairs, counts = choose(ranked(edges), captions(shard_of) if shard_of else {}, no_scores, MineSettings(**settings))
    return pairs.to_pylist(), counts


def in_order(query: str, targets, signal: str = "caption"):
    return [(query, signal, target, False) for target in targets]


# -- choosing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k, per_query, near", [(10, 3, 5), (9, 3, 5), (4, 3, 3), (10, 7, 7), (1, 1, 1), (2, 1, 1), (3, 1, 2)])
def test_in_one_shard_the_first_half_of_a_list_is_near_or_as_many_as_a_query_has_targets(k, per_query, near):
    edges = in_order("q", [f"t{n:02d}" for n in range(20)])
    for shard_of in (None, {name: "s0" for name in ["q", *(f"t{n:02d}" for n in range(20))]}):
        rows, counts = chosen(edges, shard_of, k=k, targets_per_query=per_query)
        assert counts["not_near"] == 20 - near and counts["chosen"] == per_query
        assert counts["beyond_targets_per_query"] == near - per_query
        assert {r["target_id"] for r in rows} <= {f"t{n:02d}" for n in range(near)}


def test_near_in_one_signal_is_near():
    first, last = [f"a{n}" for n in range(5)], "b"
    edges = in_order("q", [*first, last]) + in_order("q", [last], "dino_image")
    _, counts = chosen(edges, k=4, targets_per_query=1)
    assert counts["not_near"] == 3, "b is the first of dino_image"


def test_images_of_later_shards_do_not_push_a_near_one_away_and_those_of_earlier_ones_do():
    later = [f"l{n}" for n in range(6)]
    edges = in_order("q", [*later, "t"])
    both = {"q": "s1", "t": "s1"}
    assert chosen(edges, both | dict.fromkeys(later, "s2"), k=4, targets_per_query=1)[0][0]["target_id"] == "t"
    for shard in ("s0", "s1"):
        rows, _ = chosen(edges, both | dict.fromkeys(later, shard), k=4, targets_per_query=1)
        assert rows[0]["target_id"] in later[:2]
    rows, _ = chosen(edges, {"q": "s1", "t": "s3"} | dict.fromkeys(later, "s2"), k=4, targets_per_query=6)
    assert {r["target_id"] for r in rows} == {*later}, "of two late ones the earlier shard's is drawn first"


def test_targets_sealed_no_later_than_the_query_are_drawn_before_those_of_later_shards_whatever_their_draw():
    names = [f"t{n}" for n in range(8)]
    shard_of = {"q": "s1"} | {name: ("s0", "s1", "s2", "s3")[n % 4] for n, name in enumerate(names)}
    rows, _ = chosen(in_order("q", names), shard_of, k=50, targets_per_query=5)
    drawn = [shard_of[r["target_id"]] for r in rows]
    assert sorted(drawn) == ["s0", "s0", "s1", "s1", "s2"]


def test_the_seed_decides_on_targets_and_on_negatives_each_by_itself():
    edges = in_order("q", [f"t{n:02d}" for n in range(20)])
    draws = [chosen(edges, k=50, targets_per_query=1, hard_negatives=4, seed=seed)[0][0] for seed in range(6)]
    assert len({row["target_id"] for row in draws}) > 1
    assert len({tuple(row["hard_negatives"]) for row in draws}) == 6
    assert draws == [chosen(edges, k=50, targets_per_query=1, hard_negatives=4, seed=seed)[0][0] for seed in range(6)]
    two = chosen(edges, k=50, targets_per_query=2, hard_negatives=4)[0]
    assert two[0]["hard_negatives"] != two[1]["hard_negatives"], "each pair draws its own"


def test_a_pair_names_the_signals_in_use_that_found_it_in_their_band():
    edges = [*in_order("q", ["t"]), *in_order("q", ["t"], "clip_image"), *in_order("q", ["u"], "dino_image")]
    rows, _ = chosen(edges)
    assert {r["target_id"]: r["signals"] for r in rows} == {"t": ["clip_image", "caption"], "u": ["dino_image"]}
    rows, counts = chosen(edges, signals=("caption",))
    assert [(r["target_id"], r["signals"]) for r in rows] == [("t", ["caption"])] and counts["retrieved"] == 1


def test_above_the_band_of_an_image_signal_is_a_near_duplicate_and_of_captions_a_near_identical_caption():
    edges = [
        *(("q", signal, f"t{n}", above) for n, (signal, above) in enumerate(
            [("clip_image", True), ("dino_image", True), ("caption", True), ("caption", False)]
        )),
    ]  # fmt: skip
    rows, counts = chosen(edges)
    assert (counts["near_duplicate"], counts["near_identical_caption"], counts["chosen"]) == (2, 1, 1)
    assert rows[0]["target_id"] == "t3" and rows[0]["hard_negatives"] == []


# -- what is measured ------------------------------------------------------------------------------------------------------


def neighbour_rows(*rows: tuple[str, str, str, float, bool]) -> pa.Table:
    columns = ("query_id", "signal", "target_id", "score", "above_band")
    return pa.Table.from_pylist([dict(zip(columns, row, strict=True)) | {"rank": None} for row in rows], NEIGHBOURS)


def test_a_report_of_a_few_rows_by_hand():
    rows = neighbour_rows(
        ("a", "caption", "b", 0.8, False), ("a", "caption", "c", 0.7, False), ("b", "caption", "a", 0.8, False),
        ("a", "caption", "d", 1.0, True), ("d", "caption", "a", 1.0005, True), ("a", "clip_image", "b", 0.6, False),
    )  # fmt: skip
    found = report([rows], {"caption": BAND, "clip_image": BAND}, images=5, k=2)
    of = found["signals"]["caption"]
    assert (of["in_band"], of["above_band"], of["share_in_band"]) == (3, 2, 0.6)
    assert (of["images_with_neighbours"], of["full_lists"], of["median"], of["mean"]) == (0.4, 0.2, 0.0, 0.6)
    assert (of["low"], of["high"], of["edges"][0], of["edges"][-1], len(of["edges"])) == (0.55, 0.93, 0.55, 1.0, BINS + 1)
    assert sum(of["counts"]) == 5 and of["counts"][-1] == 2, "a score a hair above one lies in the last bin"
    assert found["overlap"] == {"clip_image": 0, "caption": 2, "clip_image+caption": 1} and found["pairs"] == 3
    assert (found["images"], found["k"]) == (5, 2)
    parts = report([rows.slice(0, 2), rows.slice(2)], {"caption": BAND}, images=3, k=2)["signals"]["caption"]
    assert parts["median"] == 1.0, "each image's rows in one table; an image without any counts as none"


def test_a_sample_is_of_the_lowest_hashes_so_that_a_larger_one_contains_it():
    ids = image_ids(200)
    few, many = sample(ids, 20), sample(reversed(ids), 60)
    assert len(few) == 20 and len(many) == 60 and set(few) < set(many) and few == sorted(few)
    assert few != sorted(ids)[:20] and sample(ids, 500) == sorted(ids)


def test_recall_counts_what_was_found_in_the_band_by_the_same_signal():
    exact = pa.table({"query_id": ["a", "a", "b"], "signal": ["caption"] * 3, "target_id": ["x", "y", "x"]})
    found = neighbour_rows(
        ("a", "caption", "x", 0.8, False), ("a", "caption", "y", 0.99, True), ("b", "dino_image", "x", 0.8, False),
        ("b", "caption", "z", 0.8, False),
    )  # fmt: skip
    assert in_band_recall(found, exact, ("caption", "dino_image")) == {"caption": 0.3333, "dino_image": 1.0}


def test_exact_lists_are_brute_force_without_the_query_itself_and_cut_to_k():
    ids, vectors = image_ids(60), {"caption": clustered(60, 12, 0)}
    queries = ShardVectors("sample", ids[5:12], {"caption": vectors["caption"][5:12]})
    parts = [
        ShardVectors(f"s{at}", ids[a:b], {"caption": vectors["caption"][a:b]}) for at, (a, b) in enumerate(((0, 30), (30, 60)))
    ]
    settings = MineSettings(k=4, tile=64, signals=("caption",))
    found = exact_lists(queries, parts, settings, BANDS)
    wanted = [(q, s, t) for q, s, t, _, _, above in brute_force(ids, vectors, 4) if q in queries.ids and not above]
    assert sorted(zip(*(found[c].to_pylist() for c in ("query_id", "signal", "target_id")), strict=True)) == sorted(wanted)


# -- an index --------------------------------------------------------------------------------------------------------------


def test_an_index_is_used_from_its_number_of_rows_on_and_never_where_search_is_exact():
    assert [uses_index(rows, IndexSettings(kind="ivf_pq", from_rows=100)) for rows in (99, 100, 101)] == [False, True, True]
    assert not uses_index(10**9, IndexSettings(kind="exact", from_rows=1))


@pytest.mark.parametrize("width, bits, parts", [(32, 8, 32), (32, 4, 16), (48, 4, 24), (28, 4, 14), (26, 6, 13), (7, 1, 1)])
def test_a_product_quantised_vector_has_as_many_parts_as_its_bits_allow_and_its_width_divides_into(width, bits, parts):
    assert _sub_vectors(width, bits) == parts


class Table:
    """A vector table as far as :func:`build_index` asks; ``indices``: name and rows outside, of column ``vector``."""

    def __init__(self, rows: int, indices: dict[str, int], bitmap: bool = False):
        self.rows, self.made, self.dropped, self.optimised = rows, [], [], 0
        self.indices = [SimpleNamespace(name=n, columns=["vector"], num_unindexed_rows=u) for n, u in indices.items()]
        self.indices += [SimpleNamespace(name="shard", columns=["shard"], num_unindexed_rows=0)] * bitmap

    def count_rows(self):
        return self.rows

    def list_indices(self):
        return self.indices

    def create_index(self, column, config, name=None, replace=False):
        self.made.append((column, type(config).__name__, name, getattr(config, "num_partitions", None)))

    def drop_index(self, name):
        self.dropped.append(name)

    def to_lance(self):
        def optimize_indices():
            self.optimised += 1

        return SimpleNamespace(optimize=SimpleNamespace(optimize_indices=optimize_indices))


def built(table: Table, kind: str = "ivf_rq") -> Table:
    build_index(table, IndexSettings(kind=kind, bits=4, partition_rows=100), 32)
    return table


def test_an_index_is_trained_where_there_is_none_of_its_kind_and_others_are_dropped():
    fresh = built(Table(1000, {}))
    assert fresh.made == [("vector", "IvfRq", "ivf_rq_4_10", 10), ("shard", "Bitmap", None, None)] and not fresh.dropped
    other = built(Table(1000, {"ivf_rq_4_10": 0}, bitmap=True), "ivf_pq")
    assert other.made == [("vector", "IvfPq", "ivf_pq_4_10", 10)] and other.dropped == ["ivf_rq_4_10"]
    assert built(Table(50, {})).made[0][3] == 1, "a partition at least"


@pytest.mark.parametrize("trained_at, again", [(10, False), (4, False), (3, False), (2, True), (1, True)])
def test_an_index_is_trained_again_once_the_table_has_doubled_twice(trained_at, again):
    table = built(Table(1000, {f"ivf_rq_4_{trained_at}": 0}, bitmap=True))
    assert bool(table.made) == again and table.dropped == ([f"ivf_rq_4_{trained_at}"] if again else [])


@pytest.mark.parametrize("outside, added", [(100, 0), (101, 1)])
def test_rows_outside_the_index_are_added_where_they_are_more_than_a_tenth(monkeypatch, outside, added):
    monkeypatch.setattr(approximate, "data_set", Table.to_lance)
    table = built(Table(1000, {"ivf_rq_4_10": outside}, bitmap=True))
    assert table.optimised == added and not table.made


def test_of_two_indices_on_vectors_one_is_made_anew_and_the_other_dropped():
    table = built(Table(1000, {"ivf_rq_4_10": 0, "ivf_rq_8_10": 0}, bitmap=True))
    assert table.made == [("vector", "IvfRq", "ivf_rq_4_10", 10)] and table.dropped == ["ivf_rq_8_10"]


def test_a_shard_has_its_index_brought_up_to_date_before_it_is_searched(tmp_path, monkeypatch):
    lake = Lake(tmp_path)
    add_shard(lake, "shard-00000", image_ids(40), {"caption": clustered(40, 16, 0)})
    asked = []
    monkeypatch.setattr(approximate, "build_index", lambda table, index, width: asked.append((table.count_rows(), index, width)))
    settings = MineSettings(k=3, signals=("caption",), index=IndexSettings(kind="ivf_pq", from_rows=1))
    edges = approximate.index_candidates(lake, "shard-00000", settings, BANDS)
    assert asked == [(40, settings.index, 16)] and edges.num_rows
    assert set(edges["query_shard"].to_pylist()) == {"shard-00000"} and set(edges["signal"].to_pylist()) == {"caption"}


# -- order and text ----------------------------------------------------------------------------------------------------------


def test_texts_are_numbered_in_the_order_of_their_bytes_over_all_chunks():
    column = pa.chunked_array([["b", "a"], [], ["é", "Z", "a"]], pa.string())
    names, numbers = number_texts(column)
    assert names.to_pylist() == ["Z", "a", "b", "é"] and numbers.tolist() == [2, 1, 3, 0, 1]
    assert number_texts(pa.array([], pa.string()))[1].tolist() == []
    assert Texts(column).take(np.array([4, 0, 2])).to_pylist() == ["a", "b", "é"]
    assert len(Texts(column).take(np.array([], int))) == 0


def test_equal_keys_keep_their_places_or_are_told_apart_as_asked_also_where_they_do_not_fit_beside_their_places():
    for key in (np.array([3, 1, 3, 1], np.uint64), np.array([2**63, 1, 2**63, 1], np.uint64)):
        assert arrange(key).tolist() == [1, 3, 0, 2]
        assert arrange(key, lambda at: -at).tolist() == [3, 1, 2, 0]
    assert unique_inverse(np.array([5, 2, 5, 9]))[0].tolist() == [2, 5, 9]
    assert unique_inverse(np.array([5, 2, 5, 9]))[1].tolist() == [1, 0, 1, 2] and len(unique_inverse(np.array([], int))[0]) == 0


# -- on a lake -------------------------------------------------------------------------------------------------------------


def no_encoder(signal: str):
    raise AssertionError(f"the encoder of {signal} was loaded")


@pytest.fixture(scope="module")
def mined(tmp_path_factory) -> Lake:
    lake, settings = Lake(tmp_path_factory.mktemp("mined")), MineSettings(k=5, tile=64, bands=BANDS, targets_per_query=2)
    ids, vectors = image_ids(90), {s: clustered(90, 16, at) for at, s in enumerate(SIGNALS)}
    for at, part in enumerate((slice(0, 40), slice(40, 90))):
        add_shard(lake, f"shard-{at:05d}", ids[part], {s: v[part] for s, v in vectors.items()})
        mine_candidates(lake, f"shard-{at:05d}", settings, "x", no_encoder)
    for shard in lake.shards():
        mine_neighbours(lake, shard, settings, "x")
    leaked = next(r["query_id"] for r in lake.read("neighbours", "shard-00000").to_pylist() if not r["above_band"])
    lake.write("leaks", "all", filled(LEAKS, {"image_id": [leaked]}), "x")
    for shard in lake.shards():
        mine_pairs(lake, shard, settings, "x")
    return lake


def test_what_the_stages_note_is_what_they_wrote(mined):
    for at, shard in enumerate(mined.shards()):
        notes = mined.facts("candidates", shard).notes
        assert notes["compared_with"] == at + 1 and notes["bands"] == {s: [0.55, 0.93] for s in SIGNALS}
        assert notes["band_sources"] == dict.fromkeys(SIGNALS, "set") and "recall" not in notes
        rows, notes = mined.read("neighbours", shard).to_pylist(), mined.facts("neighbours", shard).notes
        assert notes["in_band"] == sum(not r["above_band"] for r in rows) > 0
        assert notes["above_band"] == sum(r["above_band"] for r in rows) > 0
        pairs, notes = mined.read("pairs", shard).to_pylist(), mined.facts("pairs", shard).notes
        assert notes["queries"] == len({r["query_id"] for r in pairs}) and notes["images"] == (40, 50)[at]
        assert notes["reasons"]["chosen"] == len(pairs) and notes["reasons"]["benchmark_picture"] > 0


def test_a_picture_of_a_benchmark_is_neither_query_nor_target_nor_negative(mined):
    (leaked,) = mined.read("leaks")["image_id"].to_pylist()
    pairs = mined.read("pairs").to_pylist()
    assert pairs and leaked not in {i for r in pairs for i in (r["query_id"], r["target_id"], *r["hard_negatives"])}


def test_shards_that_pairs_point_to_are_noted_with_their_own_and_no_other(mined):
    shard_of = {i: s for s in mined.shards() for i in mined.read("images", s)["image_id"].to_pylist()}
    for shard in mined.shards():
        pairs = mined.read("pairs", shard).to_pylist()
        named = {shard_of[r[side]] for r in pairs for side in ("query_id", "target_id")}
        assert mined.facts("pairs", shard).notes["linked_shards"] == sorted(named)


def test_shards_of_different_models_are_refused_by_name_and_those_without_vectors_are_no_matter(mined, tmp_path):
    check_one_model(mined, [*mined.shards(), "shard-00009"], SIGNALS)
    lake = Lake(tmp_path)
    for at, model in enumerate((MODEL, MODEL, "other@2")):
        add_shard(lake, f"shard-{at:05d}", [f"{at}"], {"caption": clustered(1, 8, at)}, model)
    with pytest.raises(UserError, match=rf"caption: shard-00000 was encoded by {MODEL.replace('+', '.')}, shard-00002 by other@2"):
        check_one_model(lake, lake.shards(), ("caption",))
    check_one_model(lake, lake.shards()[:2], ("caption",))


def test_images_of_a_shard_are_selected_in_the_order_asked_for(mined):
    shard = shard_vectors(mined, "shard-00000", ("caption", "clip_image"))
    assert set(shard.vectors) == {"caption", "clip_image"} and shard.shard == "shard-00000"
    some = select_images(shard, [shard.ids[5], shard.ids[2]])
    assert some.ids == [shard.ids[5], shard.ids[2]] and some.shard == shard.shard
    np.testing.assert_array_equal(some.vectors["caption"], shard.vectors["caption"][[5, 2]])


def test_a_models_name_in_a_filter_is_text():
    assert model_filter("it's") == "model = 'it''s'"


def test_what_was_not_set_is_the_papers_or_what_the_settings_say():
    assert (BandSettings().low, BandSettings().high, MineSettings().hard_negatives, MineSettings().targets_per_query) == (
        0.8,
        0.96,
        5,
        3,
    )
