"""Invariants of heads, the first dimensions that rule pairs out: their bound holds, whatever they leave the lists are those of
brute force, and how rows are arranged does not show."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from mmret.mine import candidates as mining
from mmret.mine import projections, tiles
from mmret.mine.candidates import candidates
from mmret.mine.operands import largest_code
from mmret.mine.projections import choose_projection
from mmret.settings import MineSettings
from tests.mine.corpora import BAND, clustered, image_ids, shards

BANDS = {"caption": BAND}


@pytest.fixture
def small(monkeypatch):
    """Let shards of a few images have a projection."""
    monkeypatch.setattr(projections, "SAMPLE", 64)
    monkeypatch.setattr(projections, "_ASKED", 32)
    monkeypatch.setattr(mining, "_WORTH", 0)
    monkeypatch.setattr(projections, "_LANDMARK_ROWS", 8)
    monkeypatch.setattr(projections, "_PAIR", 0)  # so that the fewest dimensions always seem best


def flat(count: int, width: int, seed: int) -> np.ndarray:
    """Clustered vectors whose later dimensions say little."""
    made = clustered(count, width, seed).astype(np.float32) * np.geomspace(1, 0.02, width, dtype=np.float32)
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("largest", [127, 79])
@pytest.mark.parametrize("make, seed", [(clustered, 0), (flat, 1)])
def test_a_product_of_heads_is_above_the_score_and_not_above_what_it_admits(small, largest, make, seed):
    vectors = make(300, 96, seed)
    made = choose_projection(vectors, 5, 0.6, 0.9, largest)
    wide = torch.from_numpy(vectors)
    one, other = made.head(wide[:150].float(), 10), made.head(wide[150:].float(), 10)
    assert (
        one.rows.abs().max() <= largest
        and not one.rows[150:].any()
        and torch.equal(other.rows[:, : made.basis.shape[1]], other.columns.T[:, : made.basis.shape[1]])
    )
    bounds = ((one.rows.double() @ other.columns.double()) * one.unit).numpy()[:150, :150]
    scores = (wide[:150].double() @ wide[150:].double().T).numpy()
    assert (bounds >= scores).all() and (bounds <= scores + one.excess[:, None] + other.excess + 1e-6).all()


def test_a_vector_whose_bound_cannot_be_written_down_has_no_head(small):
    vectors = flat(300, 96, 1)
    made = choose_projection(vectors, 5, 0.6, 0.9, 127)
    away = torch.eye(96)[-1] - made.basis @ made.basis[-1]  # all of it is in the tail
    tight = projections.Projection(made.basis, made.unit, 127, 0, made.landmarks)
    assert made.head(torch.from_numpy(vectors[:5]).float(), 0) is not None
    assert tight.head(away[None] / away.norm(), 0) is None


@pytest.mark.skipif(not largest_code(torch.device("cpu")), reason="eight-bit products are not exact or not fast here")
@pytest.mark.parametrize("few", [1.0, 0.0], ids=["heads", "whole sketches after heads"])
@pytest.mark.parametrize("make", [clustered, flat])
def test_a_corpus_in_any_shards_has_the_same_candidates_with_heads_and_without(small, monkeypatch, make, few):
    ids, vectors = image_ids(400), {"caption": make(400, 96, 3)}
    options = MineSettings(k=4, tile=64, signals=("caption",))
    parts = shards(ids, vectors, [150, 350])
    heads, plain = [], tiles._Scan._by_heads
    monkeypatch.setattr(tiles, "_FEW", few)
    monkeypatch.setattr(tiles._Scan, "_by_heads", lambda *a: heads.append(plain(*a)) or heads[-1])
    found = [candidates(shard, parts[:at], options, BANDS) for at, shard in enumerate(parts)]
    assert any(heads) == bool(few), "that is what is compared"
    monkeypatch.setattr(mining, "choose_projection", lambda *a: None)
    assert found == [candidates(shard, parts[:at], options, BANDS) for at, shard in enumerate(parts)]
    assert sum(table.num_rows for table in found) > 400


def test_rows_are_arranged_so_that_like_ones_are_beside_each_other_and_each_has_one_place(small):
    kinds = np.random.default_rng(0).integers(12, size=600)
    centres = np.random.default_rng(1).standard_normal((12, 96))
    vectors = centres[kinds] + 0.3 * np.random.default_rng(2).standard_normal((600, 96))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    numbers = choose_projection(vectors, 5, 0.6, 0.95, 127).arrangement(vectors)
    assert np.array_equal(np.sort(numbers), np.arange(600))
    runs = 1 + np.count_nonzero(np.diff(kinds[numbers]))
    assert runs <= 120, "shuffled there would be some 550"


def test_no_projection_where_it_would_not_pay_or_could_not_be_made(small, monkeypatch):
    vectors = clustered(300, 96, 0)
    assert choose_projection(vectors[:63], 5, 0.6, 0.9, 127) is None, "too few rows"
    broken = vectors.copy()
    broken[:] = np.nan
    assert choose_projection(broken, 5, 0.6, 0.9, 127) is None
    monkeypatch.setattr(projections, "_PAIR", 1e9)
    noise = np.random.default_rng(0).standard_normal((300, 96))
    noise = (noise / np.linalg.norm(noise, axis=1, keepdims=True)).astype(np.float16)
    assert choose_projection(noise, 5, -0.9, 0.9, 127) is None, "every pair has to be scored"


def test_smaller_codes_are_exact_where_products_are_added_in_16_bits():
    asked = (
        "import numpy as np, torch; from mmret.mine.operands import largest_code; c = largest_code(torch.device('cpu')); "
        "x = torch.from_numpy(np.random.default_rng(1).choice([-c, c], (96, 128))).to(torch.int8); x[:32] = c; "
        "assert c in (0, 79, 127) and (torch._int_mm(x, x.T.contiguous()).double() == x.double() @ x.double().T).all()"
    )
    for isa in ("AVX2", "DEFAULT"):
        subprocess.run([sys.executable, "-c", asked], check=True, env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa})


def test_zero_vectors_have_no_head_and_are_refused_by_name():
    assert choose_projection(np.zeros((2 * projections.SAMPLE, 64), np.float16), 10, 0.8, 0.96, 127) is None
