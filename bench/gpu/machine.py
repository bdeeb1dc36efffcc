"""What the machine is: card, driver, clocks, versions, and what is not installed. Read only; nothing of the card is changed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

from bench.gpu.plan import PIP, Part, absent

_ASKED = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu,memory.total,memory.used"
_OVERRIDES = ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NVIDIA_TF32_OVERRIDE")


def facts(parts: Sequence[Part]) -> dict[str, Any]:
    """By name, in the order in which they are shown."""
    import torch

    modules = list(dict.fromkeys(name for part in parts for name in (*part.needs, *part.better)))
    found = {
        "card": "none",
        "card now": card_now(),
        "processor": f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores",
        "Python": platform.python_version(),
        "versions": ", ".join(_version(PIP.get(name, name)) for name in modules),
        "missing": "; ".join(f"{part.name}: {', '.join(gone)}" for part in parts if (gone := absent((*part.needs, *part.better))))
        or "nothing",
        "float32 products": _float32(torch),
    }
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found["card"] = (
            f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {card.multi_processor_count} multiprocessors, "
            f"capability {card.major}.{card.minor}, CUDA {torch.version.cuda}"
        )
    return found


def card_now() -> str:
    """Clocks, power, temperature and memory at this moment, by nvidia-smi; why not, where it does not answer."""
    try:
        line = ["nvidia-smi", f"--query-gpu={_ASKED}", "--format=csv,noheader"]
        values = subprocess.run(line, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()[0].split(", ")
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        return f"not read: {type(error).__name__}"
    return ", ".join(f"{name} {value}" for name, value in zip(_ASKED.split(","), values, strict=False))


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} not installed"


def _float32(torch: Any) -> str:
    """Mining's bound holds for float32 products that are not rounded to TF32, which an environment can turn on."""
    states = (("products", torch.backends.cuda.matmul.allow_tf32), ("convolutions", torch.backends.cudnn.allow_tf32))
    said = ", ".join(f"{what} {'in TF32' if on else 'in float32'}" for what, on in states)
    turned = [f"{name}={os.environ[name]}" for name in _OVERRIDES if name in os.environ]
    return said + (f" ({', '.join(turned)})" if turned else "")
