"""MegaPairs' own release format: one JSON object a line and a folder of images (paper.md: "Record").

``{"q_img", "q_text": [...], "t_img", "hns": [...]}`` with paths relative to ``images/``; ``hns[0]`` is the query image.
Pictures are written once each, as they were found, under ``images/<first two digits>/<image_id>.<extension>``. One pass over the
triplets, one look-up per picture; memory is a batch of pictures.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc

from mmret import progress
from mmret.errors import UserError
from mmret.ingest.images import images_by_id
from mmret.lake import Lake, temporary

_BATCH = 512
_SUFFIX = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}


def export_megapairs(lake: Lake, out: Path, splits: Sequence[str] = ("train", "test")) -> dict[str, int]:
    """Write ``<split>.jsonl`` and ``images/`` to ``out``; returns rows per split and images.

    Raises UserError where ``out`` exists or the lake has no triplets. The folder appears whole or not at all.
    """
    if out.exists():
        raise UserError(f"{out} exists already; give a folder that does not")
    if not lake.partitions("triplets"):
        raise UserError(f"{lake.root} has no triplets yet: run `mmret run --lake {lake.root}` first")
    aside = temporary(out.absolute())
    try:
        aside.mkdir(parents=True)
        counts = _write(lake, aside, splits)
        os.replace(aside, out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return counts


def _write(lake: Lake, folder: Path, splits: Sequence[str]) -> dict[str, int]:
    formats = lake.read("images", columns=["image_id", "format"])
    name = {i: f"{i[:2]}/{i}.{_SUFFIX.get(f, f.lower())}"
            for i, f in zip(formats["image_id"].to_pylist(), formats["format"].to_pylist(), strict=True)}
    counts, used = {}, set()
    for split in splits:
        counts[split] = 0
        with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as lines:
            for shard in lake.partitions("triplets"):
                rows = lake.read("triplets", shard, columns=["query_id", "texts", "target_id", "hard_negatives"],
                                 filters=pc.field("split") == split)
                for row in rows.to_pylist():
                    record = {"q_img": name[row["query_id"]], "q_text": row["texts"], "t_img": name[row["target_id"]],
                              "hns": [name[i] for i in row["hard_negatives"]]}
                    lines.write(json.dumps(record, ensure_ascii=False) + "\n")
                    used.update((row["query_id"], row["target_id"], *row["hard_negatives"]))
                counts[split] += rows.num_rows
    written = 0
    wanted = sorted(used)
    for start in range(0, len(wanted), _BATCH):
        ids = wanted[start:start + _BATCH]
        for image_id, data in images_by_id(lake, ids).items():
            path = folder / "images" / name[image_id]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            written += 1
        progress.advance("export", written, len(used))
    return counts | {"images": written}
