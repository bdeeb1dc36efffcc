"""Names a model folder by the digest of the files that decide its vectors, so that changed weights count as another model."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".json", ".txt", ".model"}


def folder_revision(folder: Path) -> str:
    """12 hex digits that change with any weight, configuration or vocabulary file in ``folder``, which may be one file.

    Costs one read of the files (1 to 2 GB/s); repeated calls on unchanged files are free.
    """
    paths = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.suffix in _SUFFIXES)
    sha = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        sha.update(f"{path.relative_to(folder)}:{_digest(path, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return sha.hexdigest()[:12]


def local_weights(model: str, revision: str | None) -> str | None:
    """Digest of the weights that encoder settings name by a local path; None where they lie in the lake or on a hub.

    Part of what vectors are computed from, so that a model changed in place makes them stale.
    """
    if model.startswith("towers/"):
        return None
    paths = (Path(text).expanduser() for text in (model, revision) if text)
    return next((folder_revision(path) for path in paths if path.exists()), None)


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
