"""Page ``/``: triplets as a list, filters on the left, the lineage of the selected triplet on the right; works by keyboard too.

Only one page of rows is ever in the browser. Rows are fetched in a thread, so that a slow query blocks no other visitor; the
result of an older query never replaces that of a newer one.
"""

from __future__ import annotations

from typing import Any

from mmret.curation.decisions import Decision
from mmret.errors import UserError
from mmret.web import browse
from mmret.web.browse import PAGE, Filters
from mmret.web.filter_panel import FilterPanel
from mmret.web.lineage import lineage
from mmret.web.lineage_panel import lineage_panel
from mmret.web.parts import chip, empty, head, picture, score_chips, spinner
from mmret.web.site import Site
from mmret.web.threads import run_in_thread

KEYS = (("j →", "next"), ("k ←", "previous"), ("a", "accept"), ("r", "reject"), ("u", "take back"))
"""Shown above the list; n and p turn the page, / goes to the text filter."""


class BrowsePage:
    """One visitor's page; ``pair``: the only triplet it begins with, its id from the page's address."""

    def __init__(self, site: Site, pair: str = ""):
        self.site = site
        self.filters, self.number, self.total = Filters(pair_ids=(pair,) if pair else None), 0, None
        self.rows: list[dict[str, Any]] = []
        self.cards: list[Any] = []
        self.selected = 0
        self.question = 0
        self.panel: FilterPanel | None = None  # until the filters' choices are there

    def build(self) -> None:
        """Build the frame; rows follow as soon as the browser is connected, then filters and counts."""
        from nicegui import ui

        head(self.site.lake.name, "triplets", "Browse")
        ui.keyboard(self.key, ignore=["input", "textarea", "select"])
        with ui.left_drawer(value=True, bordered=True).props("width=290").classes("gap-2 bg-white"):
            self.panel_slot = ui.column().classes("w-full gap-2")
            with self.panel_slot:
                spinner("reading what the filters can be set to")
        with ui.row().classes("w-full no-wrap gap-4 items-start"):
            with ui.column().classes("flex-1 min-w-0 gap-2"):
                with ui.row().classes("w-full items-center gap-2"):
                    self.before = ui.button(icon="chevron_left", on_click=lambda: self.turn(-1)).props("flat dense round")
                    self.where = ui.label().classes("text-sm")
                    self.after = ui.button(icon="chevron_right", on_click=lambda: self.turn(1)).props("flat dense round")
                    ui.space()
                    for key, name in KEYS:
                        ui.label(key).classes("chip")
                        ui.label(name).classes("faint")
                self.list = ui.column().classes("w-full gap-2")
            self.detail = ui.column().classes("gap-1 sticky top-16")
            self.detail.style("width: 470px; max-height: calc(100vh - 80px); overflow-y: auto")
        with self.list:
            spinner("reading the triplets")
        ui.timer(0, self._begin, once=True)

    async def _begin(self) -> None:
        await self.load()
        await self._build_panel()

    async def _build_panel(self) -> None:
        found = await run_in_thread(self.panel_slot, browse.choices, self.site.tables)
        self.panel_slot.clear()
        with self.panel_slot:
            self.panel = FilterPanel(self.site, found, self.apply, self.filters.pair_ids)
        await self._count()
        self.site.searches.prepare()

    async def apply(self, filters: Filters) -> None:
        """Show the first page of ``filters``."""
        if filters != self.filters:
            self.filters, self.number, self.selected, self.total = filters, 0, 0, None
            if await self.load():
                await self._count()

    async def load(self) -> bool:
        """Fetch and show the current page; returns False if the visitor asked for something else meanwhile."""
        self.question += 1
        question = self.question
        try:
            rows = await run_in_thread(self.list, self._fetch, self.filters, self.number)
        except UserError as error:
            rows, failed = [], str(error)
        else:
            failed = None
        if question != self.question:
            return False
        self.rows, self.selected = rows, min(self.selected, max(0, len(rows) - 1))
        self._show_rows(failed)
        await self._show_detail()
        return True

    def _fetch(self, filters: Filters, number: int) -> list[dict[str, Any]]:
        rows = browse.page(self.site.tables, filters, number)
        self.site.thumbnails.prepare([i for r in rows for i in (r["query_id"], r["target_id"])])
        return rows

    async def _count(self) -> None:
        filters = self.filters
        total = await run_in_thread(self.list, browse.count, self.site.tables, filters)
        if filters is self.filters:
            self.total = total
            self._show_where()

    def _show_where(self) -> None:
        first = self.number * PAGE
        of = "" if self.total is None else f" of {self.total:,}"
        self.where.text = f"{first + 1:,} to {first + len(self.rows):,}{of}" if self.rows else "nothing" + of
        self.before.set_enabled(self.number > 0)
        self.after.set_enabled(len(self.rows) == PAGE and (self.total is None or first + PAGE < self.total))

    def _show_rows(self, failed: str | None) -> None:
        self.list.clear()
        self.cards = []
        with self.list:
            for at, row in enumerate(self.rows):
                self.cards.append(self._card(at, row))
            if failed:
                empty("This could not be shown", failed)
            elif not self.rows and self.filters.empty():
                empty("This lake has no triplets yet", f"mmret run --lake {self.site.lake.address}")
            elif not self.rows:
                empty("No triplet fits", "Widen a filter, or show everything")
        self._show_where()

    def _card(self, at: int, row: dict[str, Any]) -> Any:
        from nicegui import ui

        card = ui.row().classes(f"triplet w-full no-wrap gap-3 items-center {row['decision'] or ''}")
        card.classes("selected" if at == self.selected else "").on("click", lambda: self.select(at))
        with card:
            picture(row["query_id"], row["query_caption"], 104)
            with ui.column().classes("flex-1 min-w-0 gap-1"):
                for text in row["texts"][:3]:
                    ui.label(text).classes("text text-sm")
                with ui.row().classes("gap-1"):
                    chip(row["split"])
                    score_chips(row)
            picture(row["target_id"], row["target_caption"], 104)
        return card

    async def select(self, at: int) -> None:
        """Make row ``at`` of the page the selected one."""
        if 0 <= at < len(self.cards):
            self.cards[self.selected].classes(remove="selected")
            self.selected = at
            self.cards[at].classes("selected")
            self.cards[at].run_method("scrollIntoView", {"block": "nearest"})
            await self._show_detail()

    async def _show_detail(self) -> None:
        row = self.rows[self.selected] if self.rows else None
        found = await run_in_thread(self.detail, lineage, self.site.tables, row["pair_id"]) if row else None
        if row is not None and (not self.rows or self.rows[self.selected] is not row):
            return
        self.detail.clear()
        if found:
            with self.detail:
                lineage_panel(found, self.decide)

    async def step(self, by: int) -> None:
        """Go to the next or previous row, on the next page if need be."""
        at = self.selected + by
        if 0 <= at < len(self.rows):
            await self.select(at)
        elif await self.turn(1 if by > 0 else -1) and by < 0:
            await self.select(len(self.rows) - 1)

    async def turn(self, by: int) -> bool:
        """Go to the next or previous page; returns False if there is none."""
        if (by < 0 and self.number == 0) or (by > 0 and not self.after.enabled):
            return False
        self.number, self.selected = self.number + by, 0
        return await self.load()

    async def decide(self, decision: Decision) -> None:
        """Record a decision on the selected triplet and go on to the next; a failure is notified and changes nothing."""
        from nicegui import ui

        if not self.rows:
            return
        at, row = self.selected, self.rows[self.selected]
        try:
            await run_in_thread(self.list, self.site.log.add, [row["pair_id"]], decision)
        except (OSError, UserError) as error:
            ui.notify(f"not saved: {error}", type="negative")
            return
        row["decision"] = None if decision == "withdrawn" else decision
        self.cards[at].classes(add=row["decision"] or "", remove="accepted rejected")
        await (self._show_detail() if decision == "withdrawn" or at + 1 >= len(self.rows) else self.step(1))

    async def key(self, event: Any) -> None:
        """Handle a key press on the page."""
        if not event.action.keydown or event.modifiers.ctrl or event.modifiers.meta or event.modifiers.alt:
            return
        name = event.key.name
        if name in ("j", "ArrowRight"):
            await self.step(1)
        elif name in ("k", "ArrowLeft"):
            await self.step(-1)
        elif name in ("n", "p"):
            await self.turn(1 if name == "n" else -1)
        elif name in ("a", "r", "u"):
            await self.decide({"a": "accepted", "r": "rejected", "u": "withdrawn"}[name])
        elif name == "/" and self.panel is not None:
            self.panel.text.run_method("focus")
