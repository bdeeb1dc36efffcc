"""Where models run and how much memory they may take: ``auto`` means the GPU where there is one, else the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmret.errors import UserError

if TYPE_CHECKING:
    import torch

_CONTROL_GROUP = Path("/sys/fs/cgroup")


def device_of(name: str, setting: str = "device") -> torch.device:
    """The torch device that a setting names: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.

    Raises UserError, naming ``setting``, for a name that is none, and for a GPU that torch does not see.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{setting} '{name}' is no torch device: use auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{setting} is '{name}', but torch sees no GPU here: use auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"{setting} is '{name}', but torch sees {torch.cuda.device_count()} GPUs here, counted from cuda:0")
    return device


def free_memory(device: torch.device | None = None) -> int:
    """Bytes that this process may still take: of a GPU what is free there, else what the machine has left, or its control group
    where that is less."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    import psutil

    free = psutil.virtual_memory().available
    try:
        limit, used = (int((_CONTROL_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, max(0, limit - used))
    except (OSError, ValueError):  # no limit, or an older kernel
        pass
    return free
