"""Every export, read by the library it is for, equals the tables: rows, order of texts, pictures byte for byte."""

import glob
import io
import json
import os
import shutil
import tarfile

import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from mmret.cli import app
from mmret.curation.decisions import DecisionLog
from mmret.curation.licences import licence_set
from mmret.errors import UserError
from mmret.export.huggingface import export_huggingface
from mmret.export.megapairs import export_megapairs
from mmret.export.rows import ExportSettings, plan
from mmret.export.tevatron import export_tevatron
from mmret.export.webdataset import export_webdataset
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.lake.as_of import open_as_of
from mmret.schemas import TRIPLETS
from mmret.settings import LicenceSettings
from tests.export.conftest import as_json, profile, rows_of

EXPORTS = {
    "megapairs": export_megapairs,
    "huggingface": export_huggingface,
    "webdataset": export_webdataset,
    "tevatron": export_tevatron,
}
SMALL = ExportSettings(file_bytes=60_000)  # several files of each kind


@pytest.fixture(scope="module")
def lake(small_lake) -> Lake:
    return Lake(small_lake[0])


@pytest.fixture
def own_lake(small_lake, tmp_path) -> Lake:
    shutil.copytree(small_lake[0], tmp_path / "lake")
    return Lake(tmp_path / "lake")


def lines_of(path) -> list[dict]:
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def named(rows: list[dict]) -> set[str]:
    return {i for r in rows for i in (r["query_id"], r["target_id"], *r["hard_negatives"])}


def test_hugging_face_datasets_reads_the_tables_and_the_pictures(lake, tmp_path):
    import datasets

    export_huggingface(lake, profile(lake), tmp_path / "out", SMALL)
    files = images_by_id(lake, sorted(named(rows_of(lake))))
    for split in ("train", "test"):
        found = datasets.load_dataset(str(tmp_path / "out"), split=split, cache_dir=str(tmp_path / "cache"))
        assert isinstance(found.features["query_image"], datasets.Image)
        raw = found
        for column in ("query_image", "target_image"):
            raw = raw.cast_column(column, datasets.Image(decode=False))
        rows = sorted(raw.to_list(), key=lambda r: r["pair_id"])
        assert [{k: v for k, v in r.items() if not k.endswith("_image")} for r in rows] == rows_of(lake, split)
        assert all(r[f"{role}_image"]["bytes"] == files[r[f"{role}_id"]] for r in rows for role in ("query", "target"))
        picture = found[0]["target_image"]
        assert picture.size == Image.open(io.BytesIO(files[found[0]["target_id"]])).size
    images = datasets.load_dataset(str(tmp_path / "out"), "images", split="corpus", cache_dir=str(tmp_path / "cache"))
    raw = images.cast_column("image", datasets.Image(decode=False)).to_list()
    assert {r["image_id"]: r["image"]["bytes"] for r in raw} == files and len(raw) == len(files)
    captions = dict(zip(*(lake.read("images")[c].to_pylist() for c in ("image_id", "caption")), strict=True))
    assert all(r["caption"] == captions[r["image_id"]] for r in raw)
    assert len(glob.glob(str(tmp_path / "out/triplets/train-*"))) > 2 and len(glob.glob(str(tmp_path / "out/images/*"))) > 2


def test_hugging_face_rows_can_go_without_pictures(lake, tmp_path):
    import datasets

    export_huggingface(lake, profile(lake), tmp_path / "out", ExportSettings(pictures="once", splits=("train",)))
    found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert list(found) == ["train"]
    assert sorted(found["train"].to_list(), key=lambda r: r["pair_id"]) == rows_of(lake, "train")


def test_webdataset_reads_the_tables_and_the_pictures(lake, tmp_path):
    import webdataset

    export_webdataset(lake, profile(lake), tmp_path / "out", SMALL)
    files = images_by_id(lake, sorted(named(rows_of(lake))))
    for split in ("train", "test"):
        tars = sorted(glob.glob(str(tmp_path / f"out/{split}-*.tar")))
        samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
        rows = sorted((json.loads(s["json"]) for s in samples), key=lambda r: r["pair_id"])
        assert rows == as_json(rows_of(lake, split)) and len(tars) > (split == "train")
        for sample in samples:
            row = json.loads(sample["json"])
            assert sample["__key__"] == row["pair_id"]
            assert sample["query.png"] == files[row["query_id"]] and sample["target.png"] == files[row["target_id"]]
            mined = [i for i in row["hard_negatives"] if i not in (row["query_id"], row["target_id"])][:3]
            assert [sample[f"negative{n}.png"] for n in range(1, len(mined) + 1)] == [files[i] for i in mined]
    decoded = next(iter(webdataset.WebDataset(tars, shardshuffle=False).decode("pil").rename(query="query.jpg;query.png")))
    assert decoded["query"].mode == "RGB" and decoded["json"]["texts"]


def test_megapairs_reads_the_tables_and_the_pictures(lake, tmp_path):
    export_megapairs(lake, profile(lake), tmp_path / "out")
    files = images_by_id(lake, sorted(named(rows_of(lake))))
    for split in ("train", "test"):
        rows = lines_of(tmp_path / f"out/{split}.jsonl")
        path = {i: f"{i[:2]}/{i}.png" for i in files}
        expected = [
            {
                "q_img": path[r["query_id"]],
                "q_text": r["texts"],
                "t_img": path[r["target_id"]],
                "hns": [path[i] for i in r["hard_negatives"]],
            }
            for r in rows_of(lake, split)
        ]
        key = lambda r: (r["q_img"], r["t_img"])  # noqa: E731
        assert sorted(rows, key=key) == sorted(expected, key=key)
    found = {p.stem: p.read_bytes() for p in (tmp_path / "out/images").rglob("*.png")}
    assert found == files


@pytest.mark.parametrize("format_", EXPORTS)
def test_an_export_that_was_killed_goes_on_and_ends_the_same(lake, tmp_path, monkeypatch, format_):
    EXPORTS[format_](lake, profile(lake), tmp_path / "whole", SMALL)
    real, calls = os.replace, []

    def dying(source, target):
        calls.append(target)
        if len(calls) == 6:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            EXPORTS[format_](lake, profile(lake), tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / ".out.partial").rglob("*") if p.suffix in (".parquet", ".tar", ".png")}
    EXPORTS[format_](lake, profile(lake), tmp_path / "out", SMALL)
    now = {p: tmp_path / "out" / p.relative_to(tmp_path / ".out.partial") for p in kept}
    assert kept and all(now[p].stat().st_mtime_ns == written for p, written in kept.items())
    contents = lambda folder: {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}  # noqa: E731
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_partial_export_of_other_settings_is_begun_anew(lake, tmp_path):
    from mmret.export.folder import whole_folder

    with pytest.raises(RuntimeError, match="broken off"), whole_folder(tmp_path / "out", "one plan") as work:
        work.file("a.txt", lambda path: path.write_text("old"))
        raise RuntimeError("broken off")
    with whole_folder(tmp_path / "out", "another") as work:
        with pytest.raises(UserError, match="another process"), whole_folder(tmp_path / "out", "another"):
            pass
        work.file("b.txt", lambda path: path.write_text("new"))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b.txt"]
    with pytest.raises(UserError, match="exists"), whole_folder(tmp_path / "out", "x"):
        pass


@pytest.mark.parametrize("format_", EXPORTS)
def test_decisions_are_honoured(own_lake, tmp_path, format_):
    ids = own_lake.read("triplets")["pair_id"].to_pylist()
    log = DecisionLog(own_lake, "ann")
    log.add(ids[:5], "rejected")
    log.add(ids[5:8], "accepted")
    for decisions, expected in (("without_rejected", len(ids) - 5), ("only_accepted", 3), ("ignore", len(ids))):
        made = EXPORTS[format_](own_lake, profile(own_lake), tmp_path / decisions, ExportSettings(decisions=decisions))
        assert sum(made.count(*key) for key in made.rows) == expected
        assert made.left_out == ({} if expected == len(ids) else {"decision": len(ids) - expected})


def test_licences_kept_apart_lie_apart_with_their_own_pictures(own_lake, tmp_path):
    import datasets

    mixed = ["CC0-1.0", "CC BY-SA 4.0", "CC0-1.0 | CC BY-SA 4.0", None, "CC BY-NC 4.0"]
    for shard in own_lake.partitions("triplets"):
        rows = own_lake.read("triplets", shard).to_pylist()
        for n, row in enumerate(rows):
            row["licence"] = mixed[n % 5]
        own_lake.write("triplets", shard, pa.Table.from_pylist(rows, TRIPLETS), "x")
    licences = LicenceSettings(share_alike="apart", non_commercial="exclude")
    made = export_huggingface(own_lake, profile(own_lake), tmp_path / "out", ExportSettings(licences=licences))
    assert made.sets() == ["main", "share_alike"] and made.left_out["licence"] > 0
    for name, config in (("main", "triplets"), ("share_alike", "triplets_share_alike")):
        found = datasets.load_dataset(str(tmp_path / "out"), config, split="train", cache_dir=str(tmp_path / "cache"))
        expected = [r["pair_id"] for r in rows_of(own_lake, "train") if licence_set(r["licence"], licences) == name]
        assert sorted(found["pair_id"]) == expected
    export_megapairs(own_lake, profile(own_lake), tmp_path / "mp", ExportSettings(licences=licences))
    apart = lines_of(tmp_path / "mp/share_alike/train.jsonl")
    pictures = tmp_path / "mp/share_alike/images"
    assert apart and all((pictures / name).is_file() for r in apart for name in (r["q_img"], r["t_img"], *r["hns"]))


@pytest.mark.parametrize("format_", EXPORTS)
def test_what_a_checkpoint_was_trained_on_is_exported_again(own_lake, tmp_path, format_):
    before = rows_of(own_lake)
    for shard in own_lake.partitions("triplets"):
        own_lake.write("triplets", shard, own_lake.read("triplets", shard).slice(3), "changed")
    made = EXPORTS[format_](open_as_of(own_lake, "demo"), profile(own_lake), tmp_path / "then", SMALL)
    now = EXPORTS[format_](own_lake, profile(own_lake), tmp_path / "now", SMALL)
    assert sum(made.count(*key) for key in made.rows) == len(before) > sum(now.count(*key) for key in now.rows)
    if format_ != "megapairs":
        assert f"{len(before):,} triplets" in (tmp_path / "then" / "README.md").read_text()


def test_the_command_says_what_it_wrote_and_what_is_wrong(own_lake, tmp_path):
    def call(*more: str):
        done = CliRunner().invoke(app, ["export", "--lake", str(own_lake.root), *more])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.stdout

    out = call("--out", str(tmp_path / "a"), "--format", "webdataset", "--split", "test", "--json")
    assert json.loads(out)["sets"]["main"]["test"] == len(rows_of(own_lake, "test"))
    with pytest.raises(UserError, match="share_alike=exclude"):
        call("--out", str(tmp_path / "b"), "--format", "megapairs", "--licence", "share_alike=perhaps")
    with pytest.raises(UserError, match="not both"):
        call("--out", str(tmp_path / "b"), "--format", "megapairs", "--without-rejected", "--only-accepted")
    with pytest.raises(UserError, match="nothing to export"):
        call("--out", str(tmp_path / "b"), "--format", "megapairs", "--only-accepted")
    with pytest.raises(UserError, match="mmret run"):
        plan(Lake(tmp_path / "none"), ExportSettings(), "x")


@pytest.mark.parametrize("format_", EXPORTS)
def test_text_stays_data_in_every_export(hostile_lake, tmp_path, format_):
    lake = Lake(hostile_lake)
    EXPORTS[format_](lake, profile(lake), tmp_path / "out", SMALL)
    plain = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./")
    names = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")]
    for tar in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(tar) as opened:
            names += opened.getnames()
    assert all(set(name) <= plain and ".." not in name for name in names)
    if format_ == "megapairs":
        lines = (tmp_path / "out/train.jsonl").read_text().splitlines()
        assert sorted(t for line in lines for t in json.loads(line)["q_text"]) == sorted(
            t for r in rows_of(lake, "train") for t in r["texts"]
        )
