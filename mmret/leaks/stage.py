"""The stage `leaks`: finds pictures of the corpus that a benchmark is measured with, so that they are kept out of pairs.

Fingerprints lie at ``<lake>/fingerprints/<shard>.parquet`` and ``<lake>/fingerprints/benchmarks/<name>.parquet``. A shard whose
images did not change, or a folder whose files did not (by path, size and time), is not read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmret.encode.protocol import Encoder, load_encoder
from mmret.encode.vectors import read_vectors
from mmret.errors import UserError
from mmret.hashing import fingerprint
from mmret.ingest.pictures.decode import open_rgb
from mmret.ingest.pictures.images import read_images
from mmret.ingest.rows import IMAGE_SUFFIXES
from mmret.lake import Facts, Lake
from mmret.leaks.find import FINGERPRINTS, LeakLimits, fingerprints, folder_fingerprints, leaks
from mmret.schemas import LEAKS
from mmret.settings import EncoderSettings, Profile
from mmret.storage import Storage
from mmret.unit_vectors import require_unit

ALGORITHM = "dhash128-1"
_KEY = b"mmret.made_from"


def lake_leaks(
    lake: Lake, benchmarks: Mapping[str, str | Path], limits: LeakLimits | None = None, encoder: EncoderSettings | None = None
) -> pa.Table:
    """Table ``LEAKS`` of the lake's images that show a picture of the ``benchmarks`` (name -> folder of pictures).

    With ``encoder``, the model of the lake's ``clip_image`` vectors, pictures are compared by embedding as well, which costs a
    pass of that model over the benchmark's pictures. Raises UserError for a folder that does not exist.
    """
    corpus = corpus_fingerprints(lake)
    sides = {name: benchmark_fingerprints(lake, name, folder) for name, folder in benchmarks.items()}
    if encoder is not None:
        corpus = _with_stored_vectors(lake, corpus)
        model = load_encoder(encoder, "clip_image", lake.storage)
        sides = {name: _with_vectors(table, Path(benchmarks[name]), model) for name, table in sides.items()}
    return leaks(corpus, sides, limits)


def write_leaks(lake: Lake, profile: Profile, inputs: str) -> Facts:
    """Write table ``leaks``. If the settings name no benchmark it is empty, and nothing is read.

    Vectors of towers that the lake trained itself are not compared: trained on a small corpus, they give different pictures
    similar vectors.

    >>> write_leaks(lake, profile, fingerprint_now(lake, profile, "leaks")).rows
    """
    benchmarks = profile.leaks.benchmarks
    encoder = profile.encoders["clip_image"] if profile.towers is None else None
    found = lake_leaks(lake, benchmarks, encoder=encoder) if benchmarks else LEAKS.empty_table()
    return lake.write("leaks", "all", found, inputs, benchmarks=sorted(benchmarks))


def _with_stored_vectors(lake: Lake, corpus: pa.Table) -> pa.Table:
    """``corpus`` with the lake's own clip_image vectors, float32."""
    parts = [read_vectors(lake, shard, "clip_image") for shard in lake.partitions("clip_image")]
    place = {image_id: at for at, image_id in enumerate(i for ids, _ in parts for i in ids)}
    stored = np.concatenate([vectors for _, vectors in parts])
    return _with_vector_column(corpus, stored[[place[i] for i in corpus["image_id"].to_pylist()]])


def _with_vectors(table: pa.Table, folder: Path, model: Encoder) -> pa.Table:
    """``table`` with vectors of its picture files; a file that is no picture gets zeros, which are similar to nothing."""
    vectors = np.zeros((table.num_rows, model.width), np.float32)
    pictures = np.flatnonzero(table["hash"].is_valid().to_numpy(zero_copy_only=False))
    names = table["name"].to_pylist()
    for start in range(0, len(pictures), model.batch_size):
        rows = pictures[start : start + model.batch_size]
        found = model.encode_images([open_rgb((folder / names[row]).read_bytes()) for row in rows])
        vectors[rows] = require_unit(
            found, lambda at, kind, rows=rows: f"{model.model} gave {folder / names[rows[at]]} {kind}: its weights are damaged"
        )
    return _with_vector_column(table, vectors)


def _with_vector_column(table: pa.Table, vectors: np.ndarray) -> pa.Table:
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    return table.append_column("vector", pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))


def corpus_fingerprints(lake: Lake) -> pa.Table:
    """``FINGERPRINTS`` of every image of the lake; only shards that changed are read."""
    parts = [FINGERPRINTS.empty_table()]
    for shard in lake.partitions("images"):
        ids = lake.read("images", shard, ["image_id"])["image_id"].to_pylist()
        parts.append(_cached(lake.storage, f"fingerprints/{shard}.parquet", fingerprint(ALGORITHM, ids),
                           lambda shard=shard: fingerprints(_pictures(lake, shard))))  # fmt: skip
    return pa.concat_tables(parts)


def benchmark_fingerprints(lake: Lake, name: str, folder: str | Path) -> pa.Table:
    """``FINGERPRINTS`` of every picture file under ``folder``. Raises UserError where it is none or holds none."""
    root = Path(folder)
    listing = sorted((str(p.relative_to(root)), (s := p.stat()).st_size, s.st_mtime_ns)
                     for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())  # fmt: skip
    if not listing:
        raise UserError(f"leak check: no pictures of {name} under {root}")
    return _cached(lake.storage, f"fingerprints/benchmarks/{name}.parquet",
                 fingerprint(ALGORITHM, str(root.absolute()), listing), lambda: folder_fingerprints(root))  # fmt: skip


def _pictures(lake: Lake, shard: str) -> Iterator[tuple[str, bytes]]:
    for batch in read_images(lake, shard):
        yield from zip(batch.column("image_id").to_pylist(), batch.column("data").to_pylist(), strict=True)


def _cached(storage: Storage, key: str, made_from: str, make: Callable[[], pa.Table]) -> pa.Table:
    """The table at ``key`` if it was made from the same inputs, else a new one from ``make``, written there in one step."""
    if storage.exists(key):
        with storage.open(key) as file:
            table = pq.read_table(file, partitioning=None)
        if (table.schema.metadata or {}).get(_KEY) == made_from.encode():
            return table.replace_schema_metadata(None)
    table = make()
    with storage.replacing(key) as aside:
        pq.write_table(table.replace_schema_metadata({_KEY: made_from}), aside, compression="zstd")
    return table
