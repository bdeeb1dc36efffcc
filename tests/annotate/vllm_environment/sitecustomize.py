"""Lets torchvision be imported beside a CPU build of torch that its own compiled operators do not fit.

On the path of `make test-vllm` only. torchvision registers a shape rule for ``nms`` and ``qnms`` when it is imported, which fails
where the operators do not exist; the Qwen-VL processors need none of them. So their schemas are declared just before, with no
implementation behind: calling one still fails. Costs nothing in a process that does not import torchvision.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

OPERATORS = ("nms", "qnms")


class _Declaring(MetaPathFinder):
    """Finds nothing; sees that the registrations are about to be imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "torchvision._meta_registrations":
            import torch

            for operator in OPERATORS:
                if not hasattr(torch.ops.torchvision, operator):
                    torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, _Declaring())
