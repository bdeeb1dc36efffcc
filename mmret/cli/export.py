"""``mmret export``: the triplets as other tools read them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmret.errors import UserError
from mmret.lake import Lake


class Format(StrEnum):
    megapairs = "megapairs"


def export(lake: Annotated[Path, typer.Option(help="folder of the lake")],
           out: Annotated[Path, typer.Option(help="folder to write; must not exist yet")],
           format_: Annotated[Format, typer.Option("--format", help="megapairs: JSON lines and images as the authors' release")],
           split: Annotated[str | None, typer.Option(help="train or test; default: both, in a file each")] = None) -> None:
    """Write the data set to a folder."""
    from mmret.export.megapairs import export_megapairs

    store = Lake(lake)
    if split not in (None, "train", "test"):
        raise UserError(f"--split {split}: train or test")
    counts = export_megapairs(store, out, (split,) if split else ("train", "test"))
    print(f"{out}: " + ", ".join(f"{name} {n:,}" for name, n in counts.items()))
