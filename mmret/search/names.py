"""Finds the image id of a picture that a person names by its path or id.

Paths are written as in the corpus manifest; where two sources use the same relative path, the absolute one tells them apart.
An image that was taken as a duplicate is found under each of its names. Cost: three columns of the manifest in memory.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from mmret.errors import UserError
from mmret.lake import Lake


class ImageNames:
    """The names of a lake's pictures, read once: ``ImageNames(lake).resolve("red_circle.png", "--image")``.

    Raises UserError for a folder that holds no lake.
    """

    def __init__(self, lake: Lake):
        rows = lake.read("corpus_manifest", columns=["root", "path", "image_id"]).to_pylist()
        if not rows:
            raise UserError(f"{lake.address} holds no lake yet: make one with `mmret run --lake {lake.address}`")
        self._lake = lake.address
        self._ids = set(lake.read("images", columns=["image_id"])["image_id"].to_pylist())
        self._by_path: dict[str, set[str]] = {}
        self._rejected: set[str] = set()
        for row in rows:
            for name in (row["path"], str(Path(row["root"]) / row["path"])):
                if row["image_id"] in self._ids:
                    self._by_path.setdefault(name, set()).add(row["image_id"])
                else:
                    self._rejected.add(name)

    def resolve(self, name: Any, where: str) -> str | None:
        """Image id of ``name`` (an id, a path of the manifest, or that path made absolute); None if it was rejected at ingest.

        Raises UserError for a name that is unknown or fits several images; ``where`` begins its message.
        """
        if name in self._ids:
            return name
        found = self._by_path.get(name) or self._by_path.get(str(name).removeprefix("./")) or set()
        if len(found) == 1:
            return next(iter(found))
        if found:
            raise UserError(f"{where}: {name} names {len(found)} images of different sources; write the absolute path")
        if name in self._rejected:
            return None
        raise UserError(
            f"{where}: no image of the corpus is called {name!r}; paths are written as in the corpus manifest "
            f'(see `mmret sql --lake {shlex.quote(self._lake)} "SELECT path FROM images"`)'
        )
