"""A picture that opts out after it was mined, described and trained on leaves every table, and on request every file."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmret.annotate.store import AnswerStore
from mmret.cli.status import _opted_out_since
from mmret.errors import UserError
from mmret.forget import forget_opted_out
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake, history
from mmret.lake.as_of import open_as_of
from mmret.lake.configuration import resolve
from mmret.retriever.train.data_state import checkpoint_rows
from tests.small_runs import command, run

pytestmark = pytest.mark.slow


def content(path: Path) -> bytes:
    """What a file holds, as it stands and, where it is compressed, unpacked."""
    unpacked = str(pq.read_table(path, partitioning=None).to_pydict()) if path.suffix == ".parquet" else ""
    return path.read_bytes() + unpacked.encode()


def files_with(lake: Lake, needle: bytes) -> list[str]:
    return sorted(str(p.relative_to(lake.root)) for p in lake.root.rglob("*") if p.is_file() and needle in content(p))


@pytest.fixture(scope="module")
def opted_out(small_lake, tmp_path_factory) -> tuple[Lake, dict[str, bytes], dict, dict]:
    """A copy of the small lake after two pictures of its triplets opted out; their files, what was there, the run's summary."""
    folder = tmp_path_factory.mktemp("forget")
    lake = Lake(shutil.copytree(small_lake[0], folder / "lake"))
    rows = checkpoint_rows(lake, "demo").to_pylist()
    shard = lake.read("images", "shard-00001", ["image_id"])["image_id"].to_pylist()
    ids = [
        next(r["query_id"] for r in rows if r["query_id"] in shard),
        next(r["target_id"] for r in rows if r["target_id"] in shard),
    ]
    before = {"rows": rows, "images": lake.read("images").num_rows, "written": lake.facts("images", "shard-00000").written}
    theirs = {r["pair_id"] for r in rows if ids[0] == r["query_id"]}
    before["keys"] = [r["request_key"] for r in lake.read("descriptions").to_pylist() if r["pair_id"] in theirs]
    pictures = images_by_id(lake, ids)
    (folder / "list.txt").write_text("\n".join(ids) + "\n")
    with pytest.raises(UserError, match="there is no file"):
        resolve_and_read(lake, folder / "no.txt")
    summary = run(command(lake.root, "--set", f"corpus.opt_out={folder / 'list.txt'}"))
    return lake, pictures, before, summary


def resolve_and_read(lake: Lake, path: Path) -> None:
    from mmret.cli.run import _try_opt_outs

    _try_opt_outs(resolve(lake, overrides={"corpus.opt_out": str(path)})[0])


def test_after_the_next_run_the_pictures_are_in_no_table_and_nothing_is_lost(opted_out):
    lake, pictures, before, summary = opted_out
    assert summary["rejects"]["opted_out"] == len(pictures) and not summary["checks_failed"]
    assert summary["rows"]["images"] == before["images"] - len(pictures)
    assert lake.facts("images", "shard-00000").written == before["written"], "a shard of which nothing opted out stays as it is"
    for table in ("images", "clip_image", "dino_image", "caption", "candidates", "neighbours", "pairs", "triplets"):
        text = json.dumps(lake.read(table).to_pylist())
        assert not [i for i in pictures if i in text], table
    assert not images_by_id(lake, list(pictures))
    for signal in ("clip_image", "dino_image", "caption"):
        assert not set(lake.lance(signal).to_arrow()["image_id"].to_pylist()) & set(pictures)
    again = run(command(lake.root))
    assert again["up_to_date"]


def test_an_earlier_state_is_trained_on_and_exported_without_them_and_the_checkpoint_is_said_to_know_them(opted_out, tmp_path):
    from mmret.export.rows import ExportSettings, triplets
    from mmret.retriever.train.rows import training_rows

    lake, pictures, before, _ = opted_out
    then = open_as_of(lake, history.runs(lake)[0]["run"])
    assert any(i in json.dumps(then.read("triplets").to_pylist()) for i in pictures)
    profile = resolve(lake)[0]
    rows = training_rows(then, profile.recipes["demo"], profile.licences, profile.evaluate).to_pylist()
    for part in triplets(then, "shard-00001", ExportSettings()).values():
        rows += part.to_pylist()
    assert rows and not [i for i in pictures if i in json.dumps(rows)]
    assert _opted_out_since(lake) == {"opted_out_since": {}}, "the checkpoint was trained anew"


def test_forgetting_leaves_no_byte_of_them_in_any_file_and_says_which_checkpoints_lost_their_rows(opted_out, tmp_path):
    source, pictures, before, _ = opted_out
    lake = Lake(shutil.copytree(source.root, tmp_path / "lake"))
    state = json.loads(next((lake.root / "history/states").glob("*.json")).read_text())
    assert state
    old = next(lake.root / v.key for v in history.versions(lake, "checkpoints", "demo"))
    shutil.copy(old, lake.path("checkpoints", "demo"))  # as if it had not been trained anew
    rows = checkpoint_rows(lake, "demo").to_pylist()
    assert rows == before["rows"]
    assert _opted_out_since(lake) == {"opted_out_since": {"demo": 2}}
    assert files_with(lake, next(iter(pictures.values()))), "the bytes are there until they are forgotten"
    assert AnswerStore(lake.root / "answers").look_up("describe", before["keys"])
    done = subprocess.run(
        [sys.executable, "-m", "mmret", "compact", "--lake", str(lake.root), "--forget-opted-out", "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["forgotten"]
    assert told["pictures"] == 2 and told["checkpoints"] == {"demo": 2} and told["unlisted"] == ["demo"]
    for image_id, data in pictures.items():
        assert not files_with(lake, data) and not files_with(lake, data[len(data) // 2 :][:64])
        listing = ("corpus_manifest/", "rejects/", "history/corpus_manifest/", "history/rejects/", "list.txt")
        assert [f for f in files_with(lake, image_id.encode()) if not f.startswith(listing)] == []
    store = AnswerStore(lake.root / "answers")
    used = {r["request_key"] for r in lake.read("descriptions").to_pylist()}
    assert not store.look_up("describe", [k for k in before["keys"] if k not in used])
    assert len(store.look_up("describe", sorted(used))) == len(used)
    with pytest.raises(UserError, match="2 pictures in them have opted out"):
        checkpoint_rows(lake, "demo")
    assert _opted_out_since(lake) == {"opted_out_since": {"demo": 2}}
    assert forget_opted_out(lake).versions == 0, "a second time there is nothing to drop"


def test_what_current_tables_still_use_is_not_forgotten_behind_their_back(small_lake, tmp_path):
    from mmret.ingest.stage import seal_corpus

    lake = Lake(shutil.copytree(small_lake[0], tmp_path / "lake"))
    (tmp_path / "list.txt").write_text(lake.read("images", columns=["image_id"])["image_id"][0].as_py())
    seal_corpus(lake, resolve(lake, overrides={"corpus.opt_out": str(tmp_path / "list.txt")})[0], "x")
    with pytest.raises(UserError, match="partitions still use some of them .*run `mmret run"):
        forget_opted_out(lake)
