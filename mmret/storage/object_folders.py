"""Folders in an object store: their files lie under a digest, and one object, written last, says which files make the folder.

``checkpoints/demo/folder.json`` lists the files below ``checkpoints/demo/<digest>/``. So a reader has the folder of before or the
new one. The files of earlier folders stay for a day, for whoever is reading them or still writing one. Costs a request a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmret.atomic import scratch_folder
from mmret.errors import UserError
from mmret.storage.protocol import Storage

MANIFEST = "folder.json"
KEPT_FOR_S = 24 * 3600
"""How long what was replaced may still be read, here or in the store."""
UNUSED_FOR_S = 30 * KEPT_FOR_S
"""How long a local copy stays that nobody asks for: of a checkpoint that went, of vectors by it."""


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
    if data is None:
        return None
    try:
        manifest = json.loads(data)
        names = [manifest["digest"], *manifest["files"]]
        whole = all(facts["sha256"] for facts in manifest["files"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        names, whole = [], False
    # whoever may write to the bucket shall not name places of this machine
    if not whole or any(name.startswith("/") or not {"", ".", ".."}.isdisjoint(name.split("/")) for name in names):
        raise UserError(f"{storage.shown(prefix)}/{MANIFEST} is damaged: delete it, and have the folder computed anew")
    return manifest


def download_folder(store: Any, prefix: str, manifest: dict[str, Any], cache: Path, shown: str) -> Path:
    """A local copy of the folder ``prefix``, which people know as ``shown``; made where there is none yet.

    Raises UserError where a file is another than the one that was published.
    """
    name = hashlib.sha256(prefix.encode()).hexdigest()[:12]
    target = cache / name / manifest["digest"] / prefix.rpartition("/")[2]
    if is_kept(target):
        return target
    with scratch_folder(target) as aside:
        for file, facts in manifest["files"].items():
            path = aside / file
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                for part in store.get(f"{prefix}/{manifest['digest']}/{file}").stream(min_chunk_size=8 * 2**20):
                    out.write(part)
            if _digest(path) != facts["sha256"]:
                raise UserError(f"{shown}/{manifest['digest']}/{file} is not what was published: have it computed anew")
        try:
            aside.rename(target)
        except OSError:  # another process was first
            if not target.is_dir():
                raise
    drop_old(cache / name, keep=target.parent)
    return target


def is_kept(path: Path) -> bool:
    """Whether there is a local copy ``path``, which then stays for those who were given it, also when it is replaced."""
    if not path.exists():
        return False
    with suppress(OSError):  # removed since, or read only
        os.utime(path.parent)
    return path.exists()


def drop_old(folder: Path, keep: Path | None, kept_for_s: float = KEPT_FOR_S) -> None:
    """Remove local copies but ``keep`` that nobody was given for so long (:func:`is_kept`)."""
    for other in folder.iterdir():
        with suppress(FileNotFoundError):
            if other != keep and not other.name.startswith(".") and time.time() - other.stat().st_mtime > kept_for_s:
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
