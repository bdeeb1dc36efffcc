"""The folder in which the towers are trained: the lake's own, or one of this machine where the lake lies in an object store.

There the towers that the lake has are fetched first, and what was trained is published at the end, the record last. Costs moving
them, some MB.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmret.storage import Storage

TOWERS = ("clip", "dino", "tfidf")
RECORD = "towers.json"
"""Written last; says what was trained from what."""


@contextmanager
def lake_towers(storage: Storage) -> Iterator[Path]:
    """Give a folder with the lake's towers, in which they may be trained; on leaving without an error the lake has them.

    >>> with lake_towers(lake.storage) as folder:
    ...     train(images, profile.towers, folder)
    """
    folder = storage.scratch / "towers"
    if storage.is_local:
        yield folder
        return
    before, _ = storage.read_with_token(f"towers/{RECORD}")
    if before is not None and not _is(folder / RECORD, before):
        for name in TOWERS:
            shutil.rmtree(folder / name, ignore_errors=True)
            shutil.copytree(storage.local_folder(f"towers/{name}"), folder / name)
        (folder / RECORD).write_bytes(before)
    yield folder
    if before is not None and _is(folder / RECORD, before):
        return
    for name in TOWERS:
        with storage.replacing_folder(f"towers/{name}") as aside:
            shutil.copytree(folder / name, aside, dirs_exist_ok=True)
    storage.write(f"towers/{RECORD}", (folder / RECORD).read_bytes())


def _is(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
