"""Feeds pictures and texts to a model so that neither a core nor the GPU has to wait for another.

On a GPU, threads decode whole batches ahead while one thread drives the model. On a CPU every thread takes a batch
from bytes to vectors by itself with torch on one thread: decoding overlaps other batches' arithmetic, nothing
synchronises within an operation, and the result does not depend on the number of cores. Results come in order, with a
bounded number in flight.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mmret.encode.protocol import Encoder
from mmret.errors import UserError
from mmret.ingest.pictures.decode import Unreadable
from mmret.threads import in_order

Rows = TypeVar("Rows")
_AHEAD = 2
"""Batches in flight per thread."""


def image_vectors(encoder: Encoder, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Yield each batch (columns image_id, path, data) with its vectors (n, width) float32, in order.

    Raises UserError naming the image where one cannot be decoded.
    """
    if encoder.on_cpu:
        yield from map_on_cores(lambda rows: encoder.encode_images(_pixels(encoder, rows)), batches)
        return
    workers = os.cpu_count() or 1
    for rows, pixels in in_order(lambda rows: _pixels(encoder, rows).pin_memory(), batches, workers, _AHEAD * workers):
        yield rows, encoder.encode_images(pixels)


def text_vectors(encoder: Encoder, batches: Iterable[list[str]]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield each list of n texts with its vectors (n, width) float32, in order."""
    if encoder.on_cpu:
        yield from map_on_cores(encoder.encode_texts, batches)
        return
    for texts in batches:
        yield texts, encoder.encode_texts(texts)


def _pixels(encoder: Encoder, rows: pa.RecordBatch) -> Tensor:
    pixels = []
    for image_id, path, data in zip(*(rows[c] for c in ("image_id", "path", "data")), strict=True):
        try:
            pixels.append(encoder.preprocess(data.as_py()))
        except Unreadable as error:
            raise UserError(
                f"image {image_id} ({path}) is stored but cannot be decoded: {error}; "
                "the table `images` is damaged: delete its shard's file and run again"
            ) from error
    return torch.stack(pixels)


def map_on_cores(work: Callable[[Rows], np.ndarray], batches: Iterable[Rows]) -> Iterator[tuple[Rows, np.ndarray]]:
    """Yield ``(batch, work(batch))`` in order; as many batches at a time as torch has threads, each on one thread."""
    with single_threaded() as cores:
        yield from in_order(work, batches, cores, _AHEAD * cores)


@contextmanager
def single_threaded() -> Iterator[int]:
    """Inside the block torch computes every operation on the calling thread; yields how many threads it used before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)
