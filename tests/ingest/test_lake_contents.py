"""What a lake has already, asked by an import; and its table of pictures, looked up and changed row by row."""

import pyarrow as pa
import pytest

from mmret.ingest.pictures import image_table
from mmret.ingest.released.lake_contents import LakeContents
from mmret.lake import Lake
from mmret.schemas import CORPUS_MANIFEST, IMAGES, IMAGES_INDEX, PAIRS

ONE, TWO, THREE = (letter * 32 for letter in "abc")
SHARD = "shard-00000"


@pytest.fixture
def contents():
    with LakeContents() as found:
        yield found


def test_a_picture_is_found_by_its_content_and_by_its_path_below_the_same_root(contents):
    contents.add_pictures([(ONE, "CC0"), (TWO, None)])
    contents.add_paths("/a", [("x.png", ONE), ("y.png", TWO), ("broken.png", None), ("lost.png", THREE)])
    assert contents.has_picture(ONE) and contents.has_picture(TWO) and not contents.has_picture(THREE)
    assert contents.picture("/a", "x.png") == (ONE, "CC0") and contents.picture("/a", "y.png") == (TWO, None)
    assert contents.picture("/b", "x.png") is None and contents.picture("/a", "z.png") is None
    assert contents.has_path("/a", "broken.png") and contents.picture("/a", "broken.png") is None
    assert contents.picture("/a", "lost.png") is None, "it was named, but the lake has no such picture"
    assert not contents.has_path("/b", "x.png") and not contents.has_path("/a", "z.png")


def test_of_two_licences_of_one_picture_the_first_stays_and_of_two_contents_of_one_path_the_last(contents):
    contents.add_pictures([(ONE, "CC0"), (ONE, "CC BY 4.0"), (TWO, "CC BY 4.0")])
    contents.add_paths("/a", [("x.png", ONE)])
    assert contents.picture("/a", "x.png") == (ONE, "CC0")
    contents.add_paths("/a", [("x.png", TWO)])
    assert contents.picture("/a", "x.png") == (TWO, "CC BY 4.0")


def test_a_pair_is_new_once(contents):
    assert contents.add_pair(ONE) and not contents.add_pair(ONE) and contents.add_pair(TWO)


def test_a_partition_adds_its_pictures_its_pairs_and_the_paths_of_the_root_that_is_asked_about(contents, tmp_path):
    lake = Lake(tmp_path)
    manifest = [
        {"shard": SHARD, "position": n, "root": root, "path": path, "image_id": image}
        for n, (root, path, image) in enumerate([("/a", "x.png", ONE), ("/b", "x.png", TWO), ("/a", "bad.png", None)])
    ]
    lake.write("corpus_manifest", SHARD, pa.Table.from_pylist(manifest, CORPUS_MANIFEST), "x")
    contents.add_partition(lake, SHARD, "/a")
    assert contents.has_path("/a", "x.png") and not contents.has_picture(ONE), "listed, and not read yet"
    rows = [{"image_id": ONE, "licence": "CC0"}, {"image_id": TWO}]
    lake.write("images", SHARD, pa.Table.from_pylist(rows, IMAGES_INDEX), "x")
    lake.write("pairs", SHARD, pa.Table.from_pylist([{"pair_id": THREE}], PAIRS), "x")
    contents.add_partition(lake, SHARD, "/a")
    assert contents.picture("/a", "x.png") == (ONE, "CC0") and contents.has_picture(TWO)
    assert contents.has_path("/a", "bad.png") and not contents.has_path("/b", "x.png") and not contents.add_pair(THREE)


def row(image_id: str, shard: str = SHARD, **more) -> dict:
    return {"image_id": image_id, "shard": shard, "path": f"{image_id[:3]}.png", "data": image_id.encode(), **more}


@pytest.fixture
def table(tmp_path):
    return Lake(tmp_path).lance("images", IMAGES)


def stored(table) -> dict[str, str]:
    return {r["image_id"]: r["path"] for r in table.to_arrow().select(["image_id", "path"]).to_pylist()}


def test_rows_are_described_and_their_files_read_by_row(table):
    image_table.append(table, [row(ONE, caption="a"), row(TWO, caption="b"), row(THREE)], replacing=False)
    ids = image_table.stored_row_ids(table, SHARD, {ONE: 1, TWO: 1, THREE: 1}, lambda strays: set())
    described = image_table.describe(table, [ids[TWO], ids[ONE]])
    assert set(described) == {ONE, TWO} and described[TWO]["caption"] == "b" and set(described[ONE]) == set(IMAGES_INDEX.names)
    assert image_table.picture(table, ids[THREE]) == THREE.encode() and image_table.describe(table, []) == {}


def test_what_a_shard_does_not_expect_any_more_is_removed_unless_another_shard_has_it(table):
    image_table.append(table, [row(ONE), row(TWO), row(THREE), row("d" * 32, "shard-00001")], replacing=False)
    asked = []
    found = image_table.stored_row_ids(table, SHARD, {ONE: 1}, lambda strays: asked.append(strays) or {THREE})
    assert set(found) == {ONE} and asked == [[TWO, THREE]] and set(stored(table)) == {ONE, THREE, "d" * 32}
    elsewhere = image_table.stored_row_ids(table, SHARD, {"d" * 32: 1}, lambda strays: {ONE, THREE})
    assert set(elsewhere) == {"d" * 32}, "stored under another shard's name"


def test_a_second_copy_is_removed_and_a_replacement_leaves_one_row(table):
    image_table.append(table, [row(ONE)], replacing=False)
    image_table.append(table, [row(ONE, path="again.png"), row(TWO)], replacing=False)
    assert table.count_rows() == 3
    found = image_table.stored_row_ids(table, SHARD, {ONE: 1, TWO: 1}, lambda strays: set())
    assert set(found) == {ONE, TWO} and table.count_rows() == 2
    image_table.append(table, [row(ONE, path="new.png"), row(THREE)], replacing=True)
    assert stored(table)[ONE] == "new.png" and table.count_rows() == 3
    image_table.remove(table, [ONE, THREE])
    assert set(stored(table)) == {TWO}


def test_look_ups_and_removals_in_pieces_are_those_of_the_whole(table, monkeypatch):
    monkeypatch.setattr(image_table, "_ROWS_PER_QUERY", 2)
    monkeypatch.setattr(image_table, "_IDS_PER_BATCH", 2)
    ids = [f"{n:032x}" for n in range(7)]
    image_table.append(table, [row(i) for i in ids], replacing=False)
    found = image_table.stored_row_ids(table, SHARD, dict.fromkeys(ids[:6]), lambda strays: set())
    assert set(image_table.describe(table, found.values())) == set(ids[:6]) == set(stored(table))
    image_table.remove(table, ids[:5])
    assert set(stored(table)) == {ids[5]}


def test_an_index_is_built_where_many_rows_are_in_none(table, monkeypatch):
    monkeypatch.setattr(image_table, "_MAX_UNINDEXED", 3)
    image_table.append(table, [row(ONE), row(TWO)], replacing=False)
    image_table.index(table)
    assert not list(table.list_indices())
    image_table.append(table, [row(THREE)], replacing=False)
    image_table.index(table)
    assert [i.columns for i in table.list_indices()] == [["image_id"]]
