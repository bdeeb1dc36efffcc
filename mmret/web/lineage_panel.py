"""The right-hand side of the browser: one triplet and all that is known about where it came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from mmret.schemas import SIGNALS
from mmret.web.parts import fact, picture, scores_text
from mmret.web.pictures import SIDES


def lineage_panel(record: dict[str, Any], decide: Callable[[str], Any]) -> None:
    """Show what :func:`mmret.web.lineage.lineage` returned. ``decide`` takes ``accepted``, ``rejected`` or ``withdrawn``."""
    from nicegui import ui

    triplet = record["triplet"]
    with ui.row().classes("w-full no-wrap gap-3 items-start"):
        for role in ("query", "target"):
            with ui.column().classes("gap-1 flex-1 min-w-0"):
                picture(triplet[f"{role}_id"], record[role].get("caption"), 210, SIDES[1]).style("width: 100%")
                ui.label(f"{role}: {record[role].get('caption') or 'no caption'}").classes("faint text")
    with ui.row().classes("gap-2 items-center"):
        small = "dense no-caps padding='2px 10px'"
        ui.button("Accept", on_click=lambda: decide("accepted"), icon="check").props(f"{small} color=positive")
        ui.button("Reject", on_click=lambda: decide("rejected"), icon="close").props(f"{small} color=negative")
        if triplet["decision"]:
            ui.button("Take back", on_click=lambda: decide("withdrawn")).props(f"{small} flat")
            ui.label(triplet["decision"]).classes("chip")
        query = urlencode(
            {"image": triplet["query_id"], "text": triplet["texts"][0] if triplet["texts"] else "", "target": triplet["target_id"]}
        )
        ui.link("search with it", f"/search?{query}").classes("text-sm")
    _heading("Instructions")
    for text in triplet["texts"]:
        ui.label(text).classes("text text-sm")
    if record["description"].get("text"):
        _heading("Description")
        ui.label(record["description"]["text"]).classes("text text-sm")
    _heading("Similarities")
    for signal in SIGNALS:
        fact(scores_text(triplet, signal), record["encoders"].get(signal))
    _heading("Hard negatives, besides the query picture")
    with ui.row().classes("gap-1"):
        for image in record["negatives"]:
            picture(image["image_id"], image.get("caption"), 72)
        if not record["negatives"]:
            ui.label("none were mined").classes("faint")
    _heading("Lineage")
    _facts(record)


def _heading(text: str) -> None:
    from nicegui import ui

    ui.label(text).classes("text-sm font-semibold mt-2")


def _facts(record: dict[str, Any]) -> None:
    triplet, description, instruction = record["triplet"], record["description"], record["instruction"]
    for name, value in (
        ("pair", triplet["pair_id"]),
        ("shard, split", f"{triplet['shard']}, {triplet['split']}"),
        ("query picture", triplet["query_path"]),
        ("target picture", triplet["target_path"]),
        ("query source", record["query"].get("source")),
        ("target source", record["target"].get("source")),
        ("licence", triplet["licence"] or "not given"),
        ("described by", _writer(description)),
        ("instructed by", _writer(instruction)),
        ("tokens", _tokens(description, instruction)),
    ):
        fact(name, value)
    for row in record["history"]:
        fact(
            "decision",
            f"{row['decision']} by {row['reviewer']}, {row['decided_at'][:19].replace('T', ' ')} UTC"
            + (f": {row['note']}" if row["note"] else ""),
        )


def _writer(row: dict[str, Any]) -> str:
    if not row:
        return ""
    return f"{row['model']}, prompt {row['prompt_version']}, parser {row['parser_version']}, request {row['request_key']}"


def _tokens(*rows: dict[str, Any]) -> str:
    read, written = (sum(row.get(key) or 0 for row in rows) for key in ("tokens_in", "tokens_out"))
    return f"{read:,} read, {written:,} written" if read or written else ""
