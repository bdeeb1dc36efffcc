"""Invariants: the cached gradient is the full batch's, with dropout, ragged negatives and chunks that do not divide
the batch; dropout is active, so that this says something; the RNG ends where one forward pass leaves it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mmret.retriever.train.gradcache import Part, cached_backward, fitting_chunk
from mmret.retriever.train.loss import info_nce, masks

ROWS, WIDTH = 11, 6


def towers():
    torch.manual_seed(0)
    return [
        torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Dropout(0.3), torch.nn.Tanh(), torch.nn.Linear(16, WIDTH)).double()
        for _ in range(2)
    ]


def loss_of(queries, candidates):
    positives, ignored = masks(np.arange(ROWS), np.array([*range(ROWS), 3, 20, 21]))
    return info_nce(normalize(queries, dim=1), normalize(candidates, dim=1), positives, ignored, 0.1)


def gradients(chunks: tuple[int, int], seed: int = 1):
    """Each sample has dropout of its own stream, so that chunking does not change which units fall."""
    models = towers()
    inputs = [torch.randn(n, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (ROWS, ROWS + 3)]
    torch.manual_seed(seed)

    def encode(model):
        return lambda part: torch.cat([model(row[None]) for row in part])

    parts = [Part(encode(m), x.split(c)) for m, x, c in zip(models, inputs, chunks, strict=True)]
    loss = cached_backward(parts, loss_of)
    return loss, [p.grad for m in models for p in m.parameters()], torch.rand(1)


@pytest.mark.parametrize("chunks", [(1, 1), (4, 4), (3, 5), (10, 13), (11, 2), (100, 3)])
def test_cached_gradient_equals_the_full_batch_with_dropout_on(chunks):
    loss, full, after = gradients((100, 100))
    cached_loss, cached, cached_after = gradients(chunks)
    assert torch.allclose(loss, cached_loss, rtol=1e-12)
    assert torch.equal(after, cached_after)  # as many random numbers were used up
    for a, b in zip(full, cached, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)


def test_dropout_is_active_so_the_test_is_not_vacuous():
    first, other = gradients((100, 100), seed=1), gradients((100, 100), seed=2)
    assert abs(float(first[0] - other[0])) > 1e-3
    cold = gradients((4, 4), seed=2)
    assert not torch.allclose(first[1][0], cold[1][0], rtol=1e-3)


def test_a_tower_that_trains_nothing_takes_no_gradient():
    models = towers()
    x = torch.randn(ROWS, 5, dtype=torch.float64)
    candidates = torch.randn(ROWS + 3, WIDTH, dtype=torch.float64)
    for chunk in (4, 100):
        cached_backward([Part(models[0], x.split(chunk)), Part(lambda rows: rows, candidates.split(chunk))], loss_of)
    assert models[0][0].weight.grad is not None


def test_the_chunk_is_the_largest_power_of_two_that_fits_a_third_of_the_memory(monkeypatch, tmp_path):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=3 * 2**20))
    monkeypatch.setattr("mmret.devices._CONTROL_GROUP", tmp_path)  # without a limit
    numbers = 10 * (34 * 8 + 5 * 2 * 10)  # of one layer and row
    assert fitting_chunk(torch.device("cpu"), 4, [(10, 8, 2)]) == 2 ** int(np.log2(2**20 / 4 / numbers)) == 64
    assert fitting_chunk(torch.device("cpu"), 4, [(10, 8, 2)] * 2) == 32
    assert fitting_chunk(torch.device("cpu"), 4, [(10**6, 8, 2)]) == 1


def test_the_chunk_honours_the_limit_of_a_control_group(monkeypatch, tmp_path):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=3 * 2**20))
    monkeypatch.setattr("mmret.devices._CONTROL_GROUP", tmp_path)
    layers = [(10, 8, 2)]
    assert fitting_chunk(torch.device("cpu"), 4, layers) == 64  # no control group
    (tmp_path / "memory.current").write_text(f"{2**20}\n")
    for limit, rows in (("max\n", 64), (f"{2**20 + 3 * 2**17}\n", 8), (f"{2**30}\n", 64), (f"{2**19}\n", 1)):
        (tmp_path / "memory.max").write_text(limit)
        assert fitting_chunk(torch.device("cpu"), 4, layers) == rows, limit
