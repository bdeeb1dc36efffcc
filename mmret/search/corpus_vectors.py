"""The vectors of a lake's pictures by one checkpoint, stored in the lake so that not every search has to embed all pictures.

They lie at ``<lake>/gallery/<digest of the checkpoint>/<shard>.parquet``, for search and evaluation, trained and untrained
models, and all machines alike; of a lake in an object store each machine keeps a copy of those that it searches. Cost: the image
tower once per picture and checkpoint, a shard at a time, so that a crash loses at most one shard; then 4 bytes a dimension on disk
and in memory.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmret.atomic import replacing
from mmret.errors import UserError
from mmret.ingest.pictures.images import read_images
from mmret.lake import Lake
from mmret.progress import advance
from mmret.retriever.models.usable import DAMAGED
from mmret.search.encoder import Encoder
from mmret.unit_vectors import UnusableVectors

GALLERIES = "gallery"
"""The folder in the lake, and in its scratch folder."""
_AT_ONCE = 8
_T, _R = TypeVar("_T"), TypeVar("_R")


def gallery(lake: Lake, folder: str | Path, batch_size: int = 256) -> tuple[list[str], np.ndarray]:
    """Ids and unit vectors (n, dim) float32 of every image of the lake, embedded by the checkpoint in ``folder``.

    Only shards without current vectors are embedded; progress is reported to :func:`mmret.progress.advance` as task
    ``gallery``. Raises UserError for a lake without images and for a picture that gets no vector.

        ids, vectors = gallery(Lake("lakes/demo"), "lakes/demo/checkpoints/demo")
    """
    parts = list(gallery_shards(lake, folder, batch_size))
    if not parts:
        raise UserError(f"{lake.address} holds no images yet: run `mmret run --lake {shlex.quote(lake.address)}` first")
    return [image_id for part in parts for image_id in part.ids], np.concatenate([part.vectors() for part in parts])


@dataclass(frozen=True)
class StoredShard:
    """One shard's pictures, in the order of table ``images``, and the file of their vectors on this machine; ``digest``: of the
    rows of ``images``; ``folder``: of this machine, for what is made of all shards' vectors."""

    shard: str
    digest: str
    ids: list[str]
    path: Path
    folder: Path | None = None

    def vectors(self) -> np.ndarray:
        """(n, dim) float32, in memory."""
        with pq.ParquetFile(self.path, memory_map=True, pre_buffer=False) as file:  # a batch at a time, not the file and its copy
            width = file.schema_arrow.field("vector").type.list_size
            found, at = np.empty((len(self.ids), width), np.float32), 0
            for batch in file.iter_batches(8192, columns=["vector"]):
                found[at : at + len(batch)] = batch.column("vector").flatten().to_numpy().reshape(-1, width)
                at += len(batch)
        return found

    def mapped_vectors(self) -> np.ndarray:
        """The same from a file beside it that is mapped into memory: only what is touched is read. It is written at the first
        call."""
        place = self.path.with_suffix(".npy")
        if not place.is_file() or place.stat().st_mtime_ns < self.path.stat().st_mtime_ns:
            with replacing(place) as aside, aside.open("wb") as file:
                np.save(file, self.vectors())
        return np.load(place, mmap_mode="r")


def gallery_shards(
    lake: Lake,
    folder: str | Path,
    batch_size: int = 256,
    known: Mapping[str, str] | None = None,
    load: Callable[[], Encoder] | None = None,
) -> Iterator[StoredShard]:
    """The shards of the lake that have pictures, each embedded by the checkpoint in ``folder`` if it is not yet.

    ``known``: digests by shard that need not be looked at again; ``load``: gives the model, where somebody else keeps it;
    it is called only if a shard has to be embedded.
    """
    from mmret.retriever.models.kinds import embedding_digest

    name = embedding_digest(folder)
    shards = lake.partitions("images")
    facts = each_of(lake, lambda shard: lake.facts("images", shard), shards)
    ahead = {} if lake.storage.is_local else dict(zip(shards, each_of(lake, partial(_ids, lake), shards), strict=True))
    total, done = sum(f.rows for f in facts), 0
    model: Encoder | None = None
    for shard, fact in zip(shards, facts, strict=True):
        ids = ahead[shard] if shard in ahead else _ids(lake, shard)
        if not ids:  # a shard of rejects, or imported triplets of pictures that others brought
            continue
        key = f"{GALLERIES}/{name}/{shard}.parquet"
        path = None if (known or {}).get(shard) == fact.digest else _stored(lake, key, ids)
        if (known or {}).get(shard) != fact.digest and path is None:
            if model is None:
                model = _loaded(folder) if load is None else load()
            rows = _embed_shard(lake, shard, ids, (model, str(folder)), batch_size, (done, total))
            ahead.clear()  # which took its time: the other shards may be others by now
            with lake.storage.replacing(key) as aside:
                pq.write_table(rows, aside)
        done += len(ids)
        yield StoredShard(shard, fact.digest, ids, path or lake.storage.local(key), lake.scratch / GALLERIES / name)


def _ids(lake: Lake, shard: str) -> list[str]:
    return lake.read("images", shard, ["image_id"])["image_id"].to_pylist()


def each_of(lake: Lake, read: Callable[[_T], _R], shards: Sequence[_T]) -> list[_R]:
    """``read(shard)`` of each of ``shards``, in their order; of a lake in an object store several at once."""
    if lake.storage.is_local:
        return [read(shard) for shard in shards]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(read, shards))


def _stored(lake: Lake, key: str, ids: list[str]) -> Path | None:
    """The file on this machine of stored vectors, if they are those of the pictures ``ids``."""
    try:
        path = lake.storage.local(key)
        stored = pq.read_table(path, columns=["image_id"], partitioning=None)["image_id"].to_pylist()
    except FileNotFoundError:
        return None
    return path if stored == ids else None


def _embed_shard(
    lake: Lake, shard: str, ids: list[str], model: tuple[Encoder, str], batch_size: int, progress: tuple[int, int]
) -> pa.Table:
    """Rows ``image_id, vector`` in the order of ``ids``.

    ``model``: with its folder; ``progress``: images done before this shard, images in all.
    """
    (retriever, folder), (done, total) = model, progress
    vectors = np.full((len(ids), retriever.dim), np.nan, dtype=np.float32)
    place = {image_id: i for i, image_id in enumerate(ids)}
    for batch in read_images(lake, shard, batch_size, ids=place):
        found = batch.column("image_id").to_pylist()
        try:
            encoded = retriever.encode(batch.column("data").to_pylist(), batch_size=batch_size)
        except UnusableVectors as error:
            path = batch.column("path")[error.row].as_py()
            raise UserError(f"{folder} gave image {found[error.row]} ({path}) {error.kind}: {DAMAGED}") from None
        vectors[[place[i] for i in found]] = encoded
        done += len(found)
        advance("gallery", done, total)
    if np.isnan(vectors).any():
        missing = int(np.isnan(vectors).any(axis=1).sum())
        raise UserError(
            f"{missing} images of {shard} have no vector: they are missing from the lake, or the "
            f"checkpoint is broken; run `mmret run --lake {shlex.quote(lake.address)}` again"
        )
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), retriever.dim)
    return pa.table({"image_id": pa.array(ids, pa.string()), "vector": flat})


def _loaded(folder: str | Path) -> Encoder:
    from mmret.retriever.models.load import Retriever  # imports torch and transformers, which takes seconds

    return Retriever.load(folder)


def drop_other_galleries(lake: Lake, folders: Iterable[str | Path]) -> int:
    """Delete the stored vectors of all checkpoints except those in ``folders``; returns for how many checkpoints."""
    from mmret.retriever.models.kinds import embedding_digest

    keep = {embedding_digest(folder) for folder in folders}
    stale = [name for name in lake.storage.folders(GALLERIES) if name not in keep]
    for name in stale:
        lake.storage.delete_below(f"{GALLERIES}/{name}")
        shutil.rmtree(lake.scratch / GALLERIES / name, ignore_errors=True)
    return len(stale)
