"""Folders in an object store: their files lie under a digest, and one object, written last, says which files make the folder.

``checkpoints/demo/folder.json`` lists the files below ``checkpoints/demo/<digest>/``. So a reader has the folder of before or the
new one. The files of the folder before stay until the next one, for whoever is reading them. Costs a request a file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mmret.atomic import scratch_folder
from mmret.storage.protocol import Storage

MANIFEST = "folder.json"


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
    return target


def _remove_replaced(storage: Storage, prefix: str, keep: set[str]) -> None:
    """Remove the files of earlier folders ``prefix``, but of those with a digest in ``keep``."""
    gone = [name for name in storage.folders(prefix) if name not in keep]
    storage.delete(entry.key for name in gone for entry in storage.list(f"{prefix}/{name}"))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
