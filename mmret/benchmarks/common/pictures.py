"""Embeds a benchmark's pictures: each distinct picture goes through a model once, and its vector is stored.

Vectors are kept in the lake at ``<lake>/benchmark_vectors/<model>/*.parquet`` under the SHA-256 of the picture's
content (and of the crop, where a benchmark crops), so the same image under another name, in another benchmark or
another folder costs nothing. float32, since half precision changes ranks. Cost: one read of the file for its hash, the
first time a path is seen; then 4 bytes a dimension (CIRCO's 123,403 x 768: 380 MB on disk and in memory).
"""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mmret.errors import UserError
from mmret.hashing import content_id, fingerprint
from mmret.ingest.pictures.decode import FORMATS, Unreadable, open_rgb
from mmret.lake import Lake
from mmret.progress import advance
from mmret.search.encoder import Encoder

Box = tuple[float, float, float, float]
CHUNK = 1024
"""Pictures per cache file: what a crash costs at most."""
CROP_RULE = "genecis-0.7"
"""Part of a crop's cache key: a changed rule is another picture."""
DILATION = 0.7


@dataclass(frozen=True)
class Shot:
    """A picture as a benchmark uses it: a file, or the part of it around ``box`` (x, y, w, h in pixels)."""

    path: Path
    box: Box | None = None


def crop_rectangle(box: Box, width: int, height: int) -> Box:
    """GeneCIS' dilated crop (left, top, right, bottom) of ``box`` in an image of ``width`` x ``height`` pixels.

    By the official rule it grows by 0.7 of the box up and to the left only, unless the image's border cuts it.
    """
    x, y, w, h = box
    left, top = max(0, x - DILATION * w), max(0, y - DILATION * h)
    return left, top, min(width, left + (1 + DILATION) * w), min(height, top + (1 + DILATION) * h)


def crop(data: bytes, box: Box) -> Image.Image:
    """The crop of the picture in ``data``, padded with black to a centred square, RGB.

    Boxes refer to the pixels as stored, so the EXIF rotation is not applied, as in the official code.
    Raises Unreadable for a file that is no picture, and for a crop without area.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            left, top, right, bottom = crop_rectangle(box, *image.size)
            if round(right) <= round(left) or round(bottom) <= round(top):  # as Pillow rounds
                raise Unreadable("empty_crop", f"the box {box} has no area inside the image")
            part = image.crop((left, top, right, bottom)).convert("RGB")
    except Unreadable:
        raise
    except Exception as error:  # Pillow's plugins raise almost anything on damaged bytes
        raise Unreadable("damaged", str(error)[:300]) from None
    side = max(part.size)
    square = Image.new("RGB", (side, side))
    square.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return square


@dataclass(frozen=True)
class Vectors:
    """Vectors of n pictures, in the order they were given: ``rows`` (n, d) float32, and ``keys``, digests of their content.

    ``unreadable``: reasons, by row, of the pictures that could not be decoded; their rows are zero.
    """

    rows: np.ndarray
    keys: list[str]
    unreadable: dict[int, str]


class Embedder:
    """Embeds pictures and texts with one encoder; vectors of pictures are stored in the lake, if there is one.

    ``model`` names the weights (a digest) and is part of the store's path.
    """

    def __init__(self, encoder: Encoder, model: str, lake: Lake | None = None, batch_size: int = 64):
        self.encoder, self.model, self.batch_size = encoder, model, batch_size
        self.takes_instruction = "instruction" in inspect.signature(encoder.encode).parameters
        self.storage, self.folder = lake.storage if lake else None, f"benchmark_vectors/{model}"
        self._vectors: dict[str, np.ndarray] = {}
        self._seen: dict[tuple[str, int, int, str], str] = {}
        for entry in self.storage.list(self.folder, below=False) if self.storage else ():
            with self.storage.open(entry.key) as file:
                self._remember(pq.read_table(file, partitioning=None))

    def picture_vectors(self, shots: Sequence[Shot], task: str = "images") -> Vectors:
        """Vectors of ``shots``; every distinct picture that the store does not have is embedded and kept.

        A file that is no picture has a row of zeros and a reason. Raises UserError for vectors that are not finite, or
        all the same: such a model scores 100 % wherever the ground truth comes first in its list.
        """
        keys = [""] * len(shots)
        unreadable: dict[int, str] = {}
        for start in range(0, len(shots), CHUNK):
            self._chunk(shots, range(start, min(start + CHUNK, len(shots))), keys, unreadable)
            advance(task, min(start + CHUNK, len(shots)), len(shots))
        good = [i for i in range(len(shots)) if i not in unreadable]
        width = len(self._vectors[keys[good[0]]]) if good else 0
        rows = np.zeros((len(shots), width), np.float32)
        for i in good:
            rows[i] = self._vectors[keys[i]]
            self._vectors[keys[i]] = rows[i]  # one copy in memory: the block it came from is freed with its last row
        _refuse_constant(rows, good, keys)
        return Vectors(rows, keys, unreadable)

    def text_vectors(self, texts: Sequence[str], instruction: str | None = None) -> np.ndarray:
        """(n, d) float32 of texts alone; equal texts are embedded once."""
        distinct = list(dict.fromkeys(texts))
        rows = self._encode(None, distinct, instruction)
        place = {text: i for i, text in enumerate(distinct)}
        return rows[[place[text] for text in texts]]

    def composed_vectors(self, shots: Sequence[Shot], texts: Sequence[str], instruction: str | None = None) -> np.ndarray:
        """(n, d) float32 of image-text pairs. They are not stored, since the same pair hardly ever comes again."""
        parts = []
        for start in range(0, len(shots), self.batch_size):
            part = slice(start, start + self.batch_size)
            images = [_load(shot, shot.path.read_bytes()) for shot in shots[part]]
            parts.append(self._encode(images, texts[part], instruction))
        return np.concatenate(parts)

    def _encode(self, images: Sequence[Any] | None, texts: Sequence[str] | None, instruction: str | None) -> np.ndarray:
        extra = {"instruction": instruction} if instruction and self.takes_instruction else {}
        rows = np.asarray(self.encoder.encode(images=images, texts=texts, batch_size=self.batch_size, **extra), np.float32)
        if broken := int((~np.isfinite(rows)).any(axis=1).sum()):
            raise UserError(f"{broken} of {len(rows)} embeddings are not finite: the checkpoint is broken, nothing is scored")
        return rows

    def _chunk(self, shots: Sequence[Shot], span: range, keys: list[str], unreadable: dict[int, str]) -> None:
        """Fill ``keys`` of ``span``, embedding and storing what is new."""
        fresh: dict[str, tuple[int, bytes, tuple[str, int, int, str]]] = {}
        for i in span:
            shot = shots[i]
            stat = shot.path.stat()
            seen = (str(shot.path.absolute()), stat.st_size, stat.st_mtime_ns, _box_text(shot.box))
            key = self._seen.get(seen)
            if key is None or key not in self._vectors:  # new, or a file that was no picture
                data = shot.path.read_bytes()
                key = content_id(data)
                if shot.box:
                    key = content_id(f"{key}:{CROP_RULE}:{_box_text(shot.box)}".encode())
                if key not in self._vectors and key not in fresh:
                    fresh[key] = (i, data, seen)
            keys[i] = key
            self._seen[seen] = key
        failed: dict[str, Unreadable] = {}
        good: list[str] = []
        rows: list[np.ndarray] = []
        new = list(fresh)
        for start in range(0, len(new), self.batch_size):  # decoded pictures are large: only a batch of them at once
            keys_here = new[start : start + self.batch_size]
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                loaded = list(pool.map(lambda key: _try(shots[fresh[key][0]], fresh[key][1]), keys_here))
            failed |= {k: result for k, result in zip(keys_here, loaded, strict=True) if isinstance(result, Unreadable)}
            images = [result for result in loaded if not isinstance(result, Unreadable)]
            if images:
                good += [key for key in keys_here if key not in failed]
                rows.append(self._encode(images, None, None))
        unreadable.update({i: str(failed[keys[i]]) for i in span if keys[i] in failed})
        if good:
            self._keep([(key, *fresh[key][2]) for key in good], np.concatenate(rows))

    def _keep(self, names: list[tuple[str, str, int, int, str]], rows: np.ndarray) -> None:
        columns = list(zip(*names, strict=True))
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        table = pa.table([*map(pa.array, columns), vectors], names=["picture", "path", "size", "mtime_ns", "box", "vector"])
        if self.storage:
            with self.storage.replacing(f"{self.folder}/{fingerprint(columns[0])}.parquet") as aside:
                pq.write_table(table, aside)
        self._remember(table)

    def _remember(self, table: pa.Table) -> None:
        table = table.combine_chunks()
        keys = table["picture"].to_pylist()
        rows = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(keys), -1)
        self._vectors.update(zip(keys, rows, strict=True))
        seen = zip(*(table[c].to_pylist() for c in ("path", "size", "mtime_ns", "box")), strict=True)
        self._seen.update(zip(seen, keys, strict=True))


def _box_text(box: Box | None) -> str:
    return ",".join(repr(float(v)) for v in box) if box else ""


def _load(shot: Shot, data: bytes) -> Any:
    """What an encoder takes: the crop, or the decoded picture."""
    return crop(data, shot.box) if shot.box else open_rgb(data)


def _try(shot: Shot, data: bytes) -> Any:
    try:
        return _load(shot, data)
    except Unreadable as error:
        return error


def _refuse_constant(rows: np.ndarray, good: Sequence[int], keys: Sequence[str]) -> None:
    if not good or len({keys[i] for i in good}) == 1:
        return
    if all(np.array_equal(rows[i], rows[good[0]]) for i in good):  # ends at the first that differs
        raise UserError(f"all {len(good)} pictures have the same embedding: the checkpoint has collapsed, nothing is scored")
