"""Tiny benchmarks in the official layouts with flat pictures, whose queries a colour-reading model answers without
error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .checkpoints import paint
from .conftest import dump, load
from .layouts import ASINS, CIRCO_IDS, CIRR_NAMES
from .layouts import circo as circo_layout
from .layouts import cirr as cirr_layout
from .layouts import fashioniq as fashioniq_layout
from .layouts import genecis as genecis_layout


def _to(colour: tuple[int, int, int]) -> str:
    return "to " + " ".join(map(str, colour))


def circo(root: Path) -> tuple[Path, Path]:
    """(images, annotations): 60 pictures, four queries whose relative caption names the target's colour."""
    images = root / "COCO2017_unlabeled"
    colours = {i: paint(images / "unlabeled2017" / f"{i:012d}.jpg", i) for i in CIRCO_IDS}
    annotations = circo_layout(root)
    entries = load(annotations / "val.json")
    for entry in entries:
        entry["relative_caption"] = _to(colours[entry["target_img_id"]])
    dump(annotations / "val.json", entries)
    hidden = ("target_img_id", "gt_img_ids", "semantic_aspects")
    dump(root / "annotations" / "test.json", [{k: v for k, v in e.items() if k not in hidden} for e in entries])
    return images, annotations


def cirr(root: Path) -> tuple[Path, Path]:
    colours = {n: paint(root / "img_raw" / "dev" / f"{n}.png", 100 + i) for i, n in enumerate(CIRR_NAMES)}
    annotations = cirr_layout(root / "cirr")
    path = annotations / "captions" / "cap.rc2.val.json"
    entries = load(path)
    for entry in entries:
        entry["caption"] = _to(colours[entry["target_hard"]])
    dump(path, entries)
    hidden = ("target_hard", "target_soft")
    dump(path.with_name("cap.rc2.test1.json"), [{k: v for k, v in e.items() if k not in hidden} for e in entries])
    dump(annotations / "image_splits" / "split.rc2.test1.json", {n: f"./dev/{n}.png" for n in CIRR_NAMES})
    return root / "img_raw", annotations


def fashioniq(root: Path) -> tuple[Path, Path]:
    """Pictures end in .png and .jpg in turn, as mirrors of the data have them."""
    suffix = [".png", ".jpg"]
    colours = {a: paint(root / "images" / f"{a}{suffix[i % 2]}", 100 + i) for i, a in enumerate(ASINS)}
    annotations = fashioniq_layout(root)
    for path in sorted((annotations / "captions").glob("*.json")):
        entries = load(path)
        for entry in entries:
            entry["captions"][1] = _to(colours[entry["target"]])
        dump(path, entries)
    return root, annotations


def genecis(root: Path) -> tuple[Path, Path]:
    """One attribute task (crops) and one object task (whole pictures)."""
    for i in range(300, 340):
        paint(root / "VG_100K" / f"{i}.jpg", i, (60, 40))
    for i in range(200, 240):
        paint(root / "val2017" / f"{i:012d}.jpg", i)
    return root, genecis_layout(root / "genecis")


def mmeb(root: Path) -> tuple[Path, Path]:
    """Three sets: picture to label, picture and text to picture, text to picture, with the instructions of MMEB."""
    for i in range(20):
        paint(root / "images" / "pics" / f"{i}.png", 40 + i)
    pictures = [f"pics/{i}.png" for i in range(20)]

    def colour(i: int) -> str:
        return _to(paint(root / "images" / "pics" / f"{i}.png", 40 + i))

    cirr_rows = [
        {
            "qry_text": f"<|image_1|>\nGiven an image, find a similar everyday image with the described changes: {colour(i + 8)}\n",
            "qry_img_path": pictures[i],
            "tgt_text": ["<|image_1|>\nRepresent the given image.\n"] * 5,
            "tgt_img_path": [pictures[i + 8], *(pictures[(i + j) % 8] for j in range(1, 5))],
        }
        for i in range(6)
    ]
    answers = [
        {
            "qry_text": f"<|image_1|>\nRepresent the given image with the following question: {colour(i)}\n",
            "qry_img_path": pictures[i],
            # the right answer twice: no model can tell them apart, so the repetition does not count against it
            "tgt_text": [colour(i), *(colour(j) for j in range(10, 14)), colour(i)],
            "tgt_img_path": [""] * 6,
        }
        for i in range(6)
    ]
    t2i = [
        {
            # a placeholder without a picture, as EDIS has it
            "qry_text": f"<|image_1|>\nFind a news image that matches the provided caption: {colour(i)}\n",
            "qry_img_path": "",
            "tgt_text": ["<|image_1|>\nRepresent the given image with related text information: " + colour(j) + "\n"
                         for j in (i, 10, 11)],
            "tgt_img_path": [pictures[i], pictures[10], pictures[11]],
        }
        for i in range(6)
    ]  # fmt: skip
    for name, rows in {"CIRR": cirr_rows, "ChartQA": answers, "EDIS": t2i}.items():
        folder = root / "mmeb" / name
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "test-00000-of-00001.parquet")
    return root / "images", root / "mmeb"


WORLDS: dict[str, Any] = {"circo": circo, "cirr": cirr, "fashioniq": fashioniq, "genecis": genecis, "mmeb": mmeb}
