"""An encoder's network as a graph on this machine's disk, exported once for each model and engine and compared with torch.

It lies in the lake's scratch space, ``engines/<model>/<key>``; whoever deletes it has it made again. The key is a digest of the
revision, which names the weights, and of the libraries that took part. What nothing has loaded for a month goes when another is
made. Files that are not what was written are made anew. Cost: of ViT-B/32 20 s and 350 MB once, then reading that much once a
process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from mmret.atomic import remove_abandoned, replacing_folder
from mmret.encode.engines import Engine, Graph
from mmret.hashing import fingerprint

FACTS = "facts.json"
VERSION = 1
"""Raise it when a change of code writes other graphs."""
KEPT_DAYS = 30
"""That a graph which nothing loads stays."""


class Cache:
    """``scratch``: a folder of this machine; ``model``: an encoder's model string; ``part``: ``image`` or ``text``."""

    def __init__(self, scratch: Path, engine: Engine, model: str, part: str):
        import onnxscript
        import torch
        import transformers

        name, _, rest = model.partition("@")
        revision, *marks = rest.split("+")
        kind = fingerprint(engine.name, name, marks, part)[:8]
        self.engine = engine
        self.place = scratch / "engines" / f"{re.sub('[^A-Za-z0-9._-]+', '-', name).strip('-.')[:40]}-{part}-{engine.name}-{kind}"
        made_by = (engine.version(), torch.__version__, onnxscript.__version__, transformers.__version__, *_versions())
        self.folder = self.place / fingerprint(VERSION, revision, made_by)[:12]

    def graph(self, cores: int, export: Callable[[Path], None], check: Callable[[Graph], float]) -> Graph:
        """The graph, loaded: ``export`` writes the ONNX file that it is given where there is none, or none that is whole.

        ``check`` returns the largest difference from torch's vectors and raises where that is too much; nothing is kept then.
        """
        found = self._stored(cores)
        return found if found is not None else self._made(cores, export, check)

    def _stored(self, cores: int) -> Graph | None:
        try:
            facts = json.loads((self.folder / FACTS).read_text())
            if not facts["files"] or any(_digest(self.folder / name) != digest for name, digest in facts["files"].items()):
                return None
            os.utime(self.folder / FACTS)
            return self.engine.load(self.folder, cores)
        except Exception:  # not there, or damaged in whatever way: libraries raise almost anything
            return None

    def _made(self, cores: int, export: Callable[[Path], None], check: Callable[[Graph], float]) -> Graph:
        with replacing_folder(self.folder) as aside:
            with TemporaryDirectory(dir=aside) as between:
                export(Path(between) / "graph.onnx")
                self.engine.write(Path(between) / "graph.onnx", aside)
            graph = self.engine.load(aside, cores)
            worst = check(graph)
            files = {path.name: _digest(path) for path in sorted(aside.iterdir())}
            (aside / FACTS).write_text(json.dumps({"files": files, "largest_difference": worst}, indent=2) + "\n")
        for path in self.place.iterdir():
            if path != self.folder and not path.name.startswith(".") and _unused_for_days(path):
                shutil.rmtree(path, ignore_errors=True)
        remove_abandoned(self.place.glob(".*.tmp"))
        return graph


def _versions() -> list[str]:
    """Of the libraries that some networks come from, and of what writes graphs, where they are installed."""
    found = []
    for name in ("open_clip_torch", "sentence-transformers", "timm", "onnx"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


def _unused_for_days(folder: Path) -> bool:
    """Whether nothing has loaded it for :data:`KEPT_DAYS`: another model whose folder is called alike may be in use."""
    try:
        return time.time() - (folder / FACTS).stat().st_mtime > KEPT_DAYS * 86_400
    except OSError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
