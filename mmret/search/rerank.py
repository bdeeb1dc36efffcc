"""Rerankers of a lake, loaded when first asked for, and again when their checkpoint has changed. Safe for threads.

Cost: the hits' files, and what :mod:`mmret.retriever.models.cross_encoder` or an MLLM takes for so many pairs; one query after the
other.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmret.errors import UserError
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.search.models import model_folder, pick_reranker
from mmret.settings import Profile

if TYPE_CHECKING:
    from mmret.search.snapshot import Prepared, Rerank


class Rerankers:
    """``of(recipe)`` gives what orders a query's first hits."""

    def __init__(self, lake: Lake, profile: Profile):
        self.lake, self.profile = lake, profile
        self._lock = threading.Lock()
        self._loaded: dict[str, tuple[Any, LoadedReranker]] = {}

    def of(self, recipe: str) -> Rerank:
        """The reranker of ``recipe`` as its checkpoint is now. Raises UserError where there is none, or it cannot be loaded."""
        from mmret.retriever.models.reranker import Reranker

        with self._lock:
            folder = Path(model_folder(self.lake, self.profile, pick_reranker(self.lake, self.profile, recipe)))
            files = tuple((p.name, s.st_ino, s.st_size, s.st_mtime_ns) for p in sorted(folder.iterdir()) if (s := p.stat()))
            state = (str(folder), files)  # of a lake in an object store another folder with every content
            had = self._loaded.get(recipe)
            if had is None or had[0] != state:
                self._loaded[recipe] = (state, LoadedReranker(self.lake, Reranker.load(folder)))
            return self._loaded[recipe][1]


class LoadedReranker:
    """Scores a query's hits. Safe for threads, which wait for each other."""

    def __init__(self, lake: Lake, reranker: Any):
        self.lake, self.reranker = lake, reranker
        self._lock = threading.Lock()

    def __call__(self, prepared: Prepared, ids: list[str]) -> np.ndarray:
        """Scores (m,) float32 of the pictures ``ids``. Raises UserError where one is gone from the lake."""
        if not ids:
            return np.empty(0, np.float32)
        own = [prepared.query.image_id] if prepared.image is None and prepared.query.image_id else []
        files = images_by_id(self.lake, [*ids, *own])
        if missing := [i for i in (*ids, *own) if i not in files]:
            raise UserError(f"the picture '{missing[0]}' is gone from the lake: search again")
        query = (files[own[0]] if own else prepared.image, prepared.text or None)
        with self._lock:
            return self.reranker.score([query] * len(ids), [files[i] for i in ids])
