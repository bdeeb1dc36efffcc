"""States a killed run continues from, and the finished folder that replaces an older one whole.

A state holds everything a step depends on that is not a function of the step number: weights under training,
optimiser, RNG. It is written beside and renamed, and the last two are kept, so a crash at any moment costs at most
``checkpoint_every`` steps.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from mmret.atomic import remove_abandoned, replacing, write_text

MAX_STATES = 2


class States:
    """Saved states of one run under ``folder``; those of a run with another ``identity`` are deleted on opening."""

    def __init__(self, folder: Path, identity: str):
        self.folder = folder
        mark = folder / "identity"
        if not (mark.is_file() and mark.read_text() == identity):
            shutil.rmtree(folder, ignore_errors=True)
            write_text(mark, identity)
        remove_abandoned(folder.glob(".*.tmp"))

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("state-*.pt"))

    def latest(self) -> dict[str, Any] | None:
        """The newest state that reads whole, on the CPU, or None."""
        for path in reversed(self._paths()):
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except Exception:  # a disk that was full or lost power: torch raises several kinds
                path.unlink(missing_ok=True)
        return None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Keep ``state`` as that of ``step`` and drop the oldest beyond the last two."""
        path = self.folder / f"state-{step:09d}.pt"
        with replacing(path) as aside:
            torch.save(state, aside)
        for old in self._paths()[:-MAX_STATES]:
            old.unlink()
