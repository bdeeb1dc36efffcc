"""The tables that published data sets come with, small and made up: taken with a caption a picture, or refused in one sentence."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmret.errors import UserError
from mmret.ingest.rows import Row
from mmret.ingest.sources import open_reader, open_source
from mmret.ingest.tables.manifest_files import recognise
from tests.ingest.files import png, write

SAID = [f"a picture of {thing}" for thing in ("a ball", "a boat", "a hat", "a dog")]


def taken(root: Path, files: dict[str, Any], pictures: list[str]) -> tuple[list[Row], Counter[str]]:
    """Rows of the folder ``root`` with ``files`` and ``pictures`` in it, each of which must be readable; and the remarks."""
    write(root, {name: png(i) for i, name in enumerate(pictures)})
    for name, value in files.items():
        write(root, {name: value if isinstance(value, str | bytes) else json.dumps(value)})
    source = open_source(str(root))
    rows = list(source.rows())
    for i, row in enumerate(sorted((row for row in rows if row.reason is None), key=lambda row: row.path)):
        stream, size = open_reader(source.root).open(row.path)
        with stream:
            assert stream.read(size) == png(i)
    return rows, Counter({remark.remark: remark.count for remark in source.remarks})


def captioned(rows: list[Row]) -> dict[str, str | None]:
    assert all(row.reason is None for row in rows), [(row.path, row.detail) for row in rows if row.reason]
    return {row.path: row.caption for row in rows}


def five_each(separator: str, line: str) -> str:
    return "".join(line.format(i=i, n=n, s=separator, said=SAID[i] + (f" {n}" if n else "")) for i in range(4) for n in range(5))


NAMES = [f"{i}.jpg" for i in range(4)]


def test_coco_captions_beside_its_other_annotations(tmp_path: Path):
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "license": 1} for i in range(4)]
    captions = [{"image_id": i, "id": 5 * i + n, "caption": SAID[i] + (f" {n}" if n else "")} for i in range(4) for n in range(5)]
    boxes = [{"image_id": i, "id": i, "bbox": [0, 0, 1, 1], "category_id": 1} for i in range(4)]
    files = {
        "annotations/captions_val2017.json": {"info": {}, "licenses": [], "images": images, "annotations": captions},
        "annotations/instances_val2017.json": {"info": {}, "images": images, "annotations": boxes, "categories": []},
    }
    rows, remarks = taken(tmp_path, files, [f"val2017/{i:012d}.jpg" for i in range(4)])
    assert captioned(rows) == {f"val2017/{i:012d}.jpg": SAID[i] for i in range(4)}
    assert json.loads(rows[0].extra)["caption"] == [SAID[0], *(f"{SAID[0]} {n}" for n in range(1, 5))]
    assert remarks["not_a_manifest"] == 1
    with pytest.raises(UserError, match="its pictures lie in .*val2017: give .* instead"):
        open_source(str(tmp_path / "annotations/captions_val2017.json"))


def test_karpathy_split(tmp_path: Path):
    images = [
        {"filepath": "val2014", "filename": name, "split": "train", "sentences": [{"raw": SAID[i]}, {"raw": "more"}]}
        for i, name in enumerate(NAMES)
    ]
    rows, _ = taken(tmp_path, {"dataset_coco.json": {"images": images, "dataset": "coco"}}, [f"val2014/{n}" for n in NAMES])
    assert captioned(rows) == {f"val2014/{i}.jpg": SAID[i] for i in range(4)}


@pytest.mark.parametrize(
    ("name", "folder", "text"),
    [
        ("results.csv", "flickr30k_images", "image_name| comment_number| comment\n" + five_each("|", "{i}.jpg{s} {n}{s} {said}\n")),
        ("results_20130124.token", "flickr30k-images", five_each("\t", "{i}.jpg#{n}{s}{said}\n")),
        ("Flickr8k.token.txt", "Flicker8k_Dataset", five_each("\t", "{i}.jpg#{n}{s}{said}\n")),
        ("captions.txt", "Images", "image,caption\n" + five_each(",", "{i}.jpg{s}{said}\n")),
    ],
)
def test_flickr_with_five_captions_a_picture(tmp_path: Path, name: str, folder: str, text: str):
    rows, remarks = taken(tmp_path, {name: text}, [f"{folder}/{i}.jpg" for i in range(4)])
    assert captioned(rows) == {f"{folder}/{i}.jpg": SAID[i] for i in range(4)}
    assert next(value for value in json.loads(rows[2].extra).values() if SAID[2] in value) == [
        SAID[2],
        *(f"{SAID[2]} {n}" for n in range(1, 5)),
    ]
    assert remarks["further_caption"] == 16


def test_fashion200k_labels(tmp_path: Path):
    lines = [f"women/dresses/{i}/{i}_0.jpeg\t0.9{i}\t{said}" for i, said in enumerate(SAID)]
    files = {"labels/dress_train_detect_all.txt": "\n".join(lines)}
    pictures = [f"women/dresses/{i}/{i}_0.jpeg" for i in range(4)]
    rows, _ = taken(tmp_path, files, pictures)
    assert captioned(rows) == dict(zip(pictures, SAID, strict=True))
    assert json.loads(rows[3].extra) == {"column_2": "0.93"}


def test_imagefolder_and_openclip(tmp_path: Path):
    table = "file_name,text\n" + "".join(f"{name},{said}\n" for name, said in zip(NAMES, SAID, strict=True))
    rows, _ = taken(tmp_path / "hf", {"train/metadata.csv": table}, [f"train/{name}" for name in NAMES])
    assert captioned(rows) == {f"train/{i}.jpg": SAID[i] for i in range(4)}
    table = "filepath\ttitle\n" + "".join(f"im/{name}\t{said}\n" for name, said in zip(NAMES, SAID, strict=True))
    rows, _ = taken(tmp_path / "openclip", {"train.csv": table}, [f"im/{name}" for name in NAMES])
    assert captioned(rows) == {f"im/{i}.jpg": SAID[i] for i in range(4)}


def test_llava_and_sharegpt4v_give_what_the_model_says(tmp_path: Path):
    def turns(said: str) -> list[dict[str, str]]:
        return [{"from": "human", "value": "Describe it.\n<image>"}, {"from": "gpt", "value": said}]

    entries = [{"id": str(i), "image": f"00/{name}", "conversations": turns(SAID[i])} for i, name in enumerate(NAMES)]
    for number, name in enumerate(("blip_laion_cc_sbu_558k.json", "sharegpt4v_1246k.json")):
        rows, _ = taken(tmp_path / str(number), {name: entries}, [f"images/00/{n}" for n in NAMES])
        assert captioned(rows) == {f"images/00/{i}.jpg": SAID[i] for i in range(4)}


def test_blip_arrays_with_a_row_a_caption(tmp_path: Path):
    entries = [
        {"image": f"val2014/{i}.jpg", "caption": f"{SAID[i]}{' more' * n}", "image_id": f"coco_{i}"}
        for i in range(4)
        for n in (0, 1)
    ]
    rows, remarks = taken(tmp_path, {"coco_karpathy_train.json": entries}, [f"val2014/{name}" for name in NAMES])
    assert captioned(rows) == {f"val2014/{i}.jpg": SAID[i] for i in range(4)}
    assert remarks["further_caption"] == 4


ON_THE_WEB = "addresses on the web: fetch them first .img2dataset does., then give the folder that this writes"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Train_GCC-training.tsv", "a red ball\thttp://x.org/a.jpg\na boat\thttp://x.org/b.jpg\n"),
        ("cc12m.tsv", "http://x.org/a.jpg\ta red ball\nhttp://x.org/b.jpg\ta boat\n"),
        ("laion.parquet", {"URL": ["http://x.org/a.jpg"], "TEXT": ["a red ball"], "WIDTH": [3]}),
        ("datacomp.parquet", {"uid": ["00ab"], "url": ["http://x.org/a.jpg"], "text": ["a red ball"], "key": ["0001"]}),
        ("sbu.json", [{"image_url": "http://x.org/a.jpg", "caption": "a red ball"}]),
        ("ccs_filtered.json", [{"url": "http://x.org/a.jpg", "caption": "a red ball"}]),
    ],
)
def test_lists_of_addresses_are_refused_with_what_to_do(tmp_path: Path, name: str, value: Any):
    if name.endswith(".parquet"):
        pq.write_table(pa.table(value), tmp_path / name)
    else:
        write(tmp_path, {name: value if isinstance(value, str) else json.dumps(value)})
    with pytest.raises(UserError, match=ON_THE_WEB):
        open_source(str(tmp_path / name))


def test_a_workbook_is_refused_with_what_to_do(tmp_path: Path):
    write(tmp_path, {"captions.xlsx": b"PK\3\4"})
    assert "is a spreadsheet: save it as CSV" in recognise(tmp_path / "captions.xlsx")


def test_json_and_text_that_are_no_tables_are_remarks_beside_pictures(tmp_path: Path):
    files = {
        "a.txt": "a ball",
        "dataset_info.json": {"features": {}},
        "README.txt": "Pictures, and captions.",
        "captions.xlsx": b"PK",
    }
    rows, remarks = taken(tmp_path, files, ["a.jpg"])
    assert captioned(rows) == {"a.jpg": "a ball"}
    assert sum(remarks.values()) >= 3


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "coco.json", "names.json"])
def test_memory_does_not_grow_with_the_table(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mmret.ingest.tables.json_stream._CHUNK", 4096)

    def peak(count: int) -> int:
        pairs = [(f"{i}.jpg", f"a picture, number {i}") for i in range(count)]
        texts = {
            "a.csv": "image,caption\n" + "".join(f'{image},"{said}"\n' for image, said in pairs),
            "a.tsv": "image\tcaption\n" + "".join(f"{image}\t{said}\n" for image, said in pairs),
            "a.jsonl": "".join(json.dumps({"image": image, "caption": said}) + "\n" for image, said in pairs),
            "a.json": json.dumps([{"image": image, "caption": said} for image, said in pairs]),
            "coco.json": json.dumps(
                {
                    "images": [{"id": i, "file_name": image} for i, (image, _) in enumerate(pairs)],
                    "annotations": [{"image_id": i, "caption": said} for i, (_, said) in enumerate(pairs)],
                }
            ),
            "names.json": json.dumps(dict(pairs)),
        }
        write(tmp_path, {name: texts[name]})
        found = recognise(tmp_path / name)
        tracemalloc.start()
        assert sum(1 for _ in found.records()) == count
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(10)
    assert peak(5000) < peak(1000) + 50_000
