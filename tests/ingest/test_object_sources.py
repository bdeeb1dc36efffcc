"""Invariants of sources in an object store: they list, seal and refuse what the same files in a local folder do; what is asked of
the store is bounded by what is wanted; a store that does not answer ends the run and costs no row; local sources import none."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmret.errors import UserError
from mmret.hashing import content_id
from mmret.ingest.folders.tar_index import TarIndex
from mmret.ingest.in_memory import read_source
from mmret.ingest.object_store.lost import ending_when_lost
from mmret.ingest.object_store.path import object_path
from mmret.ingest.object_store.read_ahead import BLOCK, ReadAhead
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.released.megapairs import Release, import_release
from mmret.ingest.seal import hash_file, seal
from mmret.ingest.sources import open_reader, open_source
from mmret.ingest.stage import ingest_shard
from mmret.ingest.watch import signature
from mmret.ingest.web.fetched import fetched_folder
from mmret.lake import Lake
from mmret.lake.configuration import resolve, source_name
from mmret.settings import CorpusSettings, DownloadSettings, IngestSettings
from mmret.storage import StorageUnreachable
from tests.ingest.buckets import Buckets, open_buckets
from tests.ingest.files import captioned, jsonl, png, tar, write


@pytest.fixture()
def buckets(tmp_path, monkeypatch) -> Buckets:
    return open_buckets(tmp_path, monkeypatch)


TEXTS = ("path", "caption", "licence", "source", "extra", "size", "reason", "detail")


def parquet(path: Path, rows: list[dict], **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def everything(folder: Path) -> Path:
    """One of each that a folder may hold, well and badly."""
    captioned(folder / "named", {"a.png": png(1), "in/b.png": png(2)})
    write(folder / "named", {"c.png": png(3), "c.txt": "a third", "notes.pdf": "%PDF", ".hidden.png": png(4)})
    lines = ("images/x.PNG", "x.png", "gone.png", "../named/a.png", "/etc/passwd", "ex%20y.png")
    write(folder / "csv" / "images", {"x.png": png(5), "ex y.png": png(6)})
    write(folder / "csv", {"data.csv": "file_name;caption\n" + "".join(f"{n};the picture {n}\n" for n in lines)})
    texts = {"a.png": png(7), "a.txt": "plain", "b.jpg": png(8), "b.jpg.json": '{"caption": "from JSON"}', "e.png": png(9)}
    write(folder / "side", {**texts, "lonely.txt": "of nobody", "empty.png": b"", "d.png": png(10), "d.caption": "d\n\nE"})
    members = {"0.png": png(11), "0.txt": "of the tar", "1.png": png(12), "1.json": '{"caption": "one"}', "2.txt": "alone"}
    tar(folder / "tars" / "t.tar", members)
    tar(folder / "tars" / "00000.tar", {"k1.png": png(13), "k2.png": png(14)})
    parquet(folder / "tars" / "00000.parquet", [{"key": "k1", "caption": "told beside"}, {"key": "k9", "caption": "of none"}])
    pictures = [{"image": {"bytes": png(20 + n), "path": None}, "text": f"row {n}"} for n in range(5)]
    parquet(folder / "tables" / "train.parquet", pictures, row_group_size=2)
    write(folder / "tables", {"broken.parquet": b"PAR1 and no more", "old.zip": b"PK\x03\x04", "x.tar.gz": b"\x1f\x8b"})
    write(folder / "lake", {"lake.yaml": "profile: demo", "corpus_manifest/shard-00000.parquet": b"x", "inside.png": png(15)})
    return folder


def as_listed(text: str) -> tuple[list, list, list]:
    source = open_source(text)
    rows = list(source.rows())
    reader = open_reader(source.root)
    ids = [(hash_file(reader, row)[0], str(hash_file(reader, row)[2])) for row in rows]
    remarks = [(r.remark, r.count, r.path, r.detail) for r in source.remarks]
    return [tuple(getattr(row, name) for name in TEXTS) for row in rows], ids, remarks


def plain(value: object, there: Path, address: str) -> str:
    """Words that name the system's own errors differ; everything else is the same."""
    return str(value).replace(str(there), address).replace("no such object", "no such file")


@pytest.mark.parametrize(
    "place",
    ["", "named", "named/captions.jsonl", "csv", "csv/data.csv", "side", "tars", "tars/t.tar", "tables", "tables/train.parquet"],
)
def test_a_prefix_holds_what_the_same_folder_holds_in_the_same_order(buckets, place):
    here = everything(buckets.folder("s3://bkt/photos"))
    rows, ids, remarks = as_listed(str(here / place))
    remote = as_listed(f"s3://bkt/photos/{place}")
    assert [plain(row, here, "s3://bkt/photos") for row in rows] == [plain(row, here, "s3://bkt/photos") for row in remote[0]]
    assert [plain(each, here, "s3://bkt/photos") for each in ids] == [plain(each, here, "s3://bkt/photos") for each in remote[1]]
    assert [plain(each, here, "s3://bkt/photos") for each in remarks] == [
        plain(each, here, "s3://bkt/photos") for each in remote[2]
    ]
    assert any(image_id for image_id, _ in ids) and len(rows) >= 2


class Sealed:
    """A lake over one source, in shards of two rows."""

    def __init__(self, tmp_path: Path, source: str):
        self.lake, self.source = Lake(tmp_path / "lake"), source

    def seal(self, forget: bool = False) -> dict[str, int]:
        remarks: dict = {}
        corpus = CorpusSettings(sources=(self.source,), shard_size=2)
        for shard, rows in seal(self.lake, corpus, IngestSettings(), remarks, forget):
            self.lake.write("corpus_manifest", shard, rows, "sealed")
        return {r.remark: r.count for found in remarks.values() for r in found}

    def ingest(self) -> list[tuple[str, bytes]]:
        for shard in self.lake.shards():
            ingest_shard(self.lake, shard, IngestSettings(), "sealed")
        rows = self.lake.lance("images").search().select(["path", "data"]).to_arrow().to_pylist()
        return sorted((row["path"], row["data"]) for row in rows)

    def reasons(self) -> dict[str, str | None]:
        return {row["path"]: row["reason"] for row in self.lake.read("corpus_manifest").to_pylist()}


def test_what_is_sealed_changes_goes_and_returns_as_in_a_folder(buckets, tmp_path):
    folder = captioned(buckets.folder("s3://bkt/p"), {f"{n}.png": png(n) for n in range(5)})
    lake = Sealed(tmp_path, "s3://bkt/p")
    lake.seal()
    assert lake.seal() == {} and len(lake.reasons()) == 5
    assert [data for _, data in lake.ingest()] == [png(n) for n in range(5)]

    before = os.stat(folder / "0.png")
    (folder / "0.png").write_bytes(png(50)[: before.st_size].ljust(before.st_size, b"\0"))
    os.utime(folder / "0.png", ns=(before.st_atime_ns, before.st_mtime_ns + 3_000_000))  # as a rule the same second
    (folder / "1.png").rename(folder / "one.png")
    captioned(folder, {"0.png": (folder / "0.png").read_bytes(), "one.png": png(1), **{f"{n}.png": png(n) for n in (2, 3, 4)}})
    os.utime(folder / "0.png", ns=(before.st_atime_ns, before.st_mtime_ns + 3_000_000))
    (folder / "4.png").unlink()
    said = lake.seal()
    assert {"replaced": 1, "renamed": 1, "missing": 1}.items() <= said.items()
    assert lake.seal(forget=True)["deleted"] == 1 and lake.reasons()["4.png"] == "deleted"
    (folder / "4.png").write_bytes(png(4))
    assert lake.seal()["returned"] == 1 and lake.reasons()["4.png"] is None


FAILURES = [StorageUnreachable("the store cannot be reached"), UserError("cannot be reached with these credentials")]


@pytest.mark.parametrize("failure", FAILURES, ids=["no answer", "refused"])
@pytest.mark.parametrize("dead_after", [0, 3, 7])
def test_a_store_that_stops_answering_ends_the_sealing_and_makes_no_reject(buckets, tmp_path, dead_after, failure):
    buckets.failure = failure
    captioned(buckets.folder("s3://bkt/p"), {f"{n}.png": png(n) for n in range(9)})
    lake = Sealed(tmp_path, "s3://bkt/p")
    buckets.dead_after = dead_after
    with pytest.raises(type(failure), match="^(the store )?cannot be reached"):
        lake.seal()
    assert set(lake.reasons().values()) <= {None}, "an outage is nothing that a row says"
    buckets.dead_after = None
    lake.seal()
    assert list(lake.reasons().values()) == [None] * 9

    buckets.dead_after = buckets.asked["get"] + 2
    with pytest.raises(type(failure), match="^(the store )?cannot be reached"):
        lake.ingest()
    buckets.dead_after = None
    assert len(lake.ingest()) == 9 and lake.lake.read("rejects").num_rows == 0


@pytest.mark.parametrize("failure", FAILURES, ids=["no answer", "refused"])
@pytest.mark.parametrize("name", ["t.tar", "t.parquet", "captions.csv"])
def test_an_outage_within_a_file_is_not_taken_for_damage_of_it(buckets, name, failure):
    buckets.failure = failure
    folder = buckets.folder("s3://bkt/p")
    large = {f"{n}.png": png(n, (300, 300)) for n in range(12)}  # more than one block
    if name == "t.tar":
        tar(folder / name, large | {f"{n}.txt": "text" for n in range(12)})
    elif name == "t.parquet":
        parquet(folder / name, [{"image": data, "caption": n} for n, data in large.items()], row_group_size=3)
    else:
        write(folder, {"a.png": png(1), name: "image,caption\n" + f"a.png,{'a caption ' * 300}\n" * 1000})
    listed = len(list(open_source(f"s3://bkt/p/{name}").rows()))
    taken = buckets.asked["get"]
    for place in (1, taken // 2, taken - 2, taken - 1):
        buckets.asked.clear()
        for kept in (buckets.root.parent / "scratch").rglob("*.tar-index"):
            kept.unlink()
        buckets.dead_after = place
        with pytest.raises(type(failure), match="^(the store )?cannot be reached"), ending_when_lost():
            list(open_source(f"s3://bkt/p/{name}").rows())
    buckets.dead_after = None
    assert len(list(open_source(f"s3://bkt/p/{name}").rows())) == listed


def test_pictures_are_asked_for_once_and_manifests_rows_not_at_all(buckets):
    captioned(buckets.folder("s3://bkt/p"), {f"{n:02}.png": png(n) for n in range(40)})
    source = open_source("s3://bkt/p")
    rows = list(source.rows())
    assert buckets.asked["list"] <= 6 and buckets.asked["head"] <= 2, "a listing tells of all pictures"
    buckets.asked.clear()
    reader = open_reader(source.root)
    heads = buckets.asked["head"]
    assert all(reader.open(row.path)[0].read() == png(n) for n, row in enumerate(rows))
    assert buckets.asked["get"] == 40 and buckets.asked["head"] == heads


def test_texts_beside_pictures_are_each_fetched_once(buckets):
    files = {f"{n:03}.png": png(n) for n in range(150)} | {f"{n:03}.txt": f"picture {n}" for n in range(150)}
    write(buckets.folder("s3://bkt/p"), files)
    source = open_source("s3://bkt/p")
    buckets.read.clear()
    assert [row.caption for row in source.rows()] == [f"picture {n}" for n in range(150)]
    assert sum(n for key, n in buckets.read.items() if key.endswith(".txt")) == sum(len(f"picture {n}") for n in range(150))


def test_a_tar_is_read_once_for_its_index_and_then_by_member(buckets, tmp_path):
    members = {f"{n:02}.{kind}": data for n in range(20) for kind, data in (("png", png(n, (200, 200))), ("txt", f"picture {n}"))}
    path = tar(buckets.folder("s3://bkt/p") / "t.tar", members)
    rows = list(open_source("s3://bkt/p/t.tar").rows())
    assert [row.caption for row in rows] == [f"picture {n}" for n in range(20)]
    assert buckets.read["t.tar"] <= 1.2 * path.stat().st_size, "texts are not read again"
    buckets.read.clear()
    reader = open_reader("s3://bkt/p/t.tar")  # of another process
    assert reader.open("07.png")[0].read() == png(7, (200, 200))
    assert buckets.read["t.tar"] == len(png(7, (200, 200))), "the index of this content is kept"
    tar(path, {"a.png": png(99), "a.txt": "another"})
    (kept,) = (tmp_path / "scratch").rglob("*.tar-index")
    os.utime(kept, (0, 0))
    assert [row.caption for row in open_source("s3://bkt/p/t.tar").rows()] == ["another"]
    assert not kept.exists() and len(list((tmp_path / "scratch").rglob("*.tar-index"))) == 1


def test_large_members_of_a_tar_are_passed_over(buckets):
    path = tar(buckets.folder("s3://bkt/p") / "t.tar", {f"{n}.png": bytes(5 * BLOCK) for n in range(6)})
    index = TarIndex(object_path("s3://bkt/p/t.tar"))
    assert len(list(index.pictures())) == 6 and buckets.read["t.tar"] < 0.5 * path.stat().st_size


def test_a_table_of_pictures_is_read_by_row_groups(buckets):
    rows = [{"image": png(n, (300, 300)), "caption": f"picture {n}"} for n in range(30)]
    path = parquet(buckets.folder("s3://bkt/p") / "t.parquet", rows, row_group_size=3, compression="none")
    reader = open_reader("s3://bkt/p/t.parquet")
    buckets.read.clear()
    assert reader.open("21")[0].read() == rows[21]["image"]
    assert 0 < buckets.read["t.parquet"] < 0.7 * path.stat().st_size
    images, rejects = read_source("s3://bkt/p/t.parquet")
    assert images["data"].to_pylist() == [row["image"] for row in rows] and not rejects.num_rows


def test_any_part_of_an_object_is_read_right():
    data = os.urandom(7 * BLOCK + 12_345)
    asked: list[int] = []

    def fetch(start: int, end: int) -> bytes:
        asked.append(start)
        return data[start:end]

    with io.BufferedReader(ReadAhead(fetch, len(data)), 2**17) as file:
        assert file.read() == data and len(asked) == 8, "each block once in order"
        for at, size in ((0, 3), (BLOCK - 1, 2), (5 * BLOCK + 7, 2 * BLOCK), (len(data) - 3, 99), (2, BLOCK)):
            file.seek(at)
            assert file.read(size) == data[at : at + size]


def test_sources_are_recorded_by_their_address_and_removed_by_it(buckets, tmp_path):
    captioned(buckets.folder("s3://bkt/p"), {"a.png": png(1)})
    captioned(tmp_path / "own", {"b.png": png(2)})
    assert (
        source_name("S3://bkt//p/") == source_name("s3a://bkt/p") == "s3://bkt/p"
        and source_name("urls:s3://bkt/t.csv") == "urls:s3://bkt/t.csv"
    )
    lake = Lake(tmp_path / "lake")
    settings, configuration = resolve(lake, sources=["s3://bkt/p/", str(tmp_path / "own")])
    assert settings.corpus.sources == ("s3://bkt/p", str(tmp_path / "own"))
    lake.write_configuration(configuration)
    assert resolve(lake, remove=["s3://bkt/p"])[0].corpus.sources == (str(tmp_path / "own"),)


def test_a_prefix_that_is_gone_keeps_its_rows_and_says_how_to_take_them_out(buckets, tmp_path):
    folder = captioned(buckets.folder("s3://bkt/p"), {"a.png": png(1), "b.png": png(2)})
    lake = Sealed(tmp_path, "s3://bkt/p")
    lake.seal()
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"nothing at s3://bkt/p: .*\n?.*2 rows sealed .* --remove s3://bkt/p"):
        lake.seal()
    assert list(lake.reasons().values()) == [None, None]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("", None, "there is nothing at s3://bkt/p"),
        ("t.tar", b"\x1f\x8bno tar", "gzip-compressed: decompress it first"),
        ("t.tar.gz", b"\x1f\x8b", "decompress it first"),
        ("old.zip", b"PK\x03\x04", "unpack it first"),
        ("t.parquet", b"PAR1", "cannot be read as Parquet"),
        ("notes.pdf", b"%PDF", "cannot be read: expected"),
        ("captions.csv", b"image,caption\ngone.png,nobody\n", "none of the first 1 pictures its manifest names exists"),
    ],
)
def test_what_cannot_be_a_source_is_one_sentence(buckets, name, content, said):
    if content is not None:
        write(buckets.folder("s3://bkt/p"), {name: content})
    with pytest.raises(UserError, match=said):
        open_source(f"s3://bkt/p/{name}")


def test_paths_that_leave_the_source_and_addresses_are_refused_with_what_helps(buckets):
    folder = write(buckets.folder("s3://bkt/p"), {"in/a.png": png(1)})
    write(buckets.folder("s3://bkt/secret"), {"b.png": png(2)})
    cells = ("in/a.png", "../secret/b.png", "in/../../secret/b.png", "/secret/b.png", "s3://bkt/secret/b.png")
    write(folder, {"captions.jsonl": jsonl(*({"image": cell, "caption": "text"} for cell in cells))})
    rows = list(open_source("s3://bkt/p").rows())
    assert [row.reason for row in rows] == [None, "unsafe_path", "unsafe_path", "unsafe_path", "missing_file"]
    assert "urls:TABLE" in rows[-1].detail
    reader = open_reader("s3://bkt/p")
    for path in cells[1:]:
        with pytest.raises(Unreadable, match="leaves the folder|no such object"):
            reader.open(path)


def test_a_table_of_addresses_of_objects_is_fetched_beside_it_once(buckets, tmp_path):
    write(buckets.folder("s3://bkt/pictures"), {f"{n}.png": png(n) for n in range(4)} | {"empty.png": b""})
    cells = [f"s3://bkt/pictures/{n}.png" for n in range(4)]
    cells += ["s3://bkt/pictures/gone.png", "s3://bkt/pictures/empty.png", "http://127.0.0.1:1/a.png"]
    table = "url,caption\n" + "".join(f"{cell},the picture at {n}\n" for n, cell in enumerate(cells))
    write(buckets.folder("s3://tables"), {"of/t.csv": table})
    write(tmp_path, {"t.csv": table})
    found = {}
    for root in ("urls:s3://tables/of/t.csv", f"urls:{tmp_path / 't.csv'}"):
        source = open_source(root, DownloadSettings(tries=1))
        rows = list(source.rows())
        reader = open_reader(source.root)
        found[root] = [(r.path, r.caption, r.source, r.size, r.reason, hash_file(reader, r)[0]) for r in rows]
        assert [hash_file(reader, row)[0] for row in rows][:4] == [content_id(png(n)) for n in range(4)]
        assert [row.reason for row in rows] == [None] * 4 + ["http_404", "empty_file", "private_address"]
        buckets.asked.clear()
        again = list(open_source(root, DownloadSettings(tries=1)).rows())
        assert again == rows and not buckets.asked["put"] and buckets.asked["get"] <= 6, "nothing is fetched twice"
    assert len({json.dumps(rows) for rows in found.values()}) == 1
    for root, rows in found.items():
        path, image_id = rows[1][0], rows[1][-1]
        assert not fetched_folder(root).remove(path, rows[2][-1]) and fetched_folder(root).remove(path, image_id)
        assert not fetched_folder(root).remove(path, image_id), "it is gone"
    assert not list((tmp_path / "scratch").rglob("fetched/*/*"))


def test_a_signature_changes_with_every_object(buckets):
    folder = captioned(buckets.folder("s3://bkt/p"), {"a.png": png(1)})
    seen = [signature("s3://bkt/p")]
    assert signature("s3://bkt/none") is None and signature("s3://bkt/p") == seen[0]
    for change in (
        lambda: write(folder, {"deep/b.png": png(2)}),
        lambda: write(folder, {"a.png": png(3)}),
        lambda: (folder / "a.png").rename(folder / "c.png"),
        lambda: (folder / "c.png").unlink(),
    ):
        change()
        seen.append(signature("s3://bkt/p"))
    write(folder, {".hidden": "x"})
    assert len(set(seen)) == 5 and signature("s3://bkt/p") == seen[-1]
    assert signature("s3://bkt/p/captions.jsonl") not in (None, seen[-1])


def test_released_triplets_are_imported_with_pictures_in_a_store(buckets, tmp_path):
    write(buckets.folder("s3://bkt/release"), {f"{n}.png": png(n) for n in range(4)})
    lines = [{"q_img": f"{n}.png", "q_text": ["now another"], "t_img": f"{n + 1}.png", "hns": []} for n in range(3)]
    annotations = write(tmp_path, {"r.jsonl": jsonl(*lines, {"q_img": "0.png", "q_text": ["x"], "t_img": "gone.png"})}) / "r.jsonl"
    lake = Lake(tmp_path / "lake")
    settings = resolve(lake, imports=[str(annotations)])[0]
    counts = import_release(lake, [Release(annotations, "s3://bkt/release")], settings)
    assert counts["triplets"] == 3 and counts["pictures"] == 4 and counts["refused: picture_missing"] == 1
    with pytest.raises(UserError, match="s3://bkt/empty: none of the first 4 pictures"):
        import_release(lake, [Release(annotations, "s3://bkt/empty")], settings)


def test_a_local_source_imports_nothing_of_object_stores(tmp_path):
    captioned(tmp_path, {"a.png": png(1)})
    code = "import sys; from mmret.ingest.sources import open_source; print(len(list(open_source(sys.argv[1]).rows())))"
    code += "; print('obstore' in sys.modules)"
    made = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert made.stdout == "1\nFalse\n"


def test_a_lakes_own_store_that_does_not_answer_costs_no_picture_that_lies_in_it(buckets, tmp_path, monkeypatch):
    captioned(buckets.folder("s3://bkt/p"), {f"{n}.png": png(n) for n in range(3)})
    lake = Sealed(tmp_path, "s3://bkt/p")
    lake.seal()
    before = lake.ingest()
    lost = OSError("LanceError(IO): Generic S3 error: Error performing GET http://10.0.0.5/b/k - HTTP error: error sending request")

    def gone(table, row_id):
        raise lost

    with monkeypatch.context() as patch, pytest.raises(OSError, match="error sending request"):
        patch.setattr("mmret.ingest.pictures.image_table.picture", gone)
        patch.setattr("mmret.ingest.stage._still_fits", lambda *given: False)  # as after a change of the settings
        lake.ingest()
    assert lake.lake.read("rejects").num_rows == 0 and lake.lake.lance("images").count_rows() == len(before)


def test_embedding_a_source_ends_where_its_store_does_not_answer(buckets):
    from mmret.retriever.embed_parts import _open_picture
    from mmret.retriever.records import numbered_records

    captioned(buckets.folder("s3://bkt/p"), {"0.png": png(0)})
    (_, record), *_ = numbered_records(["s3://bkt/p"], pictures=True, texts=False)
    buckets.dead_after = 0
    with pytest.raises(StorageUnreachable, match="cannot be reached"):
        _open_picture(record)
