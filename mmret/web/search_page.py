"""Page ``/search``: search of the corpus by picture, text or both, with two checkpoints side by side."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from mmret.errors import UserError
from mmret.ingest.pictures.images import images_by_id
from mmret.search.search import Query, SearchResult
from mmret.web.parts import empty, head, picture, spinner
from mmret.web.pictures import ID, SIDES
from mmret.web.site import Site
from mmret.web.threads import run_in_thread

MAX_RESULTS = 24
_LARGEST = 32 * 2**20  # bytes of an uploaded picture


class SearchPage:
    """One visitor's page; ``image`` and ``target`` are image ids from the page's address."""

    def __init__(self, site: Site, image: str = "", text: str = "", target: str = ""):
        self.site = site
        self.image_id = image if ID.fullmatch(image) else ""
        self.target = target if ID.fullmatch(target) else None
        self.text = text
        self.uploaded: bytes | None = None
        self.question = 0

    def build(self) -> None:
        """Build the frame; checkpoints, and the answer to a query of the address, follow once the browser is connected."""
        from nicegui import ui

        head(self.site.lake.root.name, "search", "Search")
        with ui.row().classes("w-full items-start gap-4"):
            self.query_picture = ui.column().classes("gap-1")
            with ui.column().classes("flex-1 gap-2 min-w-[20rem]"):
                self.input = ui.input("what should be different, or what to find", value=self.text)
                self.input.props("outlined dense clearable").classes("w-full").on("keydown.enter", self.search)
                with ui.row().classes("items-center gap-2"):
                    self.models = [ui.select([]).props("dense outlined options-dense").classes("w-40") for _ in range(2)]
                    self.go = ui.button("Search", on_click=self.search).props("dense no-caps padding='4px 14px'")
                    self.go.disable()
            self.upload = ui.upload(
                label="a picture of your own",
                auto_upload=True,
                max_file_size=_LARGEST,
                on_upload=self.upload_picture,
                on_rejected=lambda: ui.notify("not taken: a picture of at most 32 MB, please"),
            )
            self.upload.props("flat bordered accept=image/*").classes("w-64")
        self._show_query()
        self.results = ui.row().classes("w-full no-wrap gap-6 items-start")
        with self.results:
            spinner("reading which checkpoints there are")
        ui.timer(0, self._begin, once=True)

    async def _begin(self) -> None:
        recipes = await run_in_thread(self.results, self.site.searches.recipes)
        for select, name in zip(self.models, (recipes[0], recipes[-1]), strict=True):
            select.set_options(recipes, value=name)
            select.on_value_change(self.search)
        self.go.enable()
        if self.image_id or self.text:
            return await self.search()
        self.results.clear()
        with self.results:
            empty("Nothing asked yet", "Give a text, a picture, or both: the picture, changed as the text says")

    def _show_query(self) -> None:
        from nicegui import ui

        self.query_picture.clear()
        with self.query_picture:
            if self.uploaded is not None:
                ui.label("your picture").classes("faint")
            elif self.image_id:
                picture(self.image_id, "query", 120, SIDES[1])
            if self.uploaded is not None or self.image_id:
                ui.button("Without picture", on_click=self.remove_picture).props("flat dense no-caps size=sm")

    async def upload_picture(self, event: Any) -> None:
        """An uploaded picture becomes the query."""
        self.uploaded, self.image_id, self.target = await event.file.read(), "", None
        self._show_query()
        await self.search()

    async def remove_picture(self) -> None:
        """Remove the query picture, so that the text alone is searched for."""
        self.uploaded, self.image_id, self.target = None, "", None
        self.upload.reset()
        self._show_query()

    async def search(self) -> None:
        """Search with both models and show their results side by side; a newer search replaces one that still waits."""
        from nicegui import ui

        if not self.go.enabled:
            return
        self.question += 1
        question = self.question
        image = self.uploaded
        if image is None and self.image_id:
            image = (await run_in_thread(self.results, images_by_id, self.site.lake, [self.image_id])).get(self.image_id)
            if question != self.question:
                return
        query = Query(image, self.input.value or "", self.target)
        self.results.clear()
        with self.results:
            columns = [(ui.column().classes("flex-1 min-w-0 gap-2"), model.value) for model in self.models]
        for column, recipe in columns:
            with column:
                self._wait(recipe)
        for column, recipe in columns:
            try:
                found: SearchResult | str = await run_in_thread(column, self.site.searches.search, recipe, query, MAX_RESULTS)
            except UserError as error:
                found = str(error)
                if column.is_deleted:
                    return
            column.clear()
            with column:
                self._answer(recipe, found)

    def _wait(self, recipe: str) -> None:
        """Show a spinner with what the search waits for, updated twice a second until its column is replaced."""
        from nicegui import ui

        label = spinner(self.site.searches.wait_message(recipe))
        ui.timer(0.5, lambda: label.set_text(self.site.searches.wait_message(recipe)))

    def _answer(self, recipe: str, found: SearchResult | str) -> None:
        from nicegui import ui

        if isinstance(found, str):
            return empty("No answer", found)
        rank = f", the triplet's target at {found.target_rank:,}" if found.target_rank else ""
        ui.label(f"{recipe}: {found.gallery:,} pictures{rank}").classes("text-sm font-semibold")
        with ui.row().classes("gap-2"):
            for place, hit in enumerate(found.hits, 1):
                address = f"/search?{urlencode({'image': hit['image_id'], 'text': self.input.value or ''})}"
                with ui.link(target=address).classes("no-underline hit" + (" target" if hit["image_id"] == self.target else "")):
                    picture(hit["image_id"], hit.get("caption"), 112)
                    ui.label(f"{place}. {hit['score']:.3f}").classes("faint")
