"""Groups of near-duplicates: what a graph library calls connected components, named so that growth renames none of them."""

import networkx
import numpy as np
import pyarrow as pa
import pytest

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.mine.duplicates import duplicate_groups
from mmret.mine.stage import mine_duplicates
from mmret.schemas import CANDIDATES, DUPLICATES
from mmret.settings import DuplicateSettings, load_profile

BOTH = DuplicateSettings()


def images(n: int, shard_size: int = 10) -> pa.Table:
    """Ids in an order that is not their age."""
    ids = [f"{(i * 7919) % 100_003:05d}" for i in range(n)]
    return pa.table({"image_id": ids, "shard": [f"shard-{i // shard_size:05d}" for i in range(n)]})


def edges(found: list[tuple[int, int, str, float]], of: pa.Table) -> pa.Table:
    """Both directions of each, as candidates have them."""
    ids = of["image_id"].to_pylist()
    rows = [(ids[a], ids[b], s, x) for one, other, s, x in found for a, b in ((one, other), (other, one))]
    return pa.table(dict(zip(("query_id", "target_id", "signal", "score"), zip(*rows, strict=True), strict=True)))


def both(pairs: list[tuple[int, int, float]], of: pa.Table) -> pa.Table:
    return edges([(a, b, s, x) for a, b, x in pairs for s in ("clip_image", "dino_image")], of)


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_the_connected_components_however_the_edges_are_cut_into_files(seed):
    rng, n = np.random.default_rng(seed), 200
    of = images(n)
    pairs = [
        (int(a), int(b), float(x)) for a, b, x in zip(*rng.integers(0, n, (2, 90)), rng.random(90).astype(np.float32), strict=True)
    ]
    pairs = [(a, b, x) for a, b, x in pairs if a != b]
    graph = networkx.Graph([(a, b) for a, b, _ in pairs])
    ids = of["image_id"].to_pylist()
    want = {frozenset(ids[i] for i in part): ids[min(part)] for part in networkx.connected_components(graph)}
    cuts = sorted(rng.integers(0, len(pairs), 3).tolist())
    files = [both(part, of) for part in np.split(np.array(pairs, object), cuts) if len(part)]
    found = duplicate_groups(of, files, BOTH)
    assert found.schema == DUPLICATES
    groups: dict[str, set[str]] = {}
    for row in found.to_pylist():
        groups.setdefault(row["group_id"], set()).add(row["image_id"])
        assert row["first"] == (row["image_id"] == row["group_id"])
    assert {frozenset(part): name for name, part in groups.items()} == want
    assert all(row["pictures"] == len(groups[row["group_id"]]) for row in found.to_pylist())
    assert found.equals(duplicate_groups(of, [both(pairs, of)], BOTH)), "one file or several"
    assert [ids.index(i) for i in found["image_id"].to_pylist()] == sorted(ids.index(i) for i in found["image_id"].to_pylist())


def test_each_picture_has_its_nearest_and_its_signals():
    of = images(5)
    ids = of["image_id"].to_pylist()
    table = edges([(0, 1, "clip_image", 0.98), (0, 1, "dino_image", 0.99), (1, 2, "clip_image", 0.97), (1, 2, "caption", 1.0)], of)
    found = duplicate_groups(of, [table], DuplicateSettings(agree=1)).to_pylist()
    assert [(r["nearest_id"], round(r["score"], 2), r["signals"]) for r in found] == [
        (ids[1], 0.99, ["clip_image", "dino_image"]),
        (ids[0], 0.99, ["clip_image", "dino_image"]),
        (ids[1], 0.97, ["clip_image"]),
    ]
    assert duplicate_groups(of, [table], BOTH).num_rows == 2, "both models have to agree"
    everything = DuplicateSettings(signals=("clip_image", "dino_image", "caption"), agree=1)
    assert duplicate_groups(of, [table], everything)["signals"].to_pylist()[2] == ["clip_image", "caption"]


def test_growth_keeps_the_names_of_groups_and_of_two_that_are_joined_that_of_the_older():
    small, large = images(40), images(60)
    before = [(3, 30, 0.9), (5, 6, 0.9), (20, 22, 0.9), (22, 25, 0.9)]
    after = [*before, (30, 50, 0.9), (6, 55, 0.9), (55, 20, 0.9)]
    old = {r["image_id"]: r["group_id"] for r in duplicate_groups(small, [both(before, small)], BOTH).to_pylist()}
    new = {r["image_id"]: r["group_id"] for r in duplicate_groups(large, [both(after, large)], BOTH).to_pylist()}
    ids = large["image_id"].to_pylist()
    renamed = {i for i in old if old[i] != new[i]}
    assert renamed == {ids[20], ids[22], ids[25]} and new[ids[20]] == ids[5] and new[ids[50]] == ids[3]


def test_the_stage_reads_edges_above_the_band_alone_and_settings_are_checked(tmp_path):
    lake = Lake(tmp_path)
    of = images(4)
    from mmret.schemas import CORPUS_MANIFEST, IMAGES_INDEX
    from tests.mine.lakes import filled

    lake.write("corpus_manifest", "shard-00000", filled(CORPUS_MANIFEST, {"image_id": of["image_id"].to_pylist()}), "x")
    lake.write("images", "shard-00000", filled(IMAGES_INDEX, {c: of[c].to_pylist() for c in of.column_names}), "x")
    rows = both([(0, 1, 0.99), (2, 3, 0.9)], of)
    above = pa.array([score > 0.95 for score in rows["score"].to_pylist()])
    columns = {c: rows[c].to_pylist() for c in rows.column_names} | {"above_band": above}
    lake.write("candidates", "shard-00000", filled(CANDIDATES, columns), "x")
    assert mine_duplicates(Lake(tmp_path / "empty"), BOTH, "x").rows == 0, "a lake of imported triplets alone has no shards"
    facts = mine_duplicates(lake, BOTH, "x")
    assert (facts.rows, facts.notes["groups"], facts.notes["largest"]) == (2, 1, 2)
    with pytest.raises(UserError, match="agree 3 of 2 signals"):
        load_profile("demo", {"duplicates.agree": 3})
