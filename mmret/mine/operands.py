"""Prepares one shard's vectors of one signal for comparison: int8 sketches that rule pairs out, float16 that give exact scores.

Why two forms. Nearly all pairs lie below the band, so most of the arithmetic only has to prove that a pair is *not* a
neighbour. An eight-bit product proves it with a rigorous error bound at about a ninth of the time of a float32 one (CPU
with VNNI; tensor cores on a GPU); the few pairs it cannot rule out are scored exactly (:func:`exact_scores`).
Without VNNI codes are smaller, so that sums stay exact in 16 bits, and a product takes half the time of a float32 one. On a
CPU large shards are first compared in few dimensions (:mod:`mmret.mine.projections`).

The bound. A vector x is turned by a fixed orthogonal map (random signs, then Hadamard blocks: inner products stay,
outlier dimensions are spread) and rounded to s*q with integer q; its error e = |x - s*q| is measured, not estimated.
Then |x.y - s_x s_y q_x.q_y| <= |x| e_y + |y| e_x + 3 e_x e_y, which splits into one term per vector
(:attr:`Block.error`).

Cost: one pass over the vectors, two bytes more per component while the shard is in memory; with heads a fifth of a byte, and the
sketches of those blocks that heads did not suffice for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache

import numpy as np
import torch

from mmret.errors import UserError
from mmret.mine.projections import Codes, Head, Projection, beside_like_ones
from mmret.mine.threads import in_threads

NORM_TOLERANCE = 0.01
"""How far the length of a stored vector may be from one; float16 rounding alone stays under 0.0005."""

GROUP = 32
"""A sketch is padded with zeros to a multiple of so many rows, so that tiles fall into whole groups of columns."""

_CODE_OF_16_BITS = 79  # (79 + 128) * 79 * 2 is the largest such number below 2**15: one side is made unsigned by adding 128
_CHUNK = 65_536  # pairs exact_scores_of_few at a time on a GPU
_ROTATION = 64  # width of the Hadamard block
_SLACK = 2e-4  # float32 error of the rotation, both sides, with room


@dataclass(frozen=True)
class Block:
    """Rows ``start:stop`` of a matrix, r of them. ``rows`` (p, w) and ``columns`` (w, p) are their sketch as left and right operand
    of a product; p is r padded to whole groups.

    A product of two blocks times both ``unit`` is the score to within the sum of both ``error`` (r,) float32. A block with a
    ``head`` has no sketch before it is asked for as a ``whole``, and its vectors are the rows ``numbers`` of ``shard``.
    """

    start: int
    stop: int
    rows: torch.Tensor | None
    columns: torch.Tensor | None
    unit: float
    error: np.ndarray | None
    vectors: torch.Tensor | None  # (r, d) float16
    head: Head | None = None
    numbers: np.ndarray | None = None
    shard: np.ndarray | None = None  # (n, d) float16
    largest: int = 0

    def numbers_of(self, rows: np.ndarray) -> np.ndarray:
        """What ``rows`` (m,) of the block are called as targets."""
        return rows + self.start if self.numbers is None else self.numbers[rows]

    def wide(self, rows: np.ndarray | slice = slice(None)) -> torch.Tensor:
        """Vectors (m, d) float32 of ``rows`` of the block."""
        if self.vectors is not None:
            return self.vectors[rows].float()
        return torch.from_numpy(self.shard.take(self.numbers[rows], 0)).float()

    @property
    def whole(self) -> Block:
        """The block with its sketch."""
        return self if self.rows is not None else self._sketched  # if it kept itself, only the collector would free it

    @cached_property
    def _sketched(self) -> Block:
        rows, columns, unit, error = _int8_block(self.wide(), self.largest)
        return replace(self, rows=rows, columns=columns, unit=unit, error=error)


def int8_products(device: torch.device) -> bool:
    """Whether eight-bit products are fast and exact here; float32 ones are used otherwise. The results are the same."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (7, 5)
    return device.type == "cpu" and torch.cpu._is_vnni_supported() and _exact_products()


def largest_code(device: torch.device) -> int:
    """The largest code of a sketch for which eight-bit products are fast and exact here; 0 where they are not."""
    if int8_products(device):
        return 127
    return _CODE_OF_16_BITS if device.type == "cpu" and _exact_products(_CODE_OF_16_BITS) and _fast_products() else 0


@cache
def _exact_products(largest: int = 127) -> bool:
    """Whether sums of eight-bit products of codes up to ``largest`` are exact. Without VNNI, or where oneDNN is kept from it
    (``ONEDNN_MAX_CPU_ISA``, a virtual machine), it takes instructions that add pairs of products in 16 bits, which saturate."""
    signs = torch.from_numpy(np.random.default_rng(0).choice([-1, 1], (128, 512)))
    signs[:32], signs[32:64] = 1, -1
    rows = (signs * largest).to(torch.int8)
    return bool((torch._int_mm(rows, rows.T.contiguous()) == (signs @ signs.T) * largest**2).all())


@cache
def _fast_products() -> bool:
    """Whether eight-bit products take less time than float32 ones: a trial of some 50 milliseconds, of products large enough that
    threads which wait for each other do not decide it, in turn."""
    rows = torch.ones((512, 512), dtype=torch.int8)
    wide, columns = rows.float(), rows.T.contiguous()
    wide_columns = columns.float()

    def seconds(product: Callable[[], object]) -> float:
        start = time.perf_counter()
        product()
        return time.perf_counter() - start

    times = [(seconds(lambda: torch._int_mm(rows, columns)), seconds(lambda: wide @ wide_columns)) for _ in range(9)]
    short, single = map(min, zip(*times, strict=True))
    return short < single


class Matrix:
    """Vectors (n, d) float16 of unit length, cut into blocks of ``tile`` rows on ``device``.

    With a ``projection`` the rows are arranged as suits it; ``numbers`` (n,) has the place that each had before. Raises UserError,
    naming signal, id and what to do, for a vector that is not finite, zero or not of unit length.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        ids: Sequence[str],
        signal: str,
        tile: int,
        device: torch.device,
        int8: bool | None = None,
        projection: Projection | None = None,
    ):
        if vectors.ndim != 2 or vectors.dtype != np.float16:
            raise UserError(f"{signal}: expected float16 vectors (n, d), got {vectors.dtype} {vectors.shape}")
        if len(vectors) != len(ids):
            raise UserError(f"{signal}: {len(vectors)} vectors for {len(ids)} images: encode the shard again")
        self.rows, self.width = vectors.shape
        self.device, self.tile = device, tile
        self._largest = largest_code(device) if int8 is None else (127 if device.type != "cpu" or _exact_products() else 79) * int8
        self.int8 = self._largest > 0
        self.numbers = np.arange(self.rows)
        self.blocks = self._plain(vectors, ids, signal) if projection is None else self._arranged(vectors, ids, signal, projection)

    def _plain(self, vectors: np.ndarray, ids: Sequence[str], signal: str) -> list[Block]:
        blocks = []
        for start in range(0, self.rows, self.tile):
            part = self._part(vectors, start).to(self.device)
            wide = part.float()
            _check(wide, ids[start : start + self.tile], signal)
            sketch = _int8_block(wide, self._largest) if self.int8 else _float_block(wide)
            blocks.append(Block(start, start + len(part), *sketch, part))
        return blocks

    def _arranged(self, vectors: np.ndarray, ids: Sequence[str], signal: str, projection: Projection) -> list[Block]:
        starts = range(0, self.rows, self.tile)

        def code(start: int) -> Codes:
            wide = self._part(vectors, start).float()
            _check(wide, ids[start : start + self.tile], signal)
            return projection.code(wide)

        def block(start: int) -> Block:
            numbers = self.numbers[start : start + self.tile]
            head = projection.written(codes[numbers], bounds[numbers], -len(numbers) % GROUP)
            stop = start + len(numbers)
            return Block(start, stop, None, None, 0.0, None, None, head, numbers, vectors, self._largest)

        parts = list(in_threads(code, starts))
        self.numbers = beside_like_ones(parts)
        codes, bounds = np.concatenate([part.codes for part in parts]), np.concatenate([part.bounds for part in parts])
        return list(in_threads(block, starts))

    def _part(self, vectors: np.ndarray, start: int) -> torch.Tensor:
        return torch.from_numpy(np.require(vectors[start : start + self.tile], requirements=["C", "W"]))


def _check(vectors: torch.Tensor, ids: Sequence[str], signal: str) -> None:
    """Refuse vectors that have no cosine similarity. Raises UserError."""
    norms = vectors.norm(dim=1)
    bad = (~((norms - 1).abs() <= NORM_TOLERANCE)).nonzero().flatten()
    if len(bad):
        norm = float(norms[bad[0]])
        what = (
            "has a value that is not finite"
            if not np.isfinite(norm)
            else "is zero"
            if norm == 0
            else f"has length {norm:.4g}, not 1"
        )
        raise UserError(
            f"{signal}: the vector of image {ids[int(bad[0])]} {what} ({len(bad)} such rows in its tile): "
            f"encode the image again, or normalise the vectors before they are stored"
        )


def exact_scores(a: torch.Tensor, b: torch.Tensor, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Scores of the pairs (a[i], b[j]): the exact inner products, rounded once to float32.

    ``a``, ``b``: (n, d) float16 values of about unit length, in any precision; ``i`` must ascend. Components are
    multiples of 2**-24, so products are multiples of 2**-48 and every partial sum (below 2 in magnitude, by Cauchy
    and Schwarz) fits the 53 bits of a double: no order of summation, device or tiling can change a result.
    """
    if not len(i):
        return np.zeros(0, np.float32)
    if a.device.type == "cpu" and _sampled_products():
        return _sampled(a.double(), b.double(), i, j).to(torch.float32).numpy()
    return exact_scores_of_few(a, b, i, j)


def exact_scores_of_few(a: torch.Tensor, b: torch.Tensor, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """:func:`exact_scores` for few pairs of many rows, ``i`` in any order: little memory, ten times the time a pair."""
    left, right = (torch.from_numpy(np.require(x, np.int64, ["C", "W"])).to(a.device) for x in (i, j))
    step = max(1, 2**18 // max(1, a.shape[1])) if a.device.type == "cpu" else _CHUNK
    scores = torch.empty(len(i), device=a.device)  # made first: results kept between blocks would keep the blocks' memory too
    for s in range(0, len(i), step):
        scores[s : s + step] = (a[left[s : s + step]].double() * b[right[s : s + step]].double()).sum(1)
    return scores.cpu().numpy()


def _sampled(a: torch.Tensor, b: torch.Tensor, i: np.ndarray, j: np.ndarray) -> torch.Tensor:
    starts = torch.from_numpy(np.searchsorted(i, np.arange(len(a) + 1)))
    wanted = torch.sparse_csr_tensor(
        starts, torch.from_numpy(j), torch.zeros(len(j), dtype=a.dtype), (len(a), len(b)), check_invariants=False
    )
    return torch.sparse.sampled_addmm(wanted, a, b.T, beta=0.0).values()


@lru_cache(1)
def _sampled_products() -> bool:
    """Whether this build of torch has the sampled product on the CPU."""
    import warnings

    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    one, zero = torch.ones(1, 1, dtype=torch.float64), np.zeros(1, np.int64)
    try:
        return bool(_sampled(one, one, zero, zero)[0] == 1)
    except RuntimeError:
        return False


def _float_block(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float, np.ndarray]:
    """Operands for float32 products; the bound is the textbook one, d roundings, half of it for each side."""
    rows = _padded(vectors)
    error = np.full(len(vectors), (1 + NORM_TOLERANCE) ** 2 * rows.shape[1] * 2.0**-24 / 2 + 5e-7, np.float32)
    return rows, rows.T.contiguous(), 1.0, error


def _int8_block(vectors: torch.Tensor, largest: int = 127) -> tuple[torch.Tensor, torch.Tensor, float, np.ndarray]:
    turned = rotated(vectors)
    unit = float(torch.stack(turned.aminmax()).abs().max()) / largest
    turned /= unit
    rows = turned.round()
    distance = turned.sub_(rows).norm(dim=1) * unit
    error = ((1 + NORM_TOLERANCE) * distance + 1.5 * distance.square() + _SLACK).cpu().numpy()
    rows = _padded(rows.to(torch.int8))
    columns = rows.T.contiguous() if rows.device.type == "cpu" else rows.T  # cuBLASLt wants the right side column-major
    return rows, columns, unit, error


def _padded(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % GROUP)) if len(rows) % GROUP else rows


def rotated(x: torch.Tensor) -> torch.Tensor:
    """A copy (n, w) of x (n, d) with the same inner products, d padded with zeros to a multiple of 64."""
    parts = -(-x.shape[1] // _ROTATION)
    if x.shape[1] % _ROTATION:
        x = torch.nn.functional.pad(x, (0, -x.shape[1] % _ROTATION))
    kind = x.dtype
    if x.device.type == "cuda":
        x = x.double()  # an environment may have every float32 product computed in TF32, whose rounding the bound has no room for
    inner, outer = (m.to(x) for m in _rotation(parts))
    x = x.reshape(-1, _ROTATION) @ inner
    if parts > 1:
        x = x.view(-1, parts, _ROTATION).transpose(1, 2).reshape(-1, parts) @ outer
    return x.view(-1, parts * _ROTATION).to(kind)


@lru_cache(8)
def _rotation(parts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthogonal maps (64, 64) and (parts, parts) whose Kronecker product is the rotation, their signs drawn at random."""
    rng = np.random.default_rng(parts)
    outer = np.linalg.qr(rng.standard_normal((parts, parts)))[0] if parts & (parts - 1) else _hadamard(parts)
    signed = (rng.choice([-1.0, 1.0], (len(m), 1)) * m for m in (_hadamard(_ROTATION), outer))
    return tuple(torch.from_numpy(m.astype(np.float32)) for m in signed)


def _hadamard(size: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.sqrt(size)
