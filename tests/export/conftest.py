"""A lake whose texts are hostile: captions, instructions, paths and licences that would be markup, if anything took them for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from mmret.lake import Lake
from mmret.schemas import IMAGES_INDEX, TRIPLETS

HOSTILE = ["<script>window.hacked = 1</script>", "<img src=x onerror=\"window.hacked = 2\">",
           "](javascript:alert(1)) ![x](http://evil/x.png)", "| a | b |\n---\n# heading\n\n```\ncode",
           "../../../etc/passwd", "line one\u2028line two\x85three", "{{7*7}} ${7*7} {% raw %}",
           "\u202etxet lacitnedi", "---\nlicense: mit\n---", "&lt;b&gt; &amp; <b>"]


@pytest.fixture(scope="session")
def hostile_lake(small_lake, tmp_path_factory) -> Path:
    """The small lake with HOSTILE written over captions, instructions, paths, sources and licences. Read only."""
    folder = tmp_path_factory.mktemp("hostile") / "lake"
    shutil.copytree(small_lake[0], folder)
    lake = Lake(folder)
    for shard in lake.partitions("triplets"):
        rows = lake.read("triplets", shard).to_pylist()
        for n, row in enumerate(rows):
            bad = HOSTILE[n % len(HOSTILE)]
            row.update(texts=[bad, *HOSTILE[:2]], query_path=bad, target_path="../" * 5 + bad, licence=bad)
        lake.write("triplets", shard, pa.Table.from_pylist(rows, TRIPLETS), lake.facts("triplets", shard).inputs)
        images = lake.read("images", shard).to_pylist()
        for n, row in enumerate(images):
            row.update(caption=HOSTILE[n % len(HOSTILE)], licence=HOSTILE[n % len(HOSTILE)], path=HOSTILE[n % len(HOSTILE)])
        lake.write("images", shard, pa.Table.from_pylist(images, IMAGES_INDEX), lake.facts("images", shard).inputs)
    return folder


def rows_of(lake: Lake, split: str | None = None) -> list[dict]:
    """The table's rows by pair id, for comparison with what a reader returns."""
    rows = lake.read("triplets").to_pylist()
    return sorted((r for r in rows if split in (None, r["split"])), key=lambda r: r["pair_id"])


def as_json(value: object) -> object:
    return json.loads(json.dumps(value))
