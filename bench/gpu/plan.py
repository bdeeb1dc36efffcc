"""Which parts there are, what each needs, and how they share the minutes of a GPU.

A part may take all the time that is left but what later ones are promised. So one that is quick gives to all others, and one that
hangs takes from none.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ALL = ("torch", "numpy", "pyarrow", "pydantic", "yaml")
MODELS = (*ALL, "transformers", "safetensors", "tokenizers", "PIL", "psutil")
PIP = {"yaml": "pyyaml", "PIL": "pillow", "open_clip": "open_clip_torch"}
"""What to install for a module, where the name is another."""


@dataclass(frozen=True)
class Part:
    """``run``: module and function, called with a :class:`bench.gpu.sheet.Sheet`. ``seconds``: what it is promised, start and
    imports included. ``needs``: modules without which it cannot run; ``better``: without which it measures something like it."""

    name: str
    run: str
    seconds: float
    needs: tuple[str, ...]
    better: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """What to install before it can run."""
        return absent(self.needs)


PARTS = (
    Part("mining", "bench.gpu.mining:run", 150, ALL),
    Part("clip", "bench.gpu.training:clip", 80, (*MODELS, "torchvision")),
    Part("encoding", "bench.gpu.encoding:run", 80, (*MODELS, "torchvision"), ("open_clip", "timm")),
    Part("mllm", "bench.gpu.training:mllm", 110, (*MODELS, "torchvision", "peft")),
    Part("choices", "bench.gpu.training:choices", 40, (*MODELS, "torchvision")),
)
"""In the order of their worth: where time runs out, it is the last that lack it."""


def absent(modules: Iterable[str]) -> list[str]:
    """Those of ``modules`` that are not installed, by the names that pip knows."""
    return [PIP.get(name, name) for name in modules if importlib.util.find_spec(name) is None]


def limit(parts: Sequence[Part], at: int, left: float) -> float:
    """Seconds that part number ``at`` may take where ``left`` are left for it and those behind it."""
    return left - sum(part.seconds for part in parts[at + 1 :])
