"""Texts that would be markup, code or a path, if anything took them for it, and a lake that is full of them."""

import shutil
from pathlib import Path

import pyarrow as pa

from mmret.lake import Lake
from mmret.schemas import DESCRIPTIONS, IMAGES_INDEX, TRIPLETS

HOSTILE = [
    "<script>window.hacked = 1</script>",
    '<img src=x onerror="window.hacked = 2">',
    "](javascript:alert(1)) ![x](http://evil.invalid/x.png)",
    "| a | b |\n---\n# heading\n\n```\ncode",
    "../../../etc/passwd",
    "line one\u2028line two\x85three",
    "{{window.hacked = 3}} ${7*7} {% raw %}",
    "\u202etxet lacitnedi",
    "---\nlicense: mit\n---",
    "&lt;b&gt; &amp; <b>",
    "\"' onload='window.hacked = 4' x=\"",
    '</textarea></script><svg onload="window.hacked = 5">',
]


def make_hostile(source: Path, folder: Path) -> Path:
    """Copy a lake with HOSTILE written over captions, instructions, descriptions, paths, sources and licences."""
    shutil.copytree(source, folder)
    lake = Lake(folder)

    def rewrite(table: str, schema: pa.Schema, columns: tuple[str, ...]) -> None:
        for shard in lake.partitions(table):
            rows = lake.read(table, shard).to_pylist()
            for n, row in enumerate(rows):
                bad = HOSTILE[n % len(HOSTILE)]
                row.update({c: "../" * 5 + bad if c.endswith("path") else bad for c in columns})
                row.update({"texts": [bad, *HOSTILE[:2]]} if "texts" in columns else {})
            lake.write(table, shard, pa.Table.from_pylist(rows, schema), lake.facts(table, shard).inputs)

    rewrite("triplets", TRIPLETS, ("texts", "query_path", "target_path", "licence", "instruction_model"))
    rewrite("descriptions", DESCRIPTIONS, ("text", "model"))
    rewrite("images", IMAGES_INDEX, ("caption", "licence", "path", "source"))
    return folder
