"""Invariants: what is made smaller is off by no more than it says, keeps its order, and stays a unit vector; bits compare as a loop
over them does, for any width; what has no direction is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmret.errors import UserError
from mmret.quantise import from_int8, hamming, shorten, to_binary, to_int8

SHAPES = {"rows": st.integers(1, 20), "width": st.integers(1, 150), "seed": st.integers(0, 2**32 - 1)}


def unit(rows: int, width: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(max_examples=50, deadline=None)
@given(**SHAPES)
def test_int8_is_off_by_at_most_half_a_step_of_its_row(rows, width, seed):
    vectors = unit(rows, width, seed) * np.float32(10.0) ** np.arange(-5, -5 + rows, dtype=np.float32)[:, None]
    codes, scales = to_int8(vectors)
    assert codes.dtype == np.int8 and scales.dtype == np.float32 and codes.shape == vectors.shape and scales.shape == (rows,)
    off = np.abs(from_int8(codes, scales).astype(np.float64) - vectors)
    assert (off <= scales[:, None] * (0.5 + 1e-4)).all()
    assert (np.abs(codes.astype(int)).max(axis=1) == 127).all(), "each row uses the whole range"
    opposite = to_int8(-vectors)
    assert (opposite[0] == -codes).all() and (opposite[1] == scales).all()


@settings(max_examples=50, deadline=None)
@given(**SHAPES)
def test_what_shortening_leaves_has_unit_length_and_the_direction_of_the_first_dimensions(rows, width, seed):
    vectors = unit(rows, width, seed)
    for dimensions in {1, (width + 1) // 2, width}:
        short = shorten(vectors.astype(np.float64), dimensions)
        assert short.dtype == np.float32 and short.shape == (rows, dimensions)
        np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-5)
        lengths = np.linalg.norm(vectors[:, :dimensions], axis=1, keepdims=True)
        np.testing.assert_allclose(short * lengths, vectors[:, :dimensions], atol=1e-5)
    assert np.array_equal(shorten(vectors, width), vectors), "all dimensions are the vectors themselves, bit for bit"


@settings(max_examples=50, deadline=None)
@given(**SHAPES)
def test_differing_signs_are_counted_as_a_loop_counts_them_for_any_width(rows, width, seed):
    vectors, queries = unit(rows, width, seed), unit(3, width, seed + 1)
    bits, asked = to_binary(vectors), to_binary(queries)
    assert bits.dtype == np.uint8 and bits.shape == (rows, -(-width // 8))
    expected = [[int(((q > 0) != (v > 0)).sum()) for v in vectors] for q in queries]
    assert hamming(asked, bits).tolist() == expected


def test_bits_are_compared_alike_across_blocks_of_the_gallery(monkeypatch):
    vectors = unit(50, 72, 0)
    bits = to_binary(vectors)
    whole = hamming(bits[:5], bits)
    monkeypatch.setattr("mmret.quantise._BLOCK_BYTES", 64)
    assert (hamming(bits[:5], bits) == whole).all() and (np.diag(whole[:, :5]) == 0).all()
    assert hamming(bits[:0], bits).shape == (0, 50) and hamming(bits, bits[:0]).shape == (50, 0)


def test_int8_and_bits_keep_the_order_of_scores_that_differ_clearly():
    """Of vectors at 0, 30, ..., 180 degrees from the query in one plane: noise of a step cannot swap two of them."""
    first, other = np.linalg.qr(np.random.default_rng(3).standard_normal((1024, 2)))[0].T
    angles = np.radians(np.arange(0, 181, 30))
    gallery = (np.cos(angles)[:, None] * first + np.sin(angles)[:, None] * other).astype(np.float32)
    codes, scales = to_int8(gallery)
    assert (np.diff(from_int8(codes, scales) @ gallery[0]) < 0).all()
    assert (np.diff(hamming(to_binary(gallery[:1]), to_binary(gallery))[0]) > 0).all()


def test_half_precision_is_taken_too():
    vectors = unit(4, 20, 7)
    codes, scales = to_int8(vectors.astype(np.float16))
    np.testing.assert_allclose(from_int8(codes, scales), vectors, atol=4e-3)
    assert (to_binary(vectors.astype(np.float16)) == to_binary(vectors)).all()
    np.testing.assert_allclose(shorten(vectors.astype(np.float16), 5), shorten(vectors, 5), atol=1e-2)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_row_without_a_direction_is_refused(bad):
    vectors = unit(5, 9, 1)
    vectors[3] = bad
    for smaller in (lambda v: shorten(v, 4), to_int8, to_binary):
        with pytest.raises(UserError, match=r"1 of 5 vectors are zero or not finite.*row 3"):
            smaller(vectors)
    halfway = unit(2, 9, 1)
    halfway[1, :4] = 0
    with pytest.raises(UserError, match="in the first 4 of 9 dimensions"):
        shorten(halfway, 4)


@pytest.mark.parametrize("dimensions", [0, -1, 10])
def test_dimensions_that_there_are_not_are_refused(dimensions):
    with pytest.raises(UserError, match="the vectors have 9 dimensions.*give 1 to 9"):
        shorten(unit(2, 9, 0), dimensions)


def test_bits_of_other_widths_are_refused():
    with pytest.raises(UserError, match="2 bytes cannot be compared with a gallery of 3 bytes"):
        hamming(np.zeros((1, 2), np.uint8), np.zeros((4, 3), np.uint8))


def test_nothing_is_made_smaller_to_nothing():
    empty = np.zeros((0, 8), np.float32)
    assert to_int8(empty)[0].shape == (0, 8) and to_binary(empty).shape == (0, 1) and shorten(empty, 3).shape == (0, 3)
