"""Opt-out lists: what an entry means, what a bad line does, and that a picture that is out is a reject, also afterwards."""

import hashlib
import json

import pytest

from mmret.curation.opted_out import opted_out_ids
from mmret.errors import UserError
from mmret.hashing import content_id
from mmret.ingest.opt_out.entries import Entry, OptOuts
from mmret.ingest.opt_out.lists import read_opt_outs
from mmret.ingest.stage import ingest_shard, seal_corpus
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from tests.ingest.files import jsonl, png, write

ID = hashlib.sha256(png(0)).hexdigest()


def listed(tmp_path, name: str, *lines: str) -> str:
    return str(write(tmp_path, {name: "\n".join(lines) + "\n"}) / name)


@pytest.fixture
def folder(tmp_path):
    """Ten pictures, the last a copy of the first under another name, with an address each."""
    folder = tmp_path / "pictures"
    names = [f"a/{n}.png" for n in range(5)] + [f"b/{n}.png" for n in range(5, 9)] + ["b/copy.png"]
    for n, name in enumerate(names):
        write(folder, {name: png(n % 9)})
    rows = [{"image": n, "caption": f"picture {n}", "source": f"https://Site{i % 3}.example.org/{n}"} for i, n in enumerate(names)]
    write(folder, {"captions.jsonl": jsonl(*rows)})
    return folder


def run(lake: Lake, *lists: str, forget_missing: bool = False, **choice) -> dict[str, str | None]:
    """What stages corpus_manifest and images do; the reason of each path, and for `opted_out` its entry."""
    settings, choices = resolve(lake, overrides={"corpus.opt_out": list(lists)}, **choice)
    lake.write_configuration(choices)
    seal_corpus(lake, settings, "x", forget_missing)
    for shard in lake.shards():
        ingest_shard(lake, shard, settings.ingest, "x")
    rows = lake.read("corpus_manifest").to_pylist()
    return {r["path"]: f"out: {r['detail']}" if r["reason"] == "opted_out" else r["reason"] for r in rows}


@pytest.mark.parametrize(
    ("line", "out"),
    [
        (ID[:32], {"a/0.png", "b/copy.png"}),
        (ID.upper(), {"a/0.png", "b/copy.png"}),
        (hashlib.md5(png(0)).hexdigest(), {"a/0.png", "b/copy.png"}),
        (f"md5:{hashlib.md5(png(3)).hexdigest()}", {"a/3.png"}),
        ("http://site1.example.org/a/1.png#top", {"a/1.png"}),
        ("site1.example.org/*", {"a/1.png", "a/4.png", "b/7.png"}),
        ("https://example.org/*", None),
        ("example.org/a/*", {f"a/{n}.png" for n in range(5)} | {"b/copy.png"}),
        ("site0.example.org", {"a/0.png", "a/3.png", "b/6.png", "b/copy.png"}),
        ("a/3.png", {"a/3.png"}),
        ("path:b/", {f"b/{n}.png" for n in range(5, 9)} | {"b/copy.png", "a/0.png"}),
        ("*/3.*", {"a/3.png"}),
        ("nothing/like/it.png", set()),
    ],
)
def test_an_entry_means_a_picture_wherever_it_lies_before_and_after_it_was_taken(tmp_path, folder, line, out):
    every = {str(p.relative_to(folder)) for p in folder.rglob("*.png")}
    list_, out = listed(tmp_path, "list.txt", "# a comment", "", f"{line}  # asked for in May"), every if out is None else out
    afterwards = Lake(tmp_path / "afterwards")
    assert run(afterwards, sources=[str(folder)], shard_size=4)["b/copy.png"] == "duplicate"
    at_once = Lake(tmp_path / "at_once")
    for lake in (afterwards, at_once):
        found = run(lake, list_, sources=[str(folder)], shard_size=4)
        assert {path for path, why in found.items() if (why or "").startswith("out: ")} == out
        assert {why.removeprefix("out: ") for path, why in found.items() if path in out} <= {line, line.lower()}
        assert set(found) == every, "no row is lost"
        assert len(lake.read("images")) + len(lake.read("rejects")) == len(every)
        stored = lake.lance("images").to_arrow()["path"].to_pylist() if lake.has_lance("images") else []
        assert not set(stored) & out
        written = {s: lake.facts("corpus_manifest", s).written for s in lake.shards()}
        assert run(lake, list_) == found
        assert written == {s: lake.facts("corpus_manifest", s).written for s in lake.shards()}, "a second run writes nothing"
    remarks = at_once.read("remarks").to_pylist()
    assert [r["count"] for r in remarks if r["remark"] == "opt_out_without_picture"] == ([] if out else [1])


def test_only_shards_with_a_picture_that_opted_out_are_written_again_and_a_withdrawn_entry_brings_it_back(tmp_path, folder):
    lake = Lake(tmp_path / "lake")
    before = run(lake, sources=[str(folder)], shard_size=4)
    digests = {s: lake.facts("corpus_manifest", s).digest for s in lake.shards()}
    list_ = listed(tmp_path, "list.txt", "b/6.png")
    run(lake, list_)
    changed = [s for s in lake.shards() if lake.facts("corpus_manifest", s).digest != digests[s]]
    assert changed == ["shard-00001"]
    (tmp_path / "list.txt").write_text("nobody/*\nb/6.png\n")
    found = run(lake, list_)
    assert found["b/6.png"] == "out: b/6.png"
    (tmp_path / "list.txt").write_text("# withdrawn\n")
    assert run(lake, list_) == before and "b/6.png" in lake.read("images")["path"].to_pylist()


def test_a_picture_stays_out_when_its_file_is_gone_and_when_it_returns_under_another_name(tmp_path, folder):
    lake = Lake(tmp_path / "lake")
    list_ = listed(tmp_path, "list.txt", "a/3.png")
    run(lake, list_, sources=[str(folder)], shard_size=4)
    (folder / "a/3.png").unlink()
    write(folder, {"captions.jsonl": (folder / "captions.jsonl").read_text().replace("a/3.png", "c/3.png"), "c/3.png": png(3)})
    found = run(lake, list_)
    assert found["c/3.png"] == "out: a/3.png"
    assert not [r for r in lake.read("remarks").to_pylist() if r["remark"] == "missing"]


def test_tables_and_json_lines_have_the_same_entries_as_texts(tmp_path):
    entries = [ID[:32], ID, f"md5:{ID[:32]}", "https://example.org/a.jpg", "drafts/*"]
    names = ["image_id", "sha256", "md5", "url", "path"]
    values = [e.removeprefix("md5:") for e in entries]
    rows = [",".join(v if k == n else "" for k in names) + ",2026-05-01" for n, v in zip(names, values, strict=True)]
    lists = [
        listed(tmp_path, "list.csv", "# who asked", ",".join(names) + ",asked", *rows),
        listed(tmp_path, "list.tsv", "entry\twhy", *(f"{e}\t" for e in entries)),
        listed(tmp_path, "list.jsonl", *(json.dumps({n: v, "why": None}) for n, v in zip(names, values, strict=True))),
        listed(tmp_path, "texts.jsonl", *map(json.dumps, entries)),
        listed(tmp_path, "list.txt", *entries),
    ]
    for each in lists:
        found = read_opt_outs([each])
        assert ID[:32] in found.ids and ID[:32] in found.md5, each
        assert found.match("r", "drafts/1.png", None, None, None) and found.match("r", "x", "http://example.org/a.jpg", None, None)


def test_all_bad_lines_are_said_at_once_with_file_and_line_before_anything_is_sealed(tmp_path, folder):
    bad = ["a" * 40, "https:///x", "../up/*", "*", '{"url": 1}', "md5:12"]
    list_ = listed(tmp_path, "list.txt", "fine.png", *bad)
    other = listed(tmp_path, "other.jsonl", '{"what": 1}', "{", '{"url": 5}')
    lake = Lake(tmp_path / "lake")
    with pytest.raises(UserError, match=r"with 9 lines.*list.txt line 2: has 40 hex digits.*line 3.*line 4.*and 6 more") as error:
        run(lake, list_, other, sources=[str(folder)])
    assert "\n" not in str(error.value) and not lake.shards()
    for name, lines, said in (
        ("c.csv", ["name,why", "a,b"], "no column of an opt-out list"),
        ("d.csv", ["url,why", "a"], "c|d.csv line 2: has 1 cells and the first line 2"),
        ("e.txt", ["bad\x01sign"], "control character"),
        ("f.txt", ["https://a b"], "blanks inside an address"),
    ):
        with pytest.raises(UserError, match=said):
            read_opt_outs([listed(tmp_path, name, *lines)])
    (tmp_path / "g.txt").write_bytes(b"fine\n\xff\xfa\n")
    with pytest.raises(UserError, match="g.txt line 2: is not UTF-8"):
        read_opt_outs([str(tmp_path / "g.txt")])


def test_a_list_that_is_gone_stops_the_run_so_that_nothing_comes_back_by_accident(tmp_path, folder):
    lake = Lake(tmp_path / "lake")
    list_ = listed(tmp_path, "list.txt", "a/3.png")
    run(lake, list_, sources=[str(folder)])
    (tmp_path / "list.txt").unlink()
    with pytest.raises(UserError, match="there is no file .*list.txt"):
        run(lake, list_)
    assert "a/3.png" not in lake.read("images")["path"].to_pylist()


def test_addresses_are_found_among_other_columns_and_a_name_is_no_address(tmp_path):
    out = OptOuts.of([Entry("place", "example.org/*"), Entry("path", "c[1]/x.png")])
    assert out.match("r", "x", "a name", json.dumps({"page": ["https://a.example.org/1"]}), None) == "example.org/*"
    assert out.match("r", "x", "example.org was asked", None, None) is None
    assert out.match("r", "https://www.example.org/1.jpg", None, None, None) == "example.org/*"
    assert out.match("r", "c[1]/x.png", None, None, None), "a path is no pattern but for * and ?"
    assert out.match("/data/r", "notexample.org/1", "https://notexample.org/1", None, None) is None


def test_relative_lists_are_remembered_as_they_lie_and_one_needs_no_brackets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, choices = resolve(Lake(tmp_path / "lake"), sources=["shapes:3"], overrides={"corpus.opt_out": "list.txt"})
    assert settings.corpus.opt_out == (str(tmp_path / "list.txt"),)
    assert choices["overrides"]["corpus.opt_out"] == [str(tmp_path / "list.txt")]


def test_a_picture_without_a_caption_is_out_as_well_since_one_may_be_written_for_it(tmp_path):
    folder = write(tmp_path / "pictures", {"a.png": png(0), "b.png": png(1), "c.png": png(2)})
    write(folder, {"captions.jsonl": jsonl({"image": "c.png", "caption": "the third"})})
    lake = Lake(tmp_path / "lake")
    run(lake, sources=[str(folder)])
    list_ = listed(tmp_path, "list.txt", "a.png")
    assert run(lake, list_) == {"a.png": "out: a.png", "b.png": "no_caption", "c.png": None}
    written = lake.facts("corpus_manifest", "shard-00000").written
    assert run(lake, list_)["a.png"] == "out: a.png" and lake.facts("corpus_manifest", "shard-00000").written == written
    (tmp_path / "list.txt").write_text("")
    assert run(lake, list_) == {"a.png": "no_caption", "b.png": "no_caption", "c.png": None}


@pytest.mark.parametrize("what", ["deleted", "replaced"])
def test_a_picture_that_left_the_corpus_before_can_still_opt_out_and_the_file_in_its_place_need_not(tmp_path, folder, what):
    lake = Lake(tmp_path / "lake")
    run(lake, sources=[str(folder)], shard_size=4)
    old = content_id(png(3))
    if what == "deleted":
        (folder / "a/3.png").unlink()
        write(folder, {"captions.jsonl": "".join(s for s in (folder / "captions.jsonl").open() if "a/3.png" not in s)})
    else:
        write(folder, {"a/3.png": png(30)})
    run(lake, forget_missing=True)
    reasons = {r["image_id"]: r["reason"] for r in lake.read("corpus_manifest").to_pylist()}
    assert reasons[old] == what
    list_ = listed(tmp_path, "list.txt", old)
    found = run(lake, list_, forget_missing=True)
    assert opted_out_ids(lake).to_pylist() == [old]
    assert (content_id(png(30)) in lake.read("images")["image_id"].to_pylist()) == (what == "replaced")
    written = {s: lake.facts("corpus_manifest", s).written for s in lake.shards()}
    assert run(lake, list_, forget_missing=True) == found
    assert written == {s: lake.facts("corpus_manifest", s).written for s in lake.shards()}, "a second run writes nothing"


def test_a_picture_that_opted_out_stays_out_when_its_file_is_replaced_twice(tmp_path, folder):
    lake, old = Lake(tmp_path / "lake"), content_id(png(3))
    list_ = listed(tmp_path, "list.txt", old)
    run(lake, list_, sources=[str(folder)], shard_size=4)
    for seed in (30, 31):
        write(folder, {"a/3.png": png(seed, (24 + seed, 16))})
        run(lake, list_)
        rows = {r["image_id"]: r["reason"] for r in lake.read("corpus_manifest").to_pylist() if r["path"] == "a/3.png"}
        assert rows[old] == "opted_out" and rows[content_id(png(seed, (24 + seed, 16)))] is None
    assert sorted(map(str, rows.values())) == ["None", "opted_out", "replaced"]


def test_a_picture_of_which_another_row_says_that_it_is_out_keeps_its_other_rows_as_they_are(tmp_path, folder):
    lake = Lake(tmp_path / "lake")
    run(lake, sources=[str(folder)], shard_size=4)
    (folder / "a/0.png").unlink()
    write(folder, {"captions.jsonl": "".join(s for s in (folder / "captions.jsonl").open() if "a/0.png" not in s)})
    assert run(lake, forget_missing=True)["b/copy.png"] is None
    found = run(lake, listed(tmp_path, "list.txt", ID[:32]))
    assert (found["a/0.png"], found["b/copy.png"]) == ("deleted", f"out: {ID[:32]}")
    (tmp_path / "list.txt").write_text("# withdrawn\n")
    assert run(lake, str(tmp_path / "list.txt"))["b/copy.png"] is None
