"""The left-hand side of the browser: filters and free SQL that choose which triplets are shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mmret.errors import UserError
from mmret.schemas import SIGNALS
from mmret.web.browse import Filters
from mmret.web.site import Site
from mmret.web.tables import Answer, run_query
from mmret.web.threads import run_in_thread

MAX_PAIRS = 200_000
"""Largest number of pairs that a free query may choose."""
MAX_ROWS = 500
"""Largest number of rows that are shown of a free query that does not choose pairs."""

_SPLITS = {"": "any split", "train": "train", "test": "test (held out)"}
_DECISIONS = {"": "any decision", "undecided": "undecided", "accepted": "accepted", "rejected": "rejected"}
_ORDERS = {
    "table": "order of the tables",
    **{f"{sign}{s}": f"{s}, {name} first" for s in SIGNALS for sign, name in (("-", "most alike"), ("", "least alike"))},
}
EXAMPLE = "SELECT pair_id FROM triplets_wide\nWHERE query_width > 100 AND len(texts) > 3"


class FilterPanel:
    """Builds its elements in the current slot of the page. ``changed``: coroutine function called with the new filters;
    ``pair_ids``: the pairs that the page begins with, None for all."""

    def __init__(
        self,
        site: Site,
        choices: dict[str, Any],
        changed: Callable[[Filters], Awaitable[None]],
        pair_ids: tuple[str, ...] | None = None,
    ):
        from nicegui import ui

        self.site, self.changed, self.choices = site, changed, choices
        self.pair_ids = pair_ids
        self.text = ui.input("in instructions or captions").props("dense outlined clearable debounce=400").classes("w-full")
        self.shard = self._select({"": "any shard", **{s: s for s in choices["shards"]}})
        self.split = self._select(_SPLITS)
        self.signal = self._select({"": "found by any signal", **{s: f"found by {s}" for s in SIGNALS}})
        self.decision = self._select(_DECISIONS)
        licences = {name: f"{name} ({n:,})" for name, (_, n) in choices["licences"].items()}
        self.licence = self._select({"": "any licence", **licences})
        self.order = self._select(_ORDERS)
        self.ranges = {signal: self._range(signal, *bounds) for signal, bounds in choices["scores"].items()}
        self.text.on_value_change(self.apply)
        ui.button("Show everything", on_click=self.reset).props("flat dense no-caps").classes("self-start")
        ui.separator()
        ui.label("Free SQL").classes("text-sm font-semibold")
        self.sql = ui.textarea(placeholder=EXAMPLE).classes("w-full").on("keydown.ctrl.enter", self.run)
        self.sql.props("outlined dense autogrow input-style='font: 12px ui-monospace, monospace'")
        ui.button("Run", on_click=self.run).props("dense no-caps padding='2px 14px'").classes("self-start")
        self.status = ui.label("A query with a column pair_id chooses triplets; any other is shown as a table.").classes(
            "faint text"
        )

    def _select(self, options: dict[str, str]) -> Any:
        from nicegui import ui

        select = ui.select(options, value=next(iter(options)), on_change=self.apply)
        return select.props("dense outlined options-dense").classes("w-full")

    def _range(self, signal: str, low: float, high: float) -> Any:
        from nicegui import ui

        low, high = int(low * 1000) / 1000 - 0.001, int(high * 1000) / 1000 + 0.001
        with ui.column().classes("w-full gap-0 px-2"):
            ui.label(f"{signal} score").classes("faint")
            found = ui.range(min=low, max=high, step=0.001, value={"min": low, "max": high})
            found.props("label dense").on("change", self.apply, throttle=0.2)
        return found

    def filters(self) -> Filters:
        """The filters that the elements are set to."""
        scores = {
            signal: (element.value["min"], element.value["max"])
            for signal, element in self.ranges.items()
            if (element.value["min"], element.value["max"]) != (element.props["min"], element.props["max"])
        }
        licences = self.choices["licences"].get(self.licence.value)
        return Filters(
            shard=self.shard.value or None,
            split=self.split.value or None,
            signal=self.signal.value or None,
            decision=self.decision.value or None,
            licences=licences[0] if licences and self.licence.value else None,
            text=(self.text.value or "").strip(),
            order=self.order.value,
            scores=scores,
            pair_ids=self.pair_ids,
        )

    async def apply(self) -> None:
        await self.changed(self.filters())

    async def reset(self) -> None:
        """Clear all filters, so that every triplet is shown."""
        self.pair_ids = None
        for element in (self.shard, self.split, self.signal, self.decision, self.licence, self.order):
            element.value = next(iter(element.options))
        for element in self.ranges.values():
            element.value = {"min": element.props["min"], "max": element.props["max"]}
        self.text.value, self.status.text = "", ""
        await self.apply()

    async def run(self) -> None:
        """Run the free query; shows its pairs as the list or, without a column ``pair_id``, its rows as a table."""
        text = (self.sql.value or "").strip()
        if not text:
            self.pair_ids = None
            return await self.apply()
        self.status.text = "running ..."
        try:
            answer = await run_in_thread(self.sql, run_query, self.site.tables, text, MAX_PAIRS)
        except UserError as error:
            self.status.text = str(error)
            return
        ids = answer.pair_ids()
        if ids is None:
            self.status.text = f"{len(answer.rows):,}{' or more' if answer.more else ''} rows"
            _table(answer)
            return
        self.pair_ids = ids
        self.status.text = f"{len(ids):,} pairs{', and more that are not shown' if answer.more else ''}"
        await self.apply()


def _table(answer: Answer) -> None:
    from nicegui import ui

    with ui.dialog(value=True) as dialog, ui.card().classes("max-w-[90vw] gap-2"):
        columns = [{"name": f"c{at}", "label": name, "field": f"c{at}", "align": "left"} for at, name in enumerate(answer.names)]
        rows = [
            {"id": at} | {f"c{n}": None if value is None else str(value)[:500] for n, value in enumerate(row)}
            for at, row in enumerate(answer.rows[:MAX_ROWS])
        ]
        if rows:
            ui.table(columns=columns, rows=rows, row_key="id", pagination=20).props("flat dense").classes("max-h-[70vh]")
        else:
            ui.label("No rows.")
        if len(answer.rows) > MAX_ROWS:
            ui.label(f"the first {MAX_ROWS} rows; `mmret sql` gives them all").classes("faint")
        ui.button("Close", on_click=dialog.close).props("flat dense no-caps")
