"""Copies a lake from one storage to another, for tests that want a lake in an object store without a run there."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmret.lake import Lake

FOLDERS = ("checkpoints", "towers")
"""What lies below these are folders that are published whole."""
_OWN = ("catalogue.duckdb",)


def copy_lake(source: Lake, target: Lake) -> Lake:
    """Copy all that a lake consists of; returns ``target``."""
    published = [f"{kind}/{name}" for kind in FOLDERS for name in source.storage.folders(kind)]
    keys = [e.key for e in source.storage.list() if not e.key.startswith(tuple(f"{p}/" for p in published)) and e.key not in _OWN]
    keys = [key for key in keys if not key.endswith(".npy")]
    lance = target.storage.lance_place()[0]
    if isinstance(lance, Path):  # a store in memory, which Lance does not know
        shutil.copytree(source.storage.lance_place()[0], lance, dirs_exist_ok=True)
        keys = [key for key in keys if not key.startswith("lance/")]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: target.storage.write(key, source.storage.read(key)), keys))
    for prefix in published:
        with target.storage.replacing_folder(prefix) as aside:
            shutil.copytree(source.storage.local_folder(prefix), aside, dirs_exist_ok=True)
    return target
