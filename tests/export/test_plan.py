"""Invariants of what an export is going to write: its identity changes when any row would, so that one that was interrupted never
goes on with other rows; its files hold every row once; what is left out is counted by reason."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import pytest

from mmret.curation.decisions import DecisionLog
from mmret.errors import UserError
from mmret.export import megapairs
from mmret.export.huggingface import configurations, triplet_file
from mmret.export.megapairs import export_megapairs, json_line, set_folder
from mmret.export.pictures import PictureNames, suffix
from mmret.export.rows import ExportSettings, Piece, Plan, plan, triplets
from mmret.export.webdataset import _roles
from mmret.hashing import pair_id
from mmret.lake import Lake
from mmret.schemas import IMAGES_INDEX, TRIPLETS
from mmret.settings import LicenceSettings, load_profile
from tests.mine.lakes import filled

LICENCES = ("CC0-1.0", "CC BY-SA 4.0", None)


def name(number: int) -> str:
    return f"{number:032x}"


def rows(numbers: Sequence[int], texts: str = "no hat") -> pa.Table:
    """Triplet n: query n, target n + 100, a negative n + 200; every fourth is held out."""
    return pa.Table.from_pylist(
        [
            dict.fromkeys(TRIPLETS.names)
            | {
                "pair_id": pair_id(name(n), name(n + 100)),
                "query_id": name(n),
                "target_id": name(n + 100),
                "texts": [texts],
                "hard_negatives": [name(n), name(n + 200)],
                "signals": ["caption"],
                "split": "train" if n % 4 else "test",
                "licence": LICENCES[n % 3],
            }
            for n in numbers
        ],
        TRIPLETS,
    )


@pytest.fixture
def lake(tmp_path) -> Lake:
    made = Lake(tmp_path / "lake")
    for at, numbers in enumerate((range(0, 10), range(10, 15))):
        made.write("triplets", f"shard-{at:05d}", rows(numbers), "x")
    ids = [name(n + more) for n in range(15) for more in (0, 100, 200)]
    columns = {"image_id": ids, "shard": ["shard-00000"] * 45, "format": ["JPEG", "PNG", "WEBP"] * 15, "licence": LICENCES * 15}
    made.write("images", "shard-00000", filled(IMAGES_INDEX, columns), "x")
    return made


def identity(lake: Lake, format_: str = "x", **settings) -> str:
    return plan(lake, ExportSettings(**settings), format_).identity


def test_the_identity_of_an_export_changes_with_all_that_decides_on_its_rows_and_with_nothing_else(lake):
    first = identity(lake)
    others = [
        identity(lake, "y"),
        identity(lake, splits=("train",)),
        identity(lake, licences=LicenceSettings(share_alike="apart")),
        identity(lake, negatives=1),
        identity(lake, pictures="once"),
        identity(lake, file_bytes=1000),
        identity(lake, decisions="without_rejected"),
    ]
    assert identity(lake) == first and len({first, *others}) == 1 + len(others)
    lake.write("triplets", "shard-00001", rows(range(10, 15)), "computed again, with the same rows")
    assert identity(lake) == first
    lake.write("triplets", "shard-00001", rows(range(10, 15), "a hat"), "x")
    changed = identity(lake)
    assert changed != first
    images = lake.read("images", "shard-00000")
    lake.write("images", "shard-00000", images.slice(0, 44), "x")
    assert identity(lake) not in (first, changed)


def test_a_decision_changes_the_identity_of_the_exports_that_heed_it_alone(lake):
    rules = ("ignore", "without_rejected", "only_accepted")
    log = DecisionLog(lake, "ann")
    log.add([pair_id(name(1), name(101))], "accepted")
    before = [identity(lake, decisions=rule) for rule in rules]
    log.add([pair_id(name(2), name(102))], "rejected")
    after = [identity(lake, decisions=rule) for rule in rules]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_an_export_interrupted_before_a_decision_has_no_row_of_it_when_it_goes_on(lake, tmp_path, monkeypatch):
    settings, gone = ExportSettings(decisions="without_rejected"), pair_id(name(1), name(101))

    def dies(*_):
        raise KeyboardInterrupt("killed here")

    monkeypatch.setattr(megapairs, "_pictures", dies)
    with pytest.raises(KeyboardInterrupt, match="killed here"):
        export_megapairs(lake, load_profile("demo"), tmp_path / "out", settings)
    assert (tmp_path / ".out.partial" / "train.jsonl").is_file()
    DecisionLog(lake, "ann").add([gone], "rejected")
    monkeypatch.setattr(megapairs, "_pictures", lambda *_: None)
    made = export_megapairs(lake, load_profile("demo"), tmp_path / "out", settings)
    lines = [json.loads(line) for split in ("train", "test") for line in (tmp_path / "out" / f"{split}.jsonl").open()]
    assert len(lines) == 14 and not any(name(1) in line["q_img"] for line in lines)
    assert made.left_out == {"decision": 1}


def test_rows_come_by_set_and_split_in_the_tables_order_and_set_main_is_always_there(lake):
    found = triplets(lake, "shard-00000", ExportSettings())
    assert list(found) == [("main", "train"), ("main", "test")]
    assert found["main", "test"]["query_id"].to_pylist() == [name(n) for n in (0, 4, 8)]
    apart = LicenceSettings(share_alike="apart", unknown="exclude")
    found = triplets(lake, "shard-00000", ExportSettings(licences=apart, splits=("train",)))
    assert {k: v["query_id"].to_pylist() for k, v in found.items()} == {
        ("main", "train"): [name(n) for n in (3, 6, 9)],
        ("share_alike", "train"): [name(n) for n in (1, 7)],
    }


def test_what_is_left_out_is_counted_by_reason_and_with_what_is_written_makes_all(lake):
    DecisionLog(lake, "ann").add([pair_id(name(n), name(n + 100)) for n in (0, 1, 2)], "rejected")
    settings = ExportSettings(
        splits=("train",), decisions="without_rejected", licences=LicenceSettings(unknown="exclude", share_alike="apart")
    )
    made = plan(lake, settings, "x")
    assert made.left_out == {"other split": 4, "decision": 2, "licence": 3}
    assert made.count("main", "train") + made.count("share_alike", "train") + 9 == 15
    assert made.sets() == ["main", "share_alike"] and plan(lake, ExportSettings(), "x").left_out == {}
    assert plan(lake, ExportSettings(), "x").count("share_alike", "train") == 0


def test_a_sets_pictures_are_those_its_triplets_name_each_once_and_sorted(lake):
    made = plan(lake, ExportSettings(), "x")
    assert made.images["main"].to_pylist() == sorted(name(n + more) for n in range(15) for more in (0, 100, 200))
    few = plan(lake, ExportSettings(splits=("test",)), "x").images["main"].to_pylist()
    assert few == sorted(name(n + more) for n in (0, 4, 8, 12) for more in (0, 100, 200))


@pytest.mark.parametrize("rows_per_file", [1, 2, 3, 100])
def test_files_hold_every_row_once_and_none_across_shards(lake, rows_per_file):
    made = plan(lake, ExportSettings(), "x")
    pieces = made.pieces(rows_per_file)
    held = [(p.split, p.shard, at) for p in pieces for at in range(p.start, p.start + p.rows)]
    counts = {("test", "shard-00000"): 3, ("train", "shard-00000"): 7, ("test", "shard-00001"): 1, ("train", "shard-00001"): 4}
    assert sorted(held) == sorted((*key, at) for key, n in counts.items() for at in range(n))
    assert all(1 <= p.rows <= rows_per_file and p.set == "main" for p in pieces)
    for split in ("train", "test"):
        assert [p.number for p in pieces if p.split == split] == list(range(sum(p.split == split for p in pieces)))


def test_nothing_to_export_says_so(lake, tmp_path):
    with pytest.raises(UserError, match="of 15 triplets none is left"):
        plan(lake, ExportSettings(decisions="only_accepted"), "x")
    with pytest.raises(UserError, match="no triplets yet"):
        plan(Lake(tmp_path / "none"), ExportSettings(), "x")


def test_names_of_pictures_are_their_ids_with_the_ending_of_their_format(lake):
    assert [suffix(f) for f in ("JPEG", "MPO", "TIFF", "PNG", "JPEG2000", None, "../x")] == [
        "jpg", "jpg", "tif", "png", "jpeg2000", "bin", "x"
    ]  # fmt: skip
    names = PictureNames(lake)
    assert names.of([name(0), name(100), name(200)]) == {
        name(0): f"{name(0)}.jpg",
        name(100): f"{name(100)}.png",
        name(200): f"{name(200)}.webp",
    }
    with pytest.raises(UserError, match=f"picture {name(999)} of a triplet is not in table images"):
        names.of([name(0), name(999)])


def test_a_samples_negatives_are_the_first_mined_ones_without_query_and_target():
    row = {"query_id": "q", "target_id": "t", "hard_negatives": ["q", "a", "t", "b", "c", "d"]}
    assert _roles(row, 3) == {"query": "q", "target": "t", "negative1": "a", "negative2": "b", "negative3": "c"}
    assert _roles(row, 0) == {"query": "q", "target": "t"}


def test_files_and_folders_are_named_by_set_split_shard_and_number():
    assert triplet_file(Piece("main", "train", "shard-00002", 0, 1, 7)) == "triplets/train-shard-00002-00007.parquet"
    assert triplet_file(Piece("unknown", "test", "s", 0, 1, 0)) == "unknown/triplets/test-s-00000.parquet"
    assert (set_folder("main"), set_folder("unknown")) == ("", "unknown/")
    assert json_line({"a": "x\u2028y\u0085z\u2029"}) == '{"a": "x\\u2028y\\u0085z\\u2029"}'


def test_configurations_name_the_splits_that_have_rows_and_the_first_is_the_default(tmp_path):
    from collections import Counter

    made = Plan(
        ExportSettings(), "x", {("main", "train"): Counter(s=2), ("unknown", "test"): Counter(s=1)}, {"unknown": None, "main": None}
    )
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "images-00000.parquet").touch()
    assert configurations(made, tmp_path) == [
        {"config_name": "triplets", "data_files": [{"split": "train", "path": "triplets/train-*.parquet"}], "default": True},
        {"config_name": "images", "data_files": [{"split": "corpus", "path": "images/*.parquet"}]},
        {"config_name": "triplets_unknown", "data_files": [{"split": "test", "path": "unknown/triplets/test-*.parquet"}]},
    ]
