"""``mmret gallery``: look at a lake in the browser."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from mmret.cli.lake_option import LakeOption
from mmret.errors import UserError
from mmret.lake import Lake


def gallery(
    lake: LakeOption,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8420,
    host: Annotated[str, typer.Option(help="address to listen on; anything but 127.0.0.1 lets others in")] = "127.0.0.1",
    reviewer: Annotated[str | None, typer.Option(help="name noted with decisions; default: the user's")] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="only print the address")] = False,
) -> None:
    """Browse triplets, see where each came from, accept or reject them, and search with any checkpoint."""
    if importlib.util.find_spec("nicegui") is None:
        raise UserError("the page needs the extra 'gallery': pip install 'mmret[gallery]'")
    from mmret.cli.terminal import say_loading
    from mmret.lake.configuration import resolve

    store = Lake(lake)
    profile, _ = resolve(store)
    say_loading()
    from mmret.web.app import serve

    serve(store, profile, port, host, not no_browser, reviewer)
