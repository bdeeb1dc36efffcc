"""Page elements that both pages use. Text of the corpus is put into labels and properties, never into HTML."""

from __future__ import annotations

from typing import Any

from mmret.schemas import SIGNALS
from mmret.web.pictures import SIDES, url

STYLE = """
.frame { object-fit: contain; background: #f6f8fa; border-radius: 6px; border: 1px solid #e0e4e8; flex: none; }
.triplet { border: 1px solid #e0e4e8; border-radius: 10px; padding: 10px 12px; cursor: pointer; background: #fff; }
.triplet.selected { outline: 3px solid #4078c0; outline-offset: -1px; }
.triplet.accepted { border-left: 6px solid #2da44e; }
.triplet.rejected { border-left: 6px solid #cf222e; opacity: .72; }
.text { overflow-wrap: anywhere; white-space: pre-wrap; }
.faint { color: #656d76; font-size: .8rem; overflow-wrap: anywhere; }
.chip { font-size: .72rem; padding: 1px 8px; border-radius: 9px; background: #eef1f4; color: #424a53; white-space: nowrap; }
.fact { display: grid; grid-template-columns: 9.5rem 1fr; gap: 2px 10px; font-size: .82rem; width: 100%; }
.answers { display: grid; width: 100%; gap: 24px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 350px), 1fr)); }
.hit .parts { color: #656d76; font-size: .68rem; line-height: 1.2; white-space: nowrap; }
.why-panel .reason { border-top: 1px solid #e0e4e8; padding-top: 12px; }
.why-panel .words { flex: 1; }
@media (max-width: 600px) { .why-panel .words { order: 3; flex: 1 0 100%; } }
.q-uploader.own .q-uploader__list, .q-uploader.own .q-uploader__subtitle { display: none; }
.hit.target { outline: 3px solid #2da44e; border-radius: 8px; }
"""


def head(title: str, subtitle: str, here: str) -> None:
    """Style sheet and the bar on top of both pages."""
    from nicegui import ui

    ui.add_css(STYLE)
    ui.colors(primary="#4078c0")
    with ui.header().classes("bg-white text-black items-center gap-4 px-4 py-2").style("border-bottom: 1px solid #e0e4e8"):
        ui.label(title).classes("text-lg font-semibold")
        ui.label(subtitle).classes("faint")
        ui.space()
        for name, address in (("Browse", "/"), ("Search", "/search")):
            link = ui.link(name, address).classes("no-underline px-2")
            link.classes("font-semibold text-black" if here == name else "text-gray-600")


def picture(image_id: str, caption: str | None, pixels: int, side: int = SIDES[0]) -> Any:
    """An <img> of fixed size, so that a page does not move while pictures arrive."""
    from nicegui import ui

    element = ui.element("img").classes("frame").style(f"width: {pixels}px; height: {pixels}px")
    element.props["src"] = url(image_id, side)
    element.props["alt"] = caption or ""
    element.props["title"] = caption or ""
    element.props["loading"] = "lazy"
    return element


def chip(text: str) -> Any:
    from nicegui import ui

    return ui.label(text).classes("chip")


def scores_text(triplet: dict[str, Any], signal: str) -> str:
    """``clip_image 0.912`` with a dot before it where the signal found the pair."""
    value = triplet.get(f"{signal}_score")
    return f"{'● ' if signal in triplet['signals'] else ''}{signal} {'not near' if value is None else f'{value:.3f}'}"


def score_chips(triplet: dict[str, Any]) -> None:
    for signal in SIGNALS:
        chip(scores_text(triplet, signal))


def fact(name: str, value: Any) -> None:
    """A line "name: value" in a list of facts; nothing if there is no value."""
    from nicegui import ui

    if value is None or value == "":
        return
    with ui.element("div").classes("fact"):
        ui.label(name).classes("text-gray-600")
        ui.label(str(value)).classes("text")


def empty(text: str, hint: str = "") -> None:
    """A message in place of content where there is nothing to show."""
    from nicegui import ui

    with ui.column().classes("w-full items-center py-16 gap-1"):
        ui.icon("search_off", size="3rem").classes("text-gray-400")
        ui.label(text).classes("text-lg text-gray-700")
        if hint:
            ui.label(hint).classes("faint")


def spinner(text: str) -> Any:
    """A spinner and what the wait is for; returns the label, whose text may change."""
    from nicegui import ui

    with ui.row().classes("items-center gap-2"):
        ui.spinner(size="lg")
        return ui.label(text).classes("faint")
