"""Finds benchmark images in the training corpus: by content hash, by perceptual hash and by embedding.

A model must not be trained on the pictures it is tested on. The same file is found by its hash; a resized or re-encoded
copy by a 128-bit difference hash and a colour thumbnail; a crop or an edit by the cosine of embeddings, where both
sides have them. The hash search is exact: two hashes of 128 bits that differ in at most 7 share one of eight 16-bit
bands whole, so only pictures that share a band are compared. Cost: one decode per picture for the fingerprint (about 3
ms at 256 px); the search takes seconds for 100,000 against 100,000.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from mmret.errors import UserError
from mmret.hashing import content_id
from mmret.ingest.decode import Unreadable, open_rgb
from mmret.ingest.rows import IMAGE_SUFFIXES
from mmret.progress import advance
from mmret.schemas import LEAKS

GRID = 8
THUMB = 3 * GRID * GRID
FINGERPRINTS = pa.schema([
    ("name", pa.string()),                # what the owner calls the picture: an image id, or a path in a benchmark
    ("image_id", pa.string()),            # content hash
    ("hash", pa.binary(16)),              # difference hash, 64 bits across and 64 down; null: not a picture
    ("thumb", pa.binary(THUMB)),          # 8 x 8 RGB
])  # fmt: skip
BANDS = 8
PAIRS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class LeakLimits:
    """When two pictures count as the same. ``bits``: their hashes differ in at most so many of 128 bits (7 at most, all that the
    search can find) and their thumbnails by at most ``thumb`` grey levels on average. ``cosine``: or their embeddings are at
    least so similar.
    """

    bits: int = 7
    thumb: float = 6.0
    cosine: float = 0.985

    def __post_init__(self) -> None:
        if not 0 <= self.bits < BANDS:
            raise UserError(f"leak check: bits must be between 0 and {BANDS - 1}, got {self.bits}")


def fingerprint_of(data: bytes) -> tuple[bytes, bytes]:
    """(hash of 16 bytes, thumbnail of 192 bytes) of a picture's file. Raises Unreadable where it is none."""
    small = open_rgb(data, draft=(256, 256))
    grey = small.convert("L")
    across = np.asarray(grey.resize((GRID + 1, GRID), Image.Resampling.BOX), np.int16)
    down = np.asarray(grey.resize((GRID, GRID + 1), Image.Resampling.BOX), np.int16)
    bits = np.concatenate([(np.diff(across, axis=1) > 0).ravel(), (np.diff(down, axis=0) > 0).ravel()])
    thumb = np.asarray(small.resize((GRID, GRID), Image.Resampling.BOX), np.uint8)
    return np.packbits(bits).tobytes(), thumb.tobytes()


def fingerprints(pictures: Iterable[tuple[str, bytes]]) -> pa.Table:
    """Table ``FINGERPRINTS`` of (name, file content); a file that is no picture has a row with its content hash only."""

    def one(item: tuple[str, bytes]) -> dict[str, str | bytes | None]:
        name, data = item
        try:
            found, thumb = fingerprint_of(data)
        except Unreadable:
            return {"name": name, "image_id": content_id(data), "hash": None, "thumb": None}
        return {"name": name, "image_id": content_id(data), "hash": found, "thumb": thumb}

    rows = []
    with ThreadPoolExecutor(4) as pool:
        for batch in _batches(pictures, 256):
            rows += list(pool.map(one, batch))
            advance("fingerprints", len(rows), None)
    return pa.Table.from_pylist(rows, FINGERPRINTS)


def folder_fingerprints(folder: str | Path) -> pa.Table:
    """Fingerprints of every picture file under ``folder``, named by its path inside. Raises UserError if there is no folder."""
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"leak check: no folder of benchmark images at {root}")
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    return fingerprints((str(p.relative_to(root)), p.read_bytes()) for p in paths)


def leaks(corpus: pa.Table, benchmarks: Mapping[str, pa.Table], limits: LeakLimits | None = None) -> pa.Table:
    """Table ``LEAKS``: every image of ``corpus`` that shows a benchmark's picture, with the surest way it was found.

    Both sides are ``FINGERPRINTS``; where both also have a column ``vector`` (unit length, from one and the same
    model), they are compared by cosine too. One row per pair of pictures, ordered by benchmark, image and picture.
    """
    limits = limits or LeakLimits()
    found: dict[tuple[str, str, str], tuple[str, float]] = {}
    names = corpus["image_id"].to_pylist()
    for benchmark, table in benchmarks.items():
        pictures = table["name"].to_pylist()
        ways = {
            "content": _same_content(corpus, table),
            "perceptual": _look_alike(corpus, table, limits),
            "embedding": _close(corpus, table, limits.cosine),
        }
        for how, pairs in ways.items():
            for i, j, value in pairs:
                found.setdefault((benchmark, names[i], pictures[j]), (how, value))
    rows = [{"benchmark": b, "image_id": i, "benchmark_image": p, "how": how, "value": value}
            for (b, i, p), (how, value) in sorted(found.items())]  # fmt: skip
    return pa.Table.from_pylist(rows, LEAKS)


Pairs = Iterator[tuple[int, int, float]]


def _same_content(corpus: pa.Table, table: pa.Table) -> Pairs:
    where: dict[str, list[int]] = {}
    for j, image_id in enumerate(table["image_id"].to_pylist()):
        where.setdefault(image_id, []).append(j)
    for i, image_id in enumerate(corpus["image_id"].to_pylist()):
        for j in where.get(image_id, ()):
            yield i, j, 1.0


def _look_alike(corpus: pa.Table, table: pa.Table, limits: LeakLimits) -> Pairs:
    left, right = _hashes(corpus), _hashes(table)
    ours, theirs = _thumbs(corpus), _thumbs(table)
    if not len(left.distinct) or not len(right.distinct):
        return
    for a, b, bits in _near(left.distinct, right.distinct, limits.bits):
        for i in left.rows[a]:
            difference = np.abs(ours[i].astype(np.int16) - theirs[right.rows[b]]).mean(axis=1)
            for j in np.asarray(right.rows[b])[difference <= limits.thumb]:
                yield int(i), int(j), float(bits)


@dataclass(frozen=True)
class _Hashes:
    """``distinct`` (m, 2) uint64, and the table rows of each."""

    distinct: np.ndarray
    rows: list[list[int]]


def _hashes(table: pa.Table) -> _Hashes:
    rows: dict[bytes, list[int]] = {}
    for i, value in enumerate(table["hash"].to_pylist()):
        if value is not None:
            rows.setdefault(value, []).append(i)
    return _Hashes(np.frombuffer(b"".join(rows), np.uint64).reshape(-1, 2), list(rows.values()))


def _thumbs(table: pa.Table) -> np.ndarray:
    empty = bytes(THUMB)
    return np.frombuffer(b"".join(v or empty for v in table["thumb"].to_pylist()), np.uint8).reshape(-1, THUMB)


def _near(left: np.ndarray, right: np.ndarray, bits: int) -> Iterator[tuple[int, int, int]]:
    """Yield (row of left, row of right, differing bits) of every pair within ``bits``, found by the bands that they share."""
    found: dict[tuple[int, int], int] = {}
    left_bands, right_bands = left.view(np.uint16), right.view(np.uint16)
    for band in range(BANDS):
        order = np.argsort(right_bands[:, band], kind="stable")
        keys = right_bands[order, band]
        first = np.searchsorted(keys, left_bands[:, band], "left")
        counts = np.searchsorted(keys, left_bands[:, band], "right") - first
        for part in _parts(counts):
            repeats = counts[part]
            a = np.repeat(np.arange(part.start, part.stop), repeats)
            offset = np.arange(len(a)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
            b = order[np.repeat(first[part], repeats) + offset]
            distance = np.bitwise_count(left[a] ^ right[b]).sum(axis=1)
            close = distance <= bits
            found.update(zip(zip(a[close].tolist(), b[close].tolist(), strict=True), distance[close].tolist(), strict=True))
    yield from ((a, b, d) for (a, b), d in sorted(found.items()))


def _parts(counts: np.ndarray) -> Iterator[slice]:
    """Slices whose counts sum to about ``PAIRS_AT_ONCE``."""
    total = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + PAIRS_AT_ONCE, "right")))
        yield slice(start, stop)
        start = stop


def _close(corpus: pa.Table, table: pa.Table, cosine: float) -> Pairs:
    if "vector" not in corpus.column_names or "vector" not in table.column_names:
        return
    left, right = _vectors(corpus), _vectors(table)
    if left.shape[1] != right.shape[1]:
        raise UserError(f"leak check: vectors of {left.shape[1]} and {right.shape[1]} dimensions are not from one model")
    block = max(1, 32_000_000 // max(1, len(right)))
    for start in range(0, len(left), block):
        scores = left[start : start + block] @ right.T
        for i, j in np.argwhere(scores >= cosine):
            yield start + int(i), int(j), float(scores[i, j])


def _vectors(table: pa.Table) -> np.ndarray:
    column = table["vector"].combine_chunks()
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(len(column), -1)


def _batches(items: Iterable[tuple[str, bytes]], size: int) -> Iterator[Sequence[tuple[str, bytes]]]:
    batch: list[tuple[str, bytes]] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
