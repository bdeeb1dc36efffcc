"""Stand-in until the search core has it: one thread that answers queries one after the other."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

from mmret.errors import UserError
from mmret.ingest.pictures.images import images_by_id
from mmret.search.models import model_folder
from mmret.search.search import Query, Searcher


class SearchService:
    def __init__(self, searcher: Searcher, recipe: str, refresh_s: float = 2.0):
        self.searcher, self.recipe = searcher, recipe
        self._pool = ThreadPoolExecutor(1)
        self._state = {
            "ready": False,
            "recipe": recipe,
            "checkpoint": None,
            "pictures": None,
            "recall": None,
            "loading": "model",
            "error": None,
        }

    def start(self) -> None:
        self._pool.submit(self._load)

    def _load(self) -> None:
        from mmret.retriever.models.load import embedding_digest

        try:
            found = self.searcher.search(self.recipe, Query(text="a"), 1)
            folder = model_folder(self.searcher.lake, self.searcher.profile, self.recipe)
            self._state.update(ready=True, checkpoint=embedding_digest(folder), pictures=found.gallery, loading=None)
        except Exception as error:
            self._state.update(error=str(error), loading=None)

    def stop(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def status(self):
        return dict(self._state)

    def submit(self, query, k=20, offset=0, where="", explain=False, recipe=None) -> Future:
        return self._pool.submit(self._answer, query, k, offset, where, explain, recipe or self.recipe)

    def _answer(self, query, k, offset, where, explain, recipe):
        if where:
            raise UserError("not yet")
        image_id = query.image_id
        image = query.image
        if image_id:
            image = images_by_id(self.searcher.lake, [image_id]).get(image_id)
            if image is None:
                raise UserError(f"no picture {image_id} in {self.searcher.lake.root}")
        found = self.searcher.search(recipe, Query(image, query.text), k + offset)
        return SimpleNamespace(
            hits=found.hits[offset:],
            target_rank=None,
            gallery=found.gallery,
            matching=found.gallery,
            checkpoint=self._state["checkpoint"],
            recall=None,
        )
