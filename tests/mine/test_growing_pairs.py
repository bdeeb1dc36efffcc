"""Invariants of pairs by few vectors: equal to those by the vectors of every shard, to the last bit, whatever is known before; a
lake that grew equals one mined at once; growth reads the vectors of new pairs alone; an interrupted run ends equal."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mmret.encode.vectors import VectorRows
from mmret.lake import Lake
from mmret.mine import above_band, lake_vectors
from mmret.mine.lake_vectors import check_one_model
from mmret.mine.stage import mine_pairs
from mmret.schemas import SIGNALS
from mmret.settings import Profile, load_profile
from tests.mine.corpora import BANDS, clustered, image_ids
from tests.mine.lakes import add_shard, mine_what_is_stale, pairs_by_reading_every_shard

CUTS = (0, 50, 90, 140, 180)
IDS = image_ids(CUTS[-1])
VECTORS = {signal: clustered(len(IDS), 16, at, repeats=0.4) for at, signal in enumerate(SIGNALS)}


def profile_with(**mine: object) -> Profile:
    bands = {f"mine.bands.{signal}": band.model_dump() for signal, band in BANDS.items()}
    return load_profile("demo", {"mine.tile": 64, "mine.k": 12, **bands, **{f"mine.{name}": value for name, value in mine.items()}})


def add(lake: Lake, *shards: int) -> None:
    for at in shards:
        part = slice(CUTS[at], CUTS[at + 1])
        add_shard(lake, f"shard-{at:05d}", IDS[part], {signal: values[part] for signal, values in VECTORS.items()})


def grown(root, profile: Profile, *steps: tuple[int, ...]) -> Lake:
    lake = Lake(root)
    for shards in steps:
        add(lake, *shards)
        mine_what_is_stale(lake, profile)
    return lake


def digests(lake: Lake) -> dict[tuple[str, str], str]:
    return {(t, s): lake.facts(t, s).digest for t in ("candidates", "neighbours", "pairs") for s in lake.shards()}


@pytest.fixture
def taken(monkeypatch) -> list[set[str]]:
    """Ids of the images whose vectors each look-up reads; reading a whole shard fails."""
    seen, plain = [], VectorRows.take

    def take(rows: VectorRows, at: np.ndarray) -> np.ndarray:
        seen.append(set(rows.ids.take(pa.array(at)).to_pylist()))
        return plain(rows, at)

    monkeypatch.setattr(VectorRows, "take", take)
    return seen


def refuse_whole_shards(monkeypatch) -> None:
    def refuse(lake: Lake, shard: str, signal: str):
        raise AssertionError(f"all vectors of {signal}, {shard} were read")

    monkeypatch.setattr(lake_vectors, "read_vectors", refuse)


@pytest.mark.parametrize(
    "mine",
    [{}, {"k": 2}, {"k": 60}, {"signals": ["dino_image", "caption"]}, {"hard_negatives": 0}, {"draw": "by_signal"}],
    ids=str,
)
def test_pairs_equal_those_by_the_vectors_of_every_shard(tmp_path, mine):
    profile = profile_with(**mine)
    lake = grown(tmp_path, profile, (0, 1, 2), (3,))
    for shard in lake.shards():
        pairs = lake.read("pairs", shard)
        assert pairs.num_rows and pairs.equals(pairs_by_reading_every_shard(lake, shard, profile.mine))
        mine_pairs(lake, shard, profile.mine, "nothing is known of these inputs, so nothing is proven")
        assert lake.read("pairs", shard).equals(pairs)


def test_near_duplicates_that_no_list_decides_are_told_by_their_vectors(tmp_path, monkeypatch):
    """Thirty images that are all alike, and lists of three: nearly every pair of them is missing from both lists."""
    profile = profile_with(k=3)
    lake = Lake(tmp_path)
    same = {signal: np.repeat(values[:1], 30, axis=0) for signal, values in VECTORS.items()}
    apart = {signal: values[:50] for signal, values in VECTORS.items()}
    add_shard(lake, "shard-00000", [f"same-{n:02d}" for n in range(30)], same)
    add_shard(lake, "shard-00001", IDS[:50], apart)
    computed, plain = [], above_band.LakeScores.of

    def of(score, signal, one, other):
        computed.append(len(one))
        return plain(score, signal, one, other)

    monkeypatch.setattr(above_band.LakeScores, "of", of)
    mine_what_is_stale(lake, profile)
    for shard in lake.shards():
        assert lake.read("pairs", shard).equals(pairs_by_reading_every_shard(lake, shard, profile.mine))
    assert sum(computed) > 0


def test_a_lake_that_grew_equals_one_mined_at_once(tmp_path):
    profile = profile_with()
    steps = grown(tmp_path / "steps", profile, (0,), (1,), (2, 3))
    once = grown(tmp_path / "once", profile, (0, 1, 2, 3))
    assert digests(steps) == digests(once)
    assert mine_what_is_stale(steps, profile) == [] == mine_what_is_stale(once, profile)


def test_growth_reads_the_vectors_of_new_pairs_alone(tmp_path, monkeypatch, taken):
    profile = profile_with(k=60)
    lake = grown(tmp_path, profile, (0, 1, 2))
    before = set(lake.read("pairs")["pair_id"].to_pylist())
    old = lake.shards()
    add(lake, 3)
    mine_candidates_of_the_new_shard(lake, profile)
    refuse_whole_shards(monkeypatch)
    taken.clear()
    mine_what_is_stale(lake, profile)
    new = {shard: [r for r in lake.read("pairs", shard).to_pylist() if r["pair_id"] not in before] for shard in lake.shards()}
    images = {row[side] for rows in new.values() for row in rows for side in ("query_id", "target_id")}
    read = set().union(*taken)
    assert read and read <= images
    assert sum(map(len, new.values())) < lake.read("pairs").num_rows / 2, "the others are as they were"
    assert sum(map(len, taken)) <= sum(2 * len(SIGNALS) * len(rows) for rows in new.values())
    assert all(len(new[shard]) < lake.facts("pairs", shard).rows for shard in old)


def mine_candidates_of_the_new_shard(lake: Lake, profile: Profile) -> None:
    """It reads every vector, which the stages after it are not to do."""
    from mmret.freshness.fingerprints import inputs_of
    from mmret.lake.inputs import record_inputs
    from tests.mine.lakes import compute

    shard = lake.shards()[-1]
    inputs = inputs_of(lake, profile, "candidates", shard)
    record_inputs(lake, inputs)
    compute(lake, profile.mine, "candidates", shard, inputs.fingerprint)


def test_first_pairs_read_each_vector_of_a_pair_once_a_signal_and_shard(tmp_path, monkeypatch, taken):
    profile = profile_with(k=60)
    lake = grown(tmp_path, profile, (0, 1, 2, 3))
    for shard in lake.shards():
        lake.path("pairs", shard).unlink()
    refuse_whole_shards(monkeypatch)
    taken.clear()
    mine_what_is_stale(lake, profile)
    assert len(taken) <= len(SIGNALS) * len(lake.shards()), "one look-up a signal and shard"
    named = {*lake.read("pairs")["query_id"].to_pylist(), *lake.read("pairs")["target_id"].to_pylist()}
    assert set().union(*taken) <= named


def test_growth_that_changes_no_list_leaves_older_pairs_current(tmp_path):
    """The new images are in the band of the old ones, and farther than all that their lists hold."""
    profile = profile_with(k=1)
    angles = np.radians([0, 25, 50])  # each 25 degrees from the next
    plane = np.stack([np.cos(angles), np.sin(angles), *np.zeros((6, 3))], 1).astype(np.float16)
    late = np.array([[np.cos(np.radians(50)), 0, np.sin(np.radians(50)), *np.zeros(5)]], np.float16)  # of 0: 50 degrees
    lake = Lake(tmp_path)
    add_shard(lake, "shard-00000", ["a", "b", "c"], dict.fromkeys(SIGNALS, plane))
    mine_what_is_stale(lake, profile)
    add_shard(lake, "shard-00001", ["d"], dict.fromkeys(SIGNALS, late))
    computed = mine_what_is_stale(lake, profile)
    edges = lake.read("candidates", "shard-00001", filters=pc.field("query_shard") == "shard-00000")
    assert edges.num_rows and ("neighbours", "shard-00000") in computed
    assert ("pairs", "shard-00000") not in computed and ("pairs", "shard-00001") in computed
    assert mine_what_is_stale(lake, profile) == []


@pytest.mark.parametrize(
    ("table", "shard"), [("candidates", "shard-00003"), ("neighbours", "shard-00001"), ("pairs", "shard-00001")]
)
def test_a_run_that_is_stopped_and_goes_on_equals_an_uninterrupted_one(tmp_path, monkeypatch, table, shard):
    profile = profile_with()
    whole = grown(tmp_path / "whole", profile, (0, 1, 2), (3,))
    lake = grown(tmp_path / "stopped", profile, (0, 1, 2))
    add(lake, 3)
    plain = Lake.write

    def write(self, name, partition, *args, **kwargs):
        if (name, partition) == (table, shard):
            raise KeyboardInterrupt
        return plain(self, name, partition, *args, **kwargs)

    monkeypatch.setattr(Lake, "write", write)
    with pytest.raises(KeyboardInterrupt, match=""):
        mine_what_is_stale(lake, profile)
    monkeypatch.undo()
    mine_what_is_stale(lake, profile)
    assert digests(lake) == digests(whole)


@pytest.mark.parametrize("fault", ["gone", "damaged", "of other candidates"])
def test_edges_above_the_band_are_taken_from_the_candidates_where_what_is_kept_is_not_theirs(tmp_path, fault):
    profile = profile_with()
    lake = grown(tmp_path, profile, (0, 1, 2))
    before = digests(lake)
    kept = sorted((tmp_path / above_band.FOLDER).glob("*.parquet"))
    assert len(kept) == 3
    sound = [path.read_bytes() for path in kept]
    for path in kept:
        if fault == "gone":
            path.unlink()
        elif fault == "damaged":
            path.write_bytes(path.read_bytes()[:-40])
        else:
            above_band.keep_above_band(lake, path.stem, lake.read("candidates", path.stem).slice(0, 0), "another")
    for shard in lake.shards():
        lake.path("pairs", shard).unlink()
    mine_what_is_stale(lake, profile)
    assert digests(lake) == before and [path.read_bytes() for path in kept] == sound


def test_scores_of_before_are_not_used_where_vectors_changed(tmp_path):
    profile = profile_with()
    lake = grown(tmp_path, profile, (0, 1, 2))
    moved = {"caption": clustered(40, 16, 77)}
    part = IDS[CUTS[1] : CUTS[2]]
    lake.lance("caption").delete("shard = 'shard-00001'")
    add_shard(lake, "shard-00001", part, moved)
    facts = lake.facts("caption", "shard-00001")
    rows = lake.read("caption", "shard-00001")
    rows = rows.set_column(rows.column_names.index("truncated"), "truncated", pa.array([True] * len(rows)))
    lake.write("caption", "shard-00001", rows, "x", **facts.notes)
    assert mine_what_is_stale(lake, profile)
    for shard in lake.shards():
        assert lake.read("pairs", shard).equals(pairs_by_reading_every_shard(lake, shard, profile.mine))


def test_candidates_of_vectors_that_are_no_longer_there_prove_nothing(tmp_path):
    profile = profile_with()
    lake = grown(tmp_path, profile, (0, 1, 2))

    def proven() -> list[str]:
        return sorted(above_band.proven(lake, "shard-00002", check_one_model(lake, lake.shards(), SIGNALS), profile.mine.k))

    assert proven() == lake.shards()
    rows = lake.read("dino_image", "shard-00001")
    facts = lake.facts("dino_image", "shard-00001")
    lake.write("dino_image", "shard-00001", rows.slice(1), "x", **facts.notes)
    assert proven() == ["shard-00000"], "the other two were compared with the vectors of before"
    lake.write("dino_image", "shard-00001", rows, "x", **facts.notes)
    facts = lake.facts("candidates", "shard-00001")
    lake.write("candidates", "shard-00001", lake.read("candidates", "shard-00001"), facts.inputs, **facts.notes, index="ivf_rq")
    assert proven() == ["shard-00000", "shard-00002"], "an index may miss near-duplicates"
