"""What the files of a checkpoint's folder are, and the digest by which its vectors are kept. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mmret.errors import UserError

RECORD = "recipe.json"
"""In the folder of a checkpoint that was trained here: the recipe, the digest of all it was trained from, the facts of the run."""
_MODULES = "modules.json"
NOT_WEIGHTS = {RECORD, _MODULES, "sentence_bert_config.json", "config_sentence_transformers.json"}
"""JSON files of a checkpoint that do not enter its digest: the record of the run, and other libraries' indices."""


def trained_dimensions(folder: str | Path) -> tuple[int, ...] | None:
    """The numbers of dimensions below all of them that the checkpoint was trained to rank by (its recipe's ``matryoshka``), which
    may be none; None where the folder does not say how it was trained."""
    record = Path(folder) / RECORD
    if not record.is_file():
        return None
    return tuple(json.loads(record.read_text()).get("recipe", {}).get("matryoshka", ()))


def model_part(folder: str | Path) -> str | Path:
    """``folder`` itself, or of a sentence-transformers folder the part that embeds pictures: ``clip-ViT-B-32/0_CLIPModel``.

    Raises UserError where modules follow that change its vectors.
    """
    path = Path(folder)
    if (path / "config.json").is_file() or not (path / _MODULES).is_file():
        return folder
    parts = [part for part in sorted(p for p in path.iterdir() if p.is_dir()) if _sees_pictures(part)]
    if len(parts) != 1:
        return folder
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in json.loads((path / _MODULES).read_text())]
    if further := [kind for kind in kinds if kind not in ("CLIPModel", "Transformer", "Normalize")]:
        raise UserError(f"{path} has a module {further[0]} behind its CLIP model: such folders are not loaded")
    return parts[0]


def _sees_pictures(folder: Path) -> bool:
    try:
        return "vision_config" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


def weights_digest(folder: str | Path) -> str:
    """16 hex digits of all that decides a checkpoint's embeddings: weights, configuration, tokeniser, preprocessing.

    Of a hub name, which is no folder here, the digest of the name. Reads the weights once, at about 1 GB/s.
    """
    folder = Path(model_part(folder))
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
