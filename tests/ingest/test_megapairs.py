"""Import of released triplets: what was exported comes back equal, no line is lost, a crash changes nothing, runs train on it."""

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow.compute as pc
import pytest
import yaml
from typer.testing import CliRunner

from mmret.cli import app
from mmret.errors import UserError
from mmret.export.megapairs import export_megapairs
from mmret.ingest.released import megapairs
from mmret.ingest.released.annotations import Annotation, Refusal, read_annotations
from mmret.ingest.released.megapairs import Release, import_release
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.settings import PROFILES, IngestSettings
from mmret.warehouse import connect
from tests.small_runs import command, run

SAME = ["pair_id", "query_id", "target_id", "texts", "hard_negatives", "split", "licence"]


@pytest.fixture(scope="module")
def exported(small_lake, tmp_path_factory) -> Path:
    lake, out = Lake(small_lake[0]), tmp_path_factory.mktemp("release") / "out"
    export_megapairs(lake, resolve(lake)[0], out)
    return out


@pytest.fixture()
def profile(small_lake, tmp_path) -> Path:
    """The demo's settings without towers of its own: what is trained starts from a folder, as it would from a hub."""
    data = yaml.safe_load((PROFILES / "demo.yaml").read_text())
    data.pop("towers")
    base = str(small_lake[0] / "towers" / "clip")
    data["mine"] = {}
    data["encoders"] = {s: {"kind": e["kind"], "model": base} for s, e in data["encoders"].items()}
    data["recipes"] = {"demo": data["recipes"]["demo"] | {"base": base, "steps": 4, "batch_size": 16}}
    path = tmp_path / "given.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def releases(out: Path, lines: int = 50_000) -> list[Release]:
    return [Release(out / f"{split}.jsonl", out / "images", licence="CC0-1.0", lines=lines) for split in ("train", "test")]


def settings(lake: Lake, profile: Path):
    return resolve(lake, str(profile), imports=["given"])[0]


def rows(lake: Lake) -> list[dict]:
    return lake.read("triplets", columns=SAME).sort_by("pair_id").to_pylist()


def test_what_was_exported_comes_back_equal_and_twice_is_once(small_lake, exported, profile, tmp_path):
    own, lake = Lake(small_lake[0]), Lake(tmp_path / "lake")
    counts = import_release(lake, releases(exported), settings(lake, profile))
    assert rows(lake) == rows(own) and counts["triplets"] == len(rows(own))
    assert not [reason for reason in counts if reason.startswith("refused")] and not counts["negatives_missing"]
    images = lake.read("images", columns=["image_id"])["image_id"]
    used = {i for r in rows(own) for i in (r["query_id"], r["target_id"], *r["hard_negatives"])}
    assert images.to_pylist() and set(images.to_pylist()) == used and len(set(images.to_pylist())) == len(images)
    assert lake.lance("images").count_rows() == len(images)
    before = {p: p.stat().st_mtime_ns for p in lake.root.rglob("*.parquet")}
    assert import_release(lake, releases(exported), settings(lake, profile)) == counts
    assert before == {p: p.stat().st_mtime_ns for p in lake.root.rglob("*.parquet")}
    with connect(lake) as sql:
        wide = sql.execute("SELECT DISTINCT instruction_model, instruction_prompt, query_source, description FROM triplets_wide")
        assert wide.fetchall() == [("MegaPairs release", "released", "MegaPairs release", None)]


def test_a_crash_between_and_inside_partitions_changes_nothing(exported, profile, tmp_path, monkeypatch):
    whole, lake = Lake(tmp_path / "whole"), Lake(tmp_path / "lake")
    few = releases(exported, lines=20)
    import_release(whole, few, settings(whole, profile))
    write, calls = Lake.write, Counter()

    def crash(self, table, *more, **notes):
        calls[table] += 1
        if (table, calls[table]) in (("triplets", 2), ("pairs", 4), ("rejects", 7)):
            raise KeyboardInterrupt
        return write(self, table, *more, **notes)

    with monkeypatch.context() as crashing:
        crashing.setattr(Lake, "write", crash)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                import_release(lake, few, settings(lake, profile))
    import_release(lake, few, settings(lake, profile))
    for table in ("triplets", "images", "rejects", "pairs", "corpus_manifest"):
        assert lake.partitions(table) == whole.partitions(table) and len(lake.partitions(table)) > 3
        assert lake.read(table).equals(whole.read(table)), table
    assert lake.lance("images").count_rows() == lake.read("images").num_rows
    assert len(set(lake.read("triplets")["pair_id"].to_pylist())) == lake.read("triplets").num_rows


def test_every_line_is_a_triplet_or_a_reject_with_its_reason(exported, profile, tmp_path):
    lines = [json.loads(line) for line in (exported / "train.jsonl").read_text().splitlines()]
    good, pictures = lines[0], tmp_path / "pictures"
    shutil.copytree(exported / "images", pictures)
    broken = pictures / lines[5]["t_img"]
    broken.write_bytes(b"no picture")
    bad = [
        {**good, "t_img": "no/such.png"},
        {**good, "q_img": "../../etc/passwd"},
        {**good, "q_text": []},
        {**good, "q_text": 7},
        {**good, "t_img": good["q_img"]},
        {k: v for k, v in good.items() if k != "t_img"},
        good,
        {**lines[1], "hns": "x.png"},
        {**lines[2], "q_texts": lines[2]["q_text"], "q_text": None},
        {**lines[5]},
        {**lines[3], "hns": [good["q_img"], 3]},
    ]
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join([json.dumps(good), *map(json.dumps, bad), "{not json", ""]))
    lake = Lake(tmp_path / "lake")
    counts = import_release(lake, [Release(file, pictures)], settings(lake, profile))
    said = [r for r in lake.read("rejects").to_pylist() if ":" in r["path"]]
    assert Counter(r["reason"] for r in said) == {
        "picture_missing": 3,
        "no_text": 1,
        "bad_annotation": 4,
        "target_is_the_query": 1,
        "duplicate_pair": 1,
    }
    assert counts["lines"] == 13 == counts["triplets"] + len(said) and counts["negatives_missing"] >= 1
    assert {r["path"] for r in said} >= {"train.jsonl:2", "train.jsonl:13"}
    manifest = lake.read("corpus_manifest").num_rows
    assert manifest == lake.read("images").num_rows + lake.read("rejects").num_rows
    reasons = {r["path"]: r["reason"] for r in lake.read("rejects").to_pylist()}
    assert reasons["no/such.png"] == "missing_file" and reasons["../../etc/passwd"] == "unsafe_path"
    assert reasons[lines[5]["t_img"]] not in (None, "missing_file")
    assert all(r["hard_negatives"][0] == r["query_id"] and r["target_id"] not in r["hard_negatives"] for r in rows(lake))


def test_pictures_and_pairs_that_the_lake_has_are_not_taken_twice(small_lake, exported, tmp_path):
    lake = Lake(shutil.copytree(small_lake[0], tmp_path / "lake"))
    before, own = rows(lake), lake.read("images").num_rows
    counts = import_release(lake, releases(exported)[:1], resolve(lake)[0])
    assert counts["triplets"] == 0 and counts["refused: duplicate_pair"] == counts["lines"] and rows(lake) == before
    assert lake.read("images").num_rows == own == lake.lance("images").count_rows()
    file = tmp_path / "others.jsonl"
    shown = json.loads((exported / "train.jsonl").read_text().splitlines()[0])
    file.write_text(json.dumps({"q_img": shown["t_img"], "t_img": shown["q_img"], "q_text": "the other way round"}))
    mined = {r["pair_id"] for r in before}
    if import_release(lake, [Release(file, exported / "images")], resolve(lake)[0])["triplets"]:
        given = [r for r in rows(lake) if r["pair_id"] not in mined]
        assert [r["texts"] for r in given] == [["the other way round"]] and given[0]["licence"] == "CC0-1.0"
    assert lake.shards() == ["shard-00000", "shard-00001"]


def test_a_run_trains_on_what_was_imported_and_then_has_nothing_to_do(exported, profile, tmp_path):
    lake = tmp_path / "lake"
    arguments = [
        "import",
        "megapairs",
        "--lake",
        str(lake),
        "--profile",
        str(profile),
        "--images",
        str(exported / "images"),
        "--json",
        "--annotations",
        str(exported / "train.jsonl"),
        "--annotations",
        str(exported / "test.jsonl"),
    ]
    counts = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout.splitlines()[-1])
    first = run(command(lake))
    assert first["rows"]["checkpoints"] == 1 and first["rows"]["triplets"] == counts["triplets"] and first["shards"] == 0
    assert first["checks_failed"] == []
    train = pc.sum(pc.equal(Lake(lake).read("triplets")["split"], "train")).as_py()
    assert Lake(lake).facts("checkpoints", "demo").notes["triplets"] == train
    assert run(command(lake))["up_to_date"]


def test_a_wrong_folder_and_a_profile_without_base_are_said_at_once(exported, profile, tmp_path):
    lake = Lake(tmp_path / "lake")
    with pytest.raises(UserError, match="none of the first"):
        import_release(lake, [Release(exported / "train.jsonl", exported)], settings(lake, profile))
    with pytest.raises(UserError, match="no annotation file"):
        import_release(lake, [Release(exported / "nothing.jsonl", exported)], settings(lake, profile))
    with pytest.raises(UserError, match="--profile local"):
        CliRunner().invoke(
            app,
            [
                "import",
                "megapairs",
                "--lake",
                str(lake.root),
                "--images",
                str(exported / "images"),
                "--annotations",
                str(exported / "train.jsonl"),
            ],
            catch_exceptions=False,
        )
    assert not lake.partitions("images")


def test_both_names_of_the_texts_and_one_text_alone_are_read(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"q_img": "a", "t_img": "b", "q_texts": " one  text ", "hns": ["a", "c", "c", "b"]}\n\n[1]\n')
    found = list(read_annotations(file))
    assert found[0] == Annotation(1, "a", "b", ("one text",), ("c",))
    assert isinstance(found[1], Refusal) and found[1].line == 3


def test_the_version_is_part_of_what_a_partition_is_made_from(exported, profile, tmp_path, monkeypatch):
    lake = Lake(tmp_path / "lake")
    import_release(lake, releases(exported)[1:], settings(lake, profile))
    before = lake.facts("triplets", lake.partitions("triplets")[0])
    monkeypatch.setattr(megapairs, "VERSION", "2")
    import_release(lake, releases(exported)[1:], settings(lake, profile))
    after = lake.facts("triplets", lake.partitions("triplets")[0])
    assert after.inputs != before.inputs and after.rows == before.rows


def test_the_progress_of_an_import_is_in_lines_of_its_annotations(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    (tmp_path / "train.jsonl").write_text('{"q_img": "a.png"}\n' * 5)
    told = []
    monkeypatch.setattr(megapairs, "advance", lambda *said: told.append(said))
    monkeypatch.setattr(megapairs._Import, "_complete", lambda *_: True)
    lake = SimpleNamespace(partitions=lambda _: [], facts=lambda *_: SimpleNamespace(notes={"counts": {"lines": 2, "triplets": 1}}))
    profile = SimpleNamespace(ingest=IngestSettings(), evaluate=SimpleNamespace(held_out=0.1))
    release = Release(tmp_path / "train.jsonl", tmp_path / "images", licence="CC0-1.0", lines=2)
    assert megapairs._Import(lake, release, profile, None).run() == {"lines": 6, "triplets": 3}
    assert told == [("import", done, None, "train.jsonl") for done in (2, 4, 6)]
