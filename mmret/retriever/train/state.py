"""States a killed run continues from, and the finished folder that replaces an older one whole.

A state holds everything a step depends on that is not a function of the step number: weights under training,
optimiser, RNG. It is written beside and renamed, and the last two are kept, so a crash at any moment costs at most
``checkpoint_every`` steps.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import torch

from mmret.atomic import remove_abandoned, replacing, write_text

KEPT = 2
NOT_WEIGHTS = {"recipe.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"}
"""JSON files of a checkpoint that do not enter its digest: the record of the run, and other libraries' indices."""


class States:
    """States of one run under ``folder``; those of a run with another ``identity`` are thrown away on opening."""

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
        for old in self._paths()[:-KEPT]:
            old.unlink()


def weights_digest(folder: str | Path) -> str:
    """16 hex digits of all that decides a checkpoint's embeddings: weights, configuration, tokeniser, preprocessing.

    Of a hub name, which is no folder here, the digest of the name. Reads the weights once, at about 1 GB/s.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    sha = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".json", ".txt")):
        if path.name in NOT_WEIGHTS:
            continue
        sha.update(path.name.encode())
        with path.open("rb") as file:
            sha.update(hashlib.file_digest(file, "sha256").digest())
    return sha.hexdigest()[:16]
