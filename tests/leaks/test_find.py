"""Benchmark pictures in a corpus are found as copies, as look-alikes and by embedding; strangers are not."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mmret.errors import UserError
from mmret.ingest.seal import seal
from mmret.ingest.stage import ingest_shard
from mmret.lake import Lake
from mmret.leaks import find as module
from mmret.leaks.find import FINGERPRINTS, LEAKS, LeakLimits, fingerprints, folder_fingerprints, leaks
from mmret.leaks.stage import corpus_fingerprints, lake_leaks
from mmret.settings import CorpusSettings, IngestSettings


def encode(image, form="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files(photos):
    names = [json.loads(line)["image"] for line in (photos / "captions.jsonl").read_text().splitlines()[:40]]
    return {name: (photos / name).read_bytes() for name in names}


COPIES = {
    "jpeg of quality 50": lambda im: encode(im, quality=50),
    "half the size": lambda im: encode(im.resize((im.width // 2, im.height // 2))),
    "squashed to a square": lambda im: encode(im.resize((224, 224))),
    "png": lambda im: encode(im, "PNG"),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_found_and_strangers_are_not(files, copy):
    corpus = fingerprints(files.items())
    made = {f"copy of {n}": COPIES[copy](Image.open(io.BytesIO(data)).convert("RGB")) for n, data in files.items()}
    found = leaks(corpus, {"circo": fingerprints(made.items())})
    assert found.schema.equals(LEAKS)
    owner = dict(zip(corpus["image_id"].to_pylist(), files, strict=True))
    right = [row["benchmark_image"] == f"copy of {owner[row['image_id']]}" for row in found.to_pylist()]
    assert all(right) and len(right) >= 36
    assert set(found["how"].to_pylist()) == {"perceptual"}


def test_the_same_file_is_found_by_content_even_if_it_is_no_picture():
    table = fingerprints([("a", b"not a picture"), ("b", encode(Image.new("RGB", (9, 9), "red")))])
    assert table.schema.equals(FINGERPRINTS) and table["hash"].to_pylist()[0] is None
    found = leaks(table, {"cirr": table}).to_pylist()
    assert {(r["benchmark_image"], r["how"], r["value"]) for r in found} == {
        ("a", "content", 1.0),
        ("b", "content", 1.0),
    }


def test_an_embedding_finds_what_the_hashes_do_not(files):
    corpus = fingerprints(list(files.items())[:4])
    other = fingerprints((f"flip of {n}", encode(Image.open(io.BytesIO(d)).convert("RGB").transpose(0))) for n, d in
                         list(files.items())[:4])  # fmt: skip
    assert leaks(corpus, {"circo": other}).num_rows == 0
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.eye(4, dtype=np.float16).ravel()), 4)
    found = leaks(corpus.append_column("vector", vectors), {"circo": other.append_column("vector", vectors)})
    assert found["how"].to_pylist() == ["embedding"] * 4


def test_vectors_of_two_models_are_refused():
    table = fingerprints([("a", b"x")])
    one, two = (
        table.append_column("vector", pa.FixedSizeListArray.from_arrays(pa.array(np.ones(d, np.float32)), d)) for d in (2, 3)
    )
    with pytest.raises(UserError, match="not from one model"):
        leaks(one, {"circo": two})


@pytest.mark.parametrize("at_once", [50, 4_000_000])
def test_the_banded_search_equals_brute_force(monkeypatch, at_once):
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", at_once)
    rng = np.random.default_rng(1)
    left = rng.integers(0, 2**63, (60, 2), dtype=np.uint64)
    right = np.concatenate([left[:30], rng.integers(0, 2**63, (40, 2), dtype=np.uint64)])
    for row in right[:30]:  # up to nine bits differ, in any band
        for bit in rng.choice(128, rng.integers(0, 10), replace=False):
            row[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    distance = np.bitwise_count(left[:, None] ^ right[None]).sum(axis=2)
    for bits in (0, 3, 7):
        expected = {(int(a), int(b), int(distance[a, b])) for a, b in np.argwhere(distance <= bits)}
        assert set(module._near(left, right, bits)) == expected
    with pytest.raises(UserError, match="between 0 and 7"):
        LeakLimits(bits=8)


def test_a_lake_is_checked_shard_by_shard_and_read_once(tmp_path, files, monkeypatch):
    source, benchmark = tmp_path / "corpus", tmp_path / "circo"
    for folder, chosen in ((source, list(files.items())[:12]), (benchmark, list(files.items())[8:20])):
        folder.mkdir()
        for name, data in chosen:
            (folder / name.split("/")[-1]).write_bytes(data)
    rows = [{"image": p.name, "caption": "a picture"} for p in sorted(source.iterdir())]
    (source / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lake = Lake(tmp_path / "lake")
    chosen = CorpusSettings(sources=(str(source),), shard_size=5)
    for shard, rows in seal(lake, chosen, IngestSettings()):
        lake.write("corpus_manifest", shard, rows, "sealed")
        ingest_shard(lake, shard, IngestSettings(), "test")
    found = lake_leaks(lake, {"circo": benchmark})
    assert found["how"].to_pylist() == ["content"] * 4
    assert len(set(found["image_id"].to_pylist())) == 4
    monkeypatch.setattr("mmret.leaks.stage.fingerprints", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr("mmret.leaks.stage.folder_fingerprints", lambda *_: pytest.fail("read again"))
    assert lake_leaks(lake, {"circo": benchmark}).equals(found)
    assert corpus_fingerprints(lake).num_rows == 12
    with pytest.raises(UserError, match="no pictures of cirr"):
        lake_leaks(lake, {"cirr": tmp_path / "nowhere"})


@pytest.mark.parametrize("suffix", [".avif", ".JP2", ".heic", ".jxl"])
def test_pictures_of_every_known_suffix_are_looked_at(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"whatever")
    assert folder_fingerprints(tmp_path)["name"].to_pylist() == [f"a{suffix}"]
