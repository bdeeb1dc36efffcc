"""Searches a lake's corpus by a picture, a text, or a picture changed as a text says; for the command, the page and a server.

The first search with a checkpoint embeds the corpus if nobody has (the lake keeps the vectors); after that a query costs one
forward pass and one product with the gallery, about 0.1 s over 100,000 pictures. Models stay in memory once used, with 4 bytes a
dimension and picture. torch is imported by the first search, not before.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mmret.errors import UserError
from mmret.hashing import content_id
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.ranking import rank, target_ranks
from mmret.search.corpus_vectors import gallery
from mmret.search.encoder import Encoder
from mmret.search.models import UNTRAINED, model_folder, pick_recipe, trained_recipes
from mmret.search.names import ImageNames
from mmret.settings import Profile

COLUMNS = ["image_id", "path", "root", "caption", "licence"]
"""Columns of table ``images`` that a hit has."""


@dataclass(frozen=True)
class Query:
    """A picture (file contents), a text, or both; ``target``: the image id whose rank is of interest."""

    image: bytes | None = None
    text: str = ""
    target: str | None = None
    image_id: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """``hits``: rows with ``score`` (cosine) and :data:`COLUMNS`, best first. ``target_rank``: from 1, None without a target.

    ``gallery``: how many pictures were searched.
    """

    hits: list[dict[str, Any]]
    target_rank: int | None
    gallery: int


@dataclass(frozen=True)
class Model:
    """A checkpoint in memory, and the corpus as it sees it: ``vectors`` (n, dim) float32, row i of ``ids[i]``."""

    folder: Path | str
    retriever: Encoder
    ids: list[str]
    vectors: np.ndarray
    position: dict[str, int]

    def encode(self, query: Query) -> np.ndarray:
        """(1, dim) float32. A picture alone is encoded as a candidate is, without an instruction."""
        from mmret.retriever.models.load import query_options

        text = query.text.strip()
        options = query_options(self.folder, composed=query.image is not None) if text else {}
        return self.retriever.encode(None if query.image is None else [query.image], [text] if text else None, **options)


class Searcher:
    """Search of one lake with any of its checkpoints. Safe for threads; searches wait for each other.

    searcher = Searcher(lake, profile)
    searcher.search("demo", Query(text="a red circle"), k=5).hits
    """

    def __init__(self, lake: Lake, profile: Profile):
        self.lake, self.profile = lake, profile
        self._lock = threading.Lock()
        self._models: dict[Path | str, tuple[Any, Model]] = {}

    def recipes(self) -> list[str]:
        """Names that :meth:`search` takes: trained recipes, then ``untrained``."""
        return [*trained_recipes(self.lake, self.profile), UNTRAINED]

    def search(self, recipe: str, query: Query, k: int = 20) -> SearchResult:
        """The ``k`` images nearest to ``query`` by the checkpoint of ``recipe``.

        A query picture that is in the corpus is not among its own results. While the corpus is embedded, progress is reported
        to :func:`mmret.progress.advance`. Raises UserError for an empty query, an unknown recipe, a picture that cannot be
        read, and a model whose vectors are not finite.

        >>> searcher.search("demo", Query(image=Path("dress.jpg").read_bytes(), text="the same in blue"), k=5).hits[0]["path"]
        """
        if query.image is None and not query.text.strip():
            raise UserError("give a picture, a text or both")
        pick_recipe(self.lake, self.profile, recipe)
        with self._lock:
            model = self._model(recipe)
            vector = model.encode(query)
        own = content_id(query.image) if query.image else None
        exclude = [{model.position[own]} if own in model.position else set()]
        best = [int(p) for p in rank(vector, model.vectors, k, exclude)[0] if p >= 0]
        scores = model.vectors[best] @ vector[0].astype(np.float32)
        ids = [model.ids[p] for p in best]
        found = self.lake.read("images", columns=COLUMNS, filters=pc.field("image_id").isin(ids)).to_pylist()
        rows = {row["image_id"]: row for row in found}
        gone = dict.fromkeys(COLUMNS)  # of a picture whose row was removed since its vector was read
        target = model.position.get(query.target or "")
        return SearchResult(
            [{"score": float(score), **rows.get(i, gone | {"image_id": i})} for i, score in zip(ids, scores, strict=True)],
            None if target is None else int(target_ranks(vector, model.vectors, [{target}], [exclude[0] - {target}])[0]),
            len(model.ids),
        )

    def _model(self, recipe: str) -> Model:
        """The model of ``recipe``; it is loaded again if its checkpoint or the corpus has changed since the last call."""
        from mmret.retriever.models.load import Retriever

        folder = model_folder(self.lake, self.profile, recipe)
        trained = self.lake.facts("checkpoints", recipe)
        images = [self.lake.facts("images", shard).digest for shard in self.lake.partitions("images")]
        state = (images, trained.digest if trained else "")
        if folder not in self._models or self._models[folder][0] != state:
            self._models.pop(folder, None)  # before the new one is loaded: memory for one
            ids, vectors = gallery(self.lake, folder)
            position = {image_id: i for i, image_id in enumerate(ids)}
            self._models[folder] = (state, Model(folder, Retriever.load(folder), ids, vectors, position))
        return self._models[folder][1]


def query_image(lake: Lake, image: Path) -> bytes:
    """File contents of ``image``: a file on disk, or a path or id of the corpus. Raises UserError where it is neither."""
    if image.is_file():
        return image.read_bytes()
    image_id = ImageNames(lake).resolve(str(image), "--image")
    if image_id is None:
        raise UserError(f'--image {image}: rejected at ingest, see `mmret sql "SELECT * FROM rejects"`; give the file itself')
    return images_by_id(lake, [image_id])[image_id]
