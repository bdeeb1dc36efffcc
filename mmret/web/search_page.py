"""Page ``/search``: search of the corpus by picture, text or both, with two checkpoints side by side.

The address always says what is shown (:mod:`mmret.web.question`): it changes with each search without a reload, the browser's back
and forward go through the searches, and whoever opens it gets the same answer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from mmret.errors import UserError
from mmret.ingest.pictures.images import images_by_id
from mmret.search.search import Query, SearchResult
from mmret.web import given_pictures
from mmret.web.answer import MAX_RESULTS, Answer
from mmret.web.parts import empty, head, picture, spinner
from mmret.web.pictures import ID, SIDES
from mmret.web.question import Question
from mmret.web.site import Site
from mmret.web.threads import run_in_thread
from mmret.web.uploads import LARGEST

REFUSED = "not taken: a picture of at most 32 MB, please (of another site's page: save it and drop the file)"
GONE = "The picture of this address is not here any more"
GIVE_AGAIN = "Pictures of your own are kept while the page's server runs, the last 128 MB of them. Give it again"


class SearchPage:
    """One visitor's page; ``question`` is that of the page's address."""

    def __init__(self, site: Site, question: Question):
        self.site, self.question = site, question
        self.searches = 0
        self.recipes: list[str] = []

    def build(self) -> None:
        """Build the frame; checkpoints, and the answer to a query of the address, follow once the browser is connected."""
        from nicegui import ui

        self.site.searches.prepare()
        head(self.site.lake.name, "search", "Search")
        ui.add_css(given_pictures.STYLE)
        with ui.row().classes("w-full items-start gap-4"):
            self.query_picture = ui.column().classes("gap-1")
            with ui.column().classes("flex-1 gap-2 min-w-[min(20rem,100%)]"):
                self.input = self._field("what should be different, or what to find", self.question.text)
                self.where = self._field("only pictures WHERE, say: width >= 400 AND caption ILIKE '%dress%'", self.question.where)
                with ui.row().classes("items-center gap-2"):
                    self.models = [ui.select([]).props("dense outlined options-dense").classes("w-40") for _ in range(2)]
                    self.go = ui.button("Search", on_click=self.search).props("dense no-caps padding='4px 14px'")
                    self.go.disable()
            with ui.column().classes("gap-1"):
                self.upload = ui.upload(
                    label="a picture of your own",
                    auto_upload=True,
                    max_file_size=LARGEST,
                    on_upload=self.upload_picture,
                    on_rejected=self._refuse,
                )
                self.upload.props("flat bordered accept=image/*").classes("w-64 own")
                ui.label("or paste one, or drop one anywhere on the page").classes("faint w-64")
        with ui.element("div").classes("body-drop-zone"):
            ui.label("drop it: the picture becomes the query")
        self.results = ui.column().classes("w-full gap-3")
        self._show_query()
        with self.results:
            spinner("reading which checkpoints there are")
        ui.on("picture_named", self._name_picture)
        ui.on("picture_refused", self._refuse)
        ui.on("address_changed", self._follow_address)
        ui.timer(0, self._begin, once=True)

    def _field(self, label: str, value: str) -> Any:
        from nicegui import ui

        return ui.input(label, value=value).props("outlined dense clearable").classes("w-full").on("keydown.enter", self.search)

    async def _begin(self) -> None:
        from nicegui import ui

        ui.run_javascript(given_pictures.script(self.upload.id))
        self.recipes = await run_in_thread(self.results, self.site.searches.recipes)
        question = self._with_recipes(self.question)
        for select, name in zip(self.models, (question.left, question.right), strict=True):
            select.set_options(self.recipes, value=name)
            select.on_value_change(self._choose_model)
        self.go.enable()
        await self.ask(question, "replace")

    def _with_recipes(self, question: Question) -> Question:
        """``question`` with checkpoints that there are: the lake's first and the untrained one where it names none."""
        from nicegui import ui

        named = {"left": question.left or self.recipes[0], "right": question.right or self.recipes[-1]}
        for side, default in (("left", self.recipes[0]), ("right", self.recipes[-1])):
            if named[side] not in self.recipes:
                ui.notify(f"there is no checkpoint of '{named[side]}' in this lake (any more): {default} answers", type="warning")
                named[side] = default
        return replace(question, **named)

    async def search(self) -> None:
        """Search for what the page's fields say."""
        await self.ask(replace(self._asked(), first=1))

    def _asked(self) -> Question:
        left, right = (model.value for model in self.models)
        now = self.question  # names the checkpoints until it is known which there are
        texts = {"text": self.input.value or "", "where": self.where.value or ""}
        return replace(now, **texts, left=left or now.left, right=right or now.right)

    async def _choose_model(self) -> None:
        if (self.question.left, self.question.right) != tuple(model.value for model in self.models):
            await self.ask(self._asked())

    async def upload_picture(self, event: Any) -> None:
        """A picture that was uploaded, pasted or dropped becomes the query; by its id where the corpus has it."""
        name = self.site.uploads.add(await event.file.read())
        known = await run_in_thread(self.results, images_by_id, self.site.lake, [name])
        self.upload.reset()
        await self.ask(self._of_picture(**({"image": name} if known else {"upload": name})))

    async def _name_picture(self, event: Any) -> None:
        if ID.fullmatch(name := str(event.args)):
            await self.ask(self._of_picture(image=name))

    def _of_picture(self, image: str = "", upload: str = "") -> Question:
        return replace(self._asked(), image=image, upload=upload, target="", first=1)

    def _refuse(self) -> None:
        from nicegui import ui

        ui.notify(REFUSED, type="warning")

    async def remove_picture(self) -> None:
        """Remove the query picture, and search for the text alone if there is one."""
        self.upload.reset()
        await self.ask(self._of_picture())

    async def turn(self, by: int) -> None:
        """Show the next or previous results."""
        await self.ask(replace(self.question, first=max(1, self.question.first + by * MAX_RESULTS)))

    async def _follow_address(self, event: Any) -> None:
        if not self.recipes:  # they are still being read
            return
        question = self._with_recipes(Question.read(dict(parse_qsl(str(event.args).lstrip("?")))))
        if question != self.question:
            await self.ask(question, "")

    async def ask(self, question: Question, history: str = "push") -> None:
        """Show the answer of both models to ``question``; a newer one replaces one that still waits.

        ``history``: whether the browser remembers the address before (``push``), forgets it (``replace``), or changes nothing.
        """
        from nicegui import ui

        if not self.go.enabled:  # `_begin` asks it once it is known which checkpoints there are
            self.question = question
            return self._show_query()
        if history == "push" and question != self.question:
            ui.navigate.history.push(question.address())
        elif history == "replace":
            ui.navigate.history.replace(question.address())
        self.question = question
        self.searches += 1
        asked = self.searches
        self._show_query()
        self.results.clear()
        query = Query(None, question.text, question.target or None, question.image or None)
        if question.upload:
            query = replace(query, image=self.site.uploads.get(question.upload))
            if query.image is None:
                return self._say(GONE, GIVE_AGAIN + (", or search for the text alone." if question.text.strip() else "."))
        if question.empty:
            return self._say("Nothing asked yet", "Give a text, a picture, or both: the picture, changed as the text says")
        with self.results:
            answer = Answer(self.site, question, query, self)
        for column, recipe in answer.columns:
            try:
                found: SearchResult | str = await run_in_thread(column, self._search, recipe, query, question)
            except UserError as error:
                found = str(error)
                if column.is_deleted:
                    return
            if asked != self.searches:
                return
            answer.show(column, recipe, found)

    def _search(self, recipe: str, query: Query, question: Question) -> SearchResult:
        composed = question.picture and bool(question.text.strip())
        found = self.site.searches.search(recipe, query, MAX_RESULTS, question.first - 1, question.where.strip(), composed)
        self.site.thumbnails.prepare([hit["image_id"] for hit in found.hits])
        return found

    def _say(self, text: str, hint: str) -> None:
        with self.results:
            empty(text, hint)

    def _show_query(self) -> None:
        """Set the fields to the question, and show its picture."""
        from nicegui import ui

        question = self.question
        self.input.value, self.where.value = question.text, question.where
        for model, name in zip(self.models, (question.left, question.right), strict=True):
            if name in self.recipes:
                model.value = name
        self.query_picture.clear()
        self.query_picture.set_visibility(question.picture)
        if not question.picture:
            return
        with self.query_picture:
            if question.image:
                picture(question.image, "query", 120, SIDES[1])
            elif self.site.uploads.get(question.upload) is not None:
                picture(question.upload, "query", 120, SIDES[1]).props["src"] = f"/uploads/{question.upload}/{SIDES[1]}"
                ui.label("your picture").classes("faint")
            ui.button("Without picture", on_click=self.remove_picture).props("flat dense no-caps size=sm")
