"""``--lake``: a folder, or an address in an object store. One kind of option for every command.

Costs nothing: neither is looked at before a command opens it.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mmret.errors import UserError
from mmret.storage.addresses import storage_address


def lake_option(more: str = "") -> Any:
    """The option of a command; ``more`` is added to its help.

    >>> def status(lake: Annotated[str, lake_option()]) -> None: ...
    """
    return typer.Option("--lake", parser=LakeText, metavar="LAKE", help=f"folder or s3://bucket/prefix of the lake{more}")


class LakeText(str):
    """What was typed for ``--lake``; :class:`mmret.cli.command.Command` reads it by :func:`read_lake`, as it does with paths."""


def read_lake(text: LakeText) -> str:
    """Raises UserError for what is neither a path of this machine nor an address that is understood."""
    if not text:
        raise UserError("--lake is empty: give a folder or an address; this folder is written `.`")
    return storage_address(text, "--lake")


LakeOption = Annotated[str, lake_option()]
"""The option as most commands have it."""
