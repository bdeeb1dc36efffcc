"""The answer to one question on the search page: a column of results a checkpoint, turned over together, and why each was found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from mmret.benchmarks.figures import by_direction, recorded
from mmret.lake import Lake
from mmret.search.search import Query, SearchResult
from mmret.tasks import COMPOSED
from mmret.web.parts import empty, picture, spinner
from mmret.web.question import Question
from mmret.web.site import Site
from mmret.web.why_panel import show_why

MAX_RESULTS = 24
"""Results of a checkpoint in the browser at a time."""
_PLAIN_CLICK = "(event) => { if (event.ctrlKey || event.metaKey || event.shiftKey) return; event.preventDefault(); emit(); }"


class Asker(Protocol):
    """What the results lead to: the page that asks."""

    async def ask(self, question: Question) -> None: ...

    async def turn(self, by: int) -> None: ...


class Answer:
    """Builds its elements in the current slot of the page: ``columns``, one per recipe, wait until :meth:`show` fills them."""

    def __init__(self, site: Site, question: Question, query: Query, page: Asker):
        from nicegui import ui

        self.site, self.question, self.query, self.page = site, question, query, page
        with ui.row().classes("items-center gap-2") as self.pages:
            before = ui.button(icon="chevron_left", on_click=lambda: page.turn(-1)).props("flat dense round aria-label=earlier")
            before.set_enabled(question.first > 1)
            self.places = ui.label(f"from {question.first:,} on").classes("text-sm")
            self.after = ui.button(icon="chevron_right", on_click=lambda: page.turn(1)).props("flat dense round aria-label=later")
            self.after.disable()
        self.pages.set_visibility(False)
        self.columns: list[tuple[Any, str]] = []
        with ui.element("div").classes("answers"):
            for recipe in (question.left, question.right):
                with ui.column().classes("min-w-0 gap-2") as column:
                    self._wait(recipe)
                self.columns.append((column, recipe))

    def _wait(self, recipe: str) -> None:
        """Show a spinner with what the search waits for, updated twice a second until its column is replaced."""
        from nicegui import ui

        label = spinner(self.site.searches.wait_message(recipe))
        ui.timer(0.5, lambda: label.set_text(self.site.searches.wait_message(recipe)))

    def show(self, column: Any, recipe: str, found: SearchResult | str) -> None:
        """Put what ``recipe`` found, or why it found nothing, into its ``column``."""
        from nicegui import ui

        column.clear()
        with column:
            if isinstance(found, str):
                return empty("No answer", found)
            filtered = bool(self.question.where.strip())
            of = f"{found.matching:,} of " if filtered else ""
            rank = f", the triplet's target at {found.target_rank:,}" if found.target_rank else ""
            rank += " of all" if rank and filtered else ""
            by = "" if found.recall is None else f", by an index that finds {found.recall:.1%} of the nearest"
            ui.label(f"{recipe}: {of}{found.gallery:,} pictures{by}{rank}").classes("text-sm font-semibold")
            if measured := measured_of(self.site.lake, recipe, self.question):
                ui.label(measured).classes("faint")
            if not found.hits:
                empty("No picture is left", "Widen the filter" if self.question.first == 1 else "Go back to the first results")
            with ui.row().classes("gap-2 items-start"):
                for place, hit in enumerate(found.hits, self.question.first):
                    self._hit(recipe, place, hit)
        last = self.question.first + len(found.hits) - 1
        more = len(found.hits) == MAX_RESULTS and last < found.matching
        self.places.text = f"{self.question.first:,} to {last:,}" if found.hits else f"from {self.question.first:,} on"
        self.after.set_enabled(self.after.enabled or more)
        self.pages.set_visibility(self.question.first > 1 or self.after.enabled)

    def _hit(self, recipe: str, place: int, hit: dict[str, Any]) -> None:
        from nicegui import ui

        target = " target" if hit["image_id"] == self.question.target else ""
        follow = replace(self.question, image=hit["image_id"], upload="", target="", first=1)
        with ui.column().classes(f"hit gap-0{target}").style("width: 112px"):
            link = ui.link(target=follow.address()).classes("no-underline")
            link.on("click", lambda: self.page.ask(follow), js_handler=_PLAIN_CLICK)
            with link:
                picture(hit["image_id"], hit.get("caption"), 112)
            with ui.row().classes("w-full items-center justify-between no-wrap gap-0"):
                ui.label(f"{place}. {hit['score']:.3f}").classes("faint")
                why = ui.button("why", on_click=lambda: show_why(self.site, recipe, self.query, hit["image_id"]))
                why.props(f"flat dense no-caps size=sm aria-label='why {place} was found'").classes("why")
            if hit.get("image_score") is not None and hit.get("text_score") is not None:
                ui.label(f"picture {_short(hit['image_score'])} text {_short(hit['text_score'])}").classes("parts")


def _short(score: float) -> str:
    """``.71``, ``-.05``: two of them under a picture."""
    return f"{score:.2f}".replace("0.", ".", 1)


def measured_of(lake: Lake, recipe: str, question: Question) -> str:
    """What ``recipe`` finds in this kind of query, as it was measured: ``text to image: R@10 48.0 → 60.3``; empty where it was not.

    Cost: the rows of ``evaluations``.
    """
    said = bool(question.text.strip())
    name = (COMPOSED if said else "image_to_image") if question.picture else "text_to_image"
    found = next((of for of in by_direction(recorded(lake, [recipe]), recipe) if of.task.name == name), None)
    return f"{found.task.shown}: R@10 {found.shown('R@10')}, measured on {found.queries:,} queries" if found else ""
