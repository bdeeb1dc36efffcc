"""Shorter and coarser vectors: a gallery that does not fit memory as float32 fits as int8 (a quarter) or as bits (a 32nd).

What is lost by it is measured by ``bench/precision.py``, and won back by rescoring the first results with full vectors. Pure numpy.
Cost: a few passes over the vectors; :func:`hamming` one xor and one count per 64 dimensions of a pair.
"""

from __future__ import annotations

import numpy as np

from mmret.errors import UserError

LARGEST_CODE = 127
"""Codes are -127 to 127: -128 is left out, so that a vector and its opposite have opposite codes."""
_BLOCK_BYTES = 2**20
"""Of the gallery's bits at a time, which stay in the processor's cache while all queries are compared with them."""


def shorten(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """The first ``dimensions`` of ``vectors`` (n, d) of floats, of unit length again: (n, dimensions) float32.

    With all d the vectors themselves. Only vectors of a model that was trained for it (``matryoshka``) keep most of their worth.
    Raises UserError for more dimensions than there are, fewer than one, and vectors of which nothing is left.

    >>> shorten(np.array([[0.6, 0.0, 0.8]], np.float32), 2)
    array([[1., 0.]], dtype=float32)
    """
    there = vectors.shape[1]
    if not 1 <= dimensions <= there:
        raise UserError(f"the vectors have {there} dimensions: {dimensions} cannot be kept, give 1 to {there}")
    if dimensions == there:
        return vectors.astype(np.float32, copy=False)
    first = vectors[:, :dimensions].astype(np.float32)
    lengths = np.linalg.norm(first, axis=1, keepdims=True)
    _refuse(~((lengths[:, 0] > 0) & np.isfinite(lengths[:, 0])), f" in the first {dimensions} of {there} dimensions")
    return first / lengths


def to_int8(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``vectors`` (n, d) of floats as codes (n, d) int8 and a scale for each row, (n,) float32: its largest absolute value / 127.

    ``codes * scales[:, None]`` is off by at most half a scale.

    Raises UserError for a row of zeros or of numbers that are not finite.

    >>> to_int8(np.array([[0.6, -0.8]], np.float32))[0]
    array([[  95, -127]], dtype=int8)
    """
    vectors = vectors.astype(np.float32, copy=False)
    largest = np.abs(vectors).max(axis=1, initial=0)
    scales = largest / np.float32(LARGEST_CODE)
    _refuse(~((scales > 0) & np.isfinite(scales)))
    codes = np.rint(vectors / scales[:, None]).clip(-LARGEST_CODE, LARGEST_CODE)
    return codes.astype(np.int8), scales


def from_int8(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The vectors (n, d) float32 that ``codes`` (n, d) int8 and ``scales`` (n,) float32 of :func:`to_int8` stand for."""
    return codes * scales.astype(np.float32, copy=False)[:, None]


def to_binary(vectors: np.ndarray) -> np.ndarray:
    """The signs of ``vectors`` (n, d) of floats as bits: (n, ceil(d / 8)) uint8, the first dimension in the highest bit as
    ``np.packbits`` has it, 1 where the number is above zero, the last byte filled up with 0.

    Raises UserError for a row of zeros or of numbers that are not finite.
    """
    _refuse(~(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)))
    return np.packbits(vectors > 0, axis=1)


def hamming(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """In how many bits each of ``queries`` (q, b) uint8 differs from each of ``gallery`` (n, b) uint8: (q, n) int32.

    Of vectors of d dimensions the cosine of their signs is 1 - 2 * this / d. Raises UserError where they differ in width.
    """
    if queries.shape[1] != gallery.shape[1]:
        raise UserError(f"queries of {queries.shape[1]} bytes cannot be compared with a gallery of {gallery.shape[1]} bytes")
    words = _words(queries)
    counts = np.zeros((len(queries), len(gallery)), np.int32)
    block = max(1, _BLOCK_BYTES // max(1, gallery.shape[1]))
    for start in range(0, len(gallery), block):
        columns = np.ascontiguousarray(_words(gallery[start : start + block]).T)
        for row, query in zip(counts, words, strict=True):
            own = row[start : start + block]
            for word, column in zip(query, columns, strict=True):
                own += np.bitwise_count(column ^ word)
    return counts


def _words(bits: np.ndarray) -> np.ndarray:
    """(n, b) uint8 as (n, ceil(b / 8)) uint64, filled up with zeros."""
    missing = -bits.shape[1] % 8
    whole = np.pad(bits, ((0, 0), (0, missing))) if missing else np.ascontiguousarray(bits)
    return whole.view(np.uint64)


def _refuse(unusable: np.ndarray, where: str = "") -> None:
    """UserError where a row is marked in ``unusable`` (n,) bool."""
    if unusable.any():
        raise UserError(
            f"{int(unusable.sum())} of {len(unusable)} vectors are zero or not finite{where} "
            f"(the first: row {int(np.flatnonzero(unusable)[0])}): they cannot be made smaller, the model is broken"
        )
