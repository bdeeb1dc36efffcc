"""Folders in an object store: their files lie under a digest, and one object, written last, says which files make the folder.

``checkpoints/demo/folder.json`` lists the files below ``checkpoints/demo/<digest>/``. So a reader has the folder of before or the
new one. The files of earlier folders stay for a day, for whoever is reading them or still writing one. Costs a request a file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmret.atomic import scratch_folder
from mmret.storage.protocol import Storage

MANIFEST = "folder.json"
KEPT_FOR_S = 24 * 3600
"""How long what was replaced may still be read, here or in the store."""


def upload_folder(storage: Storage, store: Any, prefix: str, folder: Path) -> None:
    """Publish the local ``folder`` as ``prefix``."""
    before = read_manifest(storage, prefix)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    digests = {name: _digest(path) for name, path in files.items()}
    digest = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:16]
    for name, path in files.items():
        with path.open("rb") as file:
            store.put(f"{prefix}/{digest}/{name}", file)
    listed = {name: {"size": path.stat().st_size, "sha256": digests[name]} for name, path in files.items()}
    storage.write(f"{prefix}/{MANIFEST}", json.dumps({"digest": digest, "files": listed}, indent=1).encode())
    _remove_replaced(storage, prefix, {digest, before["digest"] if before else digest})


def read_manifest(storage: Storage, prefix: str) -> dict[str, Any] | None:
    """What makes the folder ``prefix``: ``digest`` and ``files``; None where there is no such folder."""
    data, _ = storage.read_with_token(f"{prefix}/{MANIFEST}")
    return None if data is None else json.loads(data)


def download_folder(store: Any, prefix: str, manifest: dict[str, Any], cache: Path) -> Path:
    """A local copy of the folder, which is made where there is none yet."""
    name = hashlib.sha256(prefix.encode()).hexdigest()[:12]
    target = cache / name / manifest["digest"] / prefix.rpartition("/")[2]
    if target.is_dir():
        return target
    with scratch_folder(target) as aside:
        for file in manifest["files"]:
            path = aside / file
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                for part in store.get(f"{prefix}/{manifest['digest']}/{file}").stream(min_chunk_size=8 * 2**20):
                    out.write(part)
        try:
            aside.rename(target)
        except OSError:  # another process was first
            if not target.is_dir():
                raise
    drop_old(cache / name, keep=target.parent)
    return target


def drop_old(folder: Path, keep: Path) -> None:
    """Remove local copies of earlier contents that nobody can still be reading."""
    for other in folder.iterdir():
        with suppress(FileNotFoundError):
            if other != keep and not other.name.startswith(".") and time.time() - other.stat().st_mtime > KEPT_FOR_S:
                shutil.rmtree(other, ignore_errors=True)


def _remove_replaced(storage: Storage, prefix: str, keep: set[str]) -> None:
    """Remove the files of earlier folders ``prefix``, but of a digest in ``keep``, and of one that may still be written."""
    now = storage.entry(f"{prefix}/{MANIFEST}")
    for name in storage.folders(prefix):
        files = storage.list(f"{prefix}/{name}") if name not in keep else []
        if files and now is not None and now.modified_ns - max(file.modified_ns for file in files) > KEPT_FOR_S * 10**9:
            storage.delete(file.key for file in files)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
