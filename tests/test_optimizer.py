"""Invariants of Muon: its updates are those of torch's own, whose products are rounded more; orthogonal and of AdamW's size;
which parameters it gets; a saved state, also of before there were two optimisers, is taken up as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmret.optimizer import Muon, Optimizers, hidden_matrices, orthogonal


def matrices(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((8, 8), (24, 8), (8, 24), (8, 8))]


def steps(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], count: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    for _ in range(count):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def test_updates_are_those_of_torchs_muon_to_within_the_rounding_of_bfloat16():
    ours, theirs, start = matrices(), matrices(), matrices()
    moved = steps(Muon(ours, lr=0.05, weight_decay=0.1), ours)
    expected = steps(torch.optim.Muon(theirs, lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"), theirs)
    for a, b, before in zip(moved, expected, start, strict=True):
        assert (a - b).norm() < 0.03 * (b - before).norm()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 24, 8), (2, 8, 24)])
def test_an_update_is_orthogonal_whatever_the_size_of_the_gradient_and_its_numbers_are_a_fifth_of_the_rate(shape):
    gradients = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = orthogonal(gradients.float())
    assert torch.allclose(found, orthogonal(gradients.float() * 1e6), atol=1e-4)
    singular = torch.linalg.svdvals(found)
    assert ((singular > 0.5) & (singular < 1.3)).all()
    assert torch.equal(orthogonal(torch.zeros(1, 4, 4)), torch.zeros(1, 4, 4))
    parameter = nn.Parameter(torch.zeros(shape[1:]))
    steps(Muon([parameter], lr=0.5), [parameter], 1)
    assert parameter.detach().square().mean().sqrt().item() == pytest.approx(0.2 * 0.5, rel=0.3)


def test_a_matrix_without_a_gradient_stays_and_what_is_no_matrix_is_refused():
    one, other = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    one.grad = torch.randn(3, 3)
    Muon([one, other], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(other, torch.ones(3, 3)) and not torch.equal(one, torch.ones(3, 3))
    with pytest.raises(ValueError, match="matrices only"):
        Muon([nn.Parameter(torch.ones(3))], lr=0.1)


def test_hidden_matrices_are_the_linear_layers_inside_the_blocks():
    block = nn.TransformerEncoderLayer(8, 2, 16)
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 8), block)
    found = list(hidden_matrices([block]))
    assert {id(p) for p in found} <= {id(p) for p in block.parameters()} and all(p.ndim == 2 for p in found)
    assert not {id(p) for p in found} & {id(model[0].weight), id(model[1].weight)}


def test_a_state_is_taken_up_as_it_was_also_one_of_a_single_optimiser():
    def two(parameters: list[nn.Parameter]) -> Optimizers:
        return Optimizers([torch.optim.AdamW(parameters[:1], lr=0.1), Muon(parameters[1:], lr=0.1)])

    whole = matrices()
    expected = steps(two(whole), whole, 3)
    first, again = matrices(), matrices()
    before = two(first)
    generator = torch.Generator().manual_seed(7)
    for at in range(3):
        if at == 2:
            for parameter, value in zip(again, first, strict=True):
                parameter.data.copy_(value.data)
            taken = two(again)
            taken.load_state_dict(before.state_dict())
            before, first = taken, again
        for parameter in first:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        before.step()
    assert all(torch.equal(a, b) for a, b in zip(expected, first, strict=True))

    single = torch.optim.AdamW(matrices(), lr=0.3)
    taken = Optimizers([torch.optim.AdamW(matrices(), lr=0.1)])
    taken.load_state_dict(single.state_dict())
    assert taken.param_groups[0]["lr"] == 0.3
    with pytest.raises(ValueError, match="doesn't match|argument"):
        taken.load_state_dict(two(matrices()).state_dict())
