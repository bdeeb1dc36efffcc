"""Random views (crops, changes of light and colour) of a batch of small pictures, which the towers learn to treat as the same.

A view depends on nothing but its seed. Pictures are never mirrored and hues never rotated, because captions say "facing
right" and "blue". Cost: about 10 ms for 256 pictures of 48 px on one core.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from mmret.hashing import uniform


@dataclass(frozen=True)
class Views:
    """Ranges that the random numbers of a view are drawn from.

    ``zoom``: shortest side of the crop as a share of the picture; ``stretch``: largest change of aspect; ``shift``:
    how far the crop's centre may leave what fits, as a share of the picture; ``light``: largest relative change of
    brightness and contrast; ``tint``: largest relative change of one colour channel.
    """

    zoom: float = 1.0
    stretch: float = 0.0
    shift: float = 0.0
    light: float = 0.0
    tint: float = 0.0


CAPTION_VIEWS = Views(zoom=0.85, shift=0.04)
"""For image and caption: position and scale move a little, every attribute that a caption may name stays."""
PATTERN_VIEWS = Views(zoom=0.6, stretch=0.1, shift=0.05, light=0.3, tint=0.15)
"""For self-supervision: two such views of a picture are alike."""
NEAR_DUPLICATE_VIEWS = Views(zoom=0.98, shift=0.005, light=0.01)
"""What a re-encoded or slightly cropped copy looks like; its similarity to the picture is where a band must end."""


def seeded_generator(*key: object) -> torch.Generator:
    """A generator whose stream depends on ``key`` only."""
    return torch.Generator().manual_seed(int(uniform(*key) * 2**62))


def views(pixels: Tensor, ranges: Views, generator: torch.Generator) -> Tensor:
    """One random view of each picture: ``pixels`` (n, 3, h, w) uint8 to (n, 3, h, w) float32 in [0, 255]."""
    n = len(pixels)

    def draw(*shape: int) -> Tensor:  # in [-1, 1)
        return torch.rand(n, *shape, generator=generator) * 2 - 1

    zoom = ranges.zoom + (1 - ranges.zoom) * torch.rand(n, 1, generator=generator)
    size = zoom * torch.exp(draw(1) * ranges.stretch * torch.tensor([1.0, -1.0]))  # (n, 2): width, height of the crop
    centre = draw(2) * ((1 - size).clamp(min=0) + 2 * ranges.shift)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = size[:, 0], size[:, 1], centre
    grid = affine_grid(theta, list(pixels.shape), align_corners=False)
    out = grid_sample(pixels.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    if ranges.light or ranges.tint:
        mean = out.mean(dim=(1, 2, 3), keepdim=True)
        contrast = 1 + draw(1, 1, 1) * ranges.light
        gain = (1 + draw(1, 1, 1) * ranges.light) * (1 + draw(3, 1, 1) * ranges.tint)
        out = ((out - mean) * contrast + mean).mul_(gain).clamp_(0, 255)
    return out
