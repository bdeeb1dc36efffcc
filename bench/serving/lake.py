"""A lake to serve: pictures, a checkpoint, and vectors of the pictures that were drawn instead of encoded, to have them quickly.

The checkpoint is of the size that profile ``demo`` trains, wider only in its projection, with random weights: what a query costs
does not depend on what they are. Stored vectors lie in clusters, as trained ones do, some 50 to a cluster; those of a shard
that is added later are the model's own, by whoever serves the lake. Cost: 100,000 pictures x 512 take a minute and 0.6 GB.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mmret.atomic import replacing, replacing_folder
from mmret.encode.quiet import silence
from mmret.hashing import content_id
from mmret.ingest.pictures import image_table
from mmret.lake import Lake
from mmret.retriever.models.checkpoint import RECORD, weights_digest
from mmret.schemas import CHECKPOINTS, IMAGES, TABLES
from mmret.settings import Recipe, TowerSettings

RECIPE = "demo"
SHARD = 10_000  # pictures
OTHER = "bench-other-checkpoint"
"""Folder of the lake with the checkpoint that takes the place of the first."""
_WORDS = "red blue green small large wooden stone old new open closed left right bird boat house tree person dog cat lamp".split()
_TO_A_CLUSTER = 50
_DRAWN = 8192  # rows of a commit


def make(lake: Lake, images: int, dim: int) -> None:
    """Everything `mmret serve` reads, in shards of :data:`SHARD`; what is there already is kept."""
    for number, start in enumerate(range(0, images, SHARD)):
        shard = f"shard-{number:05d}"
        if shard not in lake.partitions("images"):
            add_shard(lake, shard, min(SHARD, images - start), seed=number)
            print(f"made {shard}", file=sys.stderr, flush=True)
    if RECIPE not in lake.partitions("checkpoints"):
        save_checkpoint(lake.root / OTHER, dim, seed=1)
        with replacing_folder(lake.root / "checkpoints" / RECIPE) as aside:
            save_checkpoint(aside, dim, seed=0)
        record(lake)
    for seed, folder in enumerate((lake.root / "checkpoints" / RECIPE, lake.root / OTHER)):
        draw_vectors(lake, folder, dim, seed)


def add_shard(lake: Lake, shard: str, images: int, seed: int) -> list[str]:
    """``images`` pictures, no two alike, with captions of :data:`_WORDS`. Returns their ids."""
    rng = np.random.default_rng([7, seed])
    table = lake.lance("images", IMAGES)
    if lake.has_lance("images"):
        table.delete(f"shard = '{shard}'")  # of a run that was stopped here
    files = [_png(rng) for _ in range(images)]
    index = _images(rng, shard, [content_id(file) for file in files])
    for first in range(0, images, _DRAWN):
        data = pa.array(files[first : first + _DRAWN], pa.large_binary())
        table.add(index.slice(first, _DRAWN).append_column("data", data).cast(IMAGES))
    image_table.index(table)
    table.optimize()
    sizes = pa.array([len(file) for file in files], pa.int64())
    manifest = index.append_column("size", sizes).append_column("mtime_ns", pa.array([0] * images, pa.int64()))
    lake.write("corpus_manifest", shard, _filled("corpus_manifest", manifest), "bench")
    lake.write("rejects", shard, TABLES["rejects"].empty_table(), "bench")
    lake.write("images", shard, index, "bench")  # last: whoever serves the lake looks for it
    return index["image_id"].to_pylist()


def texts(rng: np.random.Generator, n: int) -> list[str]:
    """Captions and queries: four to nine words each."""
    return [" ".join(rng.choice(_WORDS, size=int(rng.integers(4, 10)))) for _ in range(n)]


def save_checkpoint(folder: Path, dim: int, seed: int) -> None:
    """A CLIP checkpoint as training writes one, its weights drawn from ``seed``."""
    from mmret.towers.clip import new_clip, save_clip
    from mmret.towers.tokenizer import train_tokenizer

    settings = TowerSettings(projection=dim, seed=seed)
    tokenizer = train_tokenizer(_WORDS, settings.vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    with silence():
        save_clip(new_clip(settings, tokenizer), tokenizer, settings, folder)
    (folder / RECORD).write_text(json.dumps({"recipe": Recipe().model_dump(mode="json")}) + "\n")


def record(lake: Lake) -> None:
    """Enter the checkpoint that is in its place, as the end of a training does."""
    folder = Path("checkpoints") / RECIPE
    row = {"recipe": RECIPE, "folder": str(folder), "step": 1, "loss": 1.0, "pairs": 1, "seconds": 1.0}
    row["settings"] = Recipe().model_dump_json()
    digest = weights_digest(lake.root / folder)
    lake.write("checkpoints", RECIPE, pa.Table.from_pylist([row], CHECKPOINTS), f"bench {digest}", weights=digest)


def swap_checkpoint(lake: Lake) -> None:
    """Put the other checkpoint in the place of the first, in the order in which training does it."""
    with replacing_folder(lake.root / "checkpoints" / RECIPE) as aside:
        shutil.copytree(lake.root / OTHER, aside, dirs_exist_ok=True)
    record(lake)


def draw_vectors(lake: Lake, folder: Path, dim: int, seed: int) -> None:
    """Store unit vectors of all pictures under the digest of the checkpoint in ``folder``, where there are none."""
    shards = lake.partitions("images")
    for number, shard in enumerate(shards):
        path = vectors_path(lake, folder, shard)
        if path.is_file():
            continue
        ids = lake.read("images", shard, ["image_id"])["image_id"]
        clusters = np.random.default_rng([8, seed]).standard_normal((max(2, len(shards) * SHARD // _TO_A_CLUSTER), dim))
        rng = np.random.default_rng([9, seed, number])
        drawn = clusters[rng.integers(len(clusters), size=len(ids))] + 0.7 * rng.standard_normal((len(ids), dim))
        unit = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
        rows = pa.table({"image_id": ids, "vector": pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), dim)})
        with replacing(path) as aside:
            pq.write_table(rows, aside)


def vectors_path(lake: Lake, folder: Path, shard: str) -> Path:
    """Where the lake keeps a shard's vectors by the checkpoint in ``folder``."""
    from mmret.retriever.models.load import embedding_digest

    return lake.root / "gallery" / embedding_digest(folder) / f"{shard}.parquet"


def linked_copy(lake: Lake, place: Path) -> Lake:
    """A copy in which shards and checkpoints may change: hard links, for a lake's files are replaced, not edited."""
    shutil.rmtree(place, ignore_errors=True)  # of a run that was stopped
    shutil.copytree(lake.root, place, copy_function=lambda a, b: Path(b).hardlink_to(a), ignore=shutil.ignore_patterns("*.duckdb*"))
    return Lake(place)


def kept_aside(lake: Lake, folder: Path) -> Path:
    """Another folder of the lake with the same checkpoint."""
    return Path(shutil.copytree(folder, lake.root / f"bench-{weights_digest(folder)}", dirs_exist_ok=True))


def remove(lake: Lake) -> None:
    shutil.rmtree(lake.root)


def _png(rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    Image.fromarray(rng.integers(256, size=(4, 4, 3), dtype=np.uint8)).resize((48, 48), Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


def _images(rng: np.random.Generator, shard: str, ids: list[str]) -> pa.Table:
    n = len(ids)
    columns: dict[str, Any] = {
        "image_id": ids,
        "shard": [shard] * n,
        "position": list(range(n)),
        "path": [f"{i}.png" for i in ids],
        "root": ["bench"] * n,
        "caption": texts(rng, n),
        "width": [48] * n,
        "height": [48] * n,
        "format": ["PNG"] * n,
        "mode": ["RGB"] * n,
        "licence": list(rng.choice(["CC0-1.0", "CC-BY-4.0"], size=n)),
    }
    columns["caption_words"] = [len(c.split()) for c in columns["caption"]]
    return _filled("images", pa.table(columns))


def _filled(table: str, given: pa.Table) -> pa.Table:
    """``given`` with the columns of ``table``, null where it has none."""
    schema = TABLES[table]
    columns = [given[f.name].cast(f.type) if f.name in given.column_names else pa.nulls(len(given), f.type) for f in schema]
    return pa.table(columns, schema=schema)
