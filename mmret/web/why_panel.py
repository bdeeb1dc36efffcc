"""The panel that says why a picture was found: the nearest training triplets as pictures, with the way to their lineage."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from mmret.errors import UserError
from mmret.search.reasons import Reason, Why
from mmret.search.search import Query
from mmret.web import browse
from mmret.web.parts import picture, spinner
from mmret.web.pictures import SIDES
from mmret.web.site import Site
from mmret.web.threads import run_in_thread


async def show_why(site: Site, recipe: str, query: Query, image_id: str) -> None:
    """Open the panel for picture ``image_id``, which ``recipe`` found for ``query``."""
    from nicegui import ui

    with ui.dialog(value=True) as dialog, ui.card().classes("why-panel gap-3 max-w-[min(46rem,96vw)] w-full") as card:
        with ui.row().classes("w-full items-start no-wrap gap-3"):
            picture(image_id, "the picture that was found", 96)
            with ui.column().classes("flex-1 min-w-0 gap-1"):
                ui.label(f"Why {recipe} found this picture").classes("text-base font-semibold")
                said = ui.label().classes("faint")
            ui.button(icon="close", on_click=dialog.close).props("flat dense round aria-label=close")
        content = ui.column().classes("w-full gap-3")
        with content:
            spinner("asking the training triplets that led to it or to its like")
    dialog.on("hide", dialog.delete)
    try:
        found, known = await run_in_thread(card, _reasons, site, recipe, query, image_id)
    except UserError as error:
        if not card.is_deleted:
            said.text = str(error)
            content.clear()
        return
    content.clear()
    said.text = found.remark or (
        f"Of the {found.triplets:,} triplets it was trained on, {found.candidates} that lead to this picture or to those nearest "
        "to it were asked again; these are most like your query."
    )
    with content:
        for reason in found.reasons:
            _reason(reason, known.get(reason.pair_id, False))


def _reasons(site: Site, recipe: str, query: Query, image_id: str) -> tuple[Why, dict[str, bool]]:
    """The reasons, and which of their triplets the lake still has."""
    found = site.searches.why(recipe, query, image_id)
    pairs = [reason.pair_id for reason in found.reasons]
    rows = site.tables.rows(f"SELECT pair_id FROM triplets WHERE {browse.in_list('pair_id', pairs)}") if pairs else []
    site.thumbnails.prepare([i for reason in found.reasons for i in (reason.query_id, reason.target_id)])
    return found, {row["pair_id"]: True for row in rows}


def _reason(reason: Reason, known: bool) -> Any:
    from nicegui import ui

    with ui.row().classes("reason w-full items-center gap-3"):
        picture(reason.query_id, "query picture of the triplet", 104, SIDES[0])
        with ui.column().classes("words min-w-0 gap-1"):
            ui.label(reason.text).classes("text text-sm")
            ui.label(f"its query is like yours: {reason.query_score:.3f}").classes("faint")
            target = "its target is this picture" if reason.is_target else f"its target is like this one: {reason.target_score:.3f}"
            ui.label(target).classes("faint")
            if known:
                ui.link("lineage", f"/?{urlencode({'pair': reason.pair_id})}", new_tab=True).classes("text-sm")
            else:
                ui.label("not a triplet of this lake any more").classes("faint")
        picture(reason.target_id, "target of the triplet", 104, SIDES[0])
