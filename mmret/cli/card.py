"""``mmret card``: the data card of a lake, or the model card of one of its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmret.cli.lake_option import LakeOption
from mmret.errors import UserError
from mmret.lake import Lake


def card(
    lake: LakeOption,
    out: Annotated[Path | None, typer.Option(help="file to write, .md or .html; default of a model: its README.md")] = None,
    recipe: Annotated[str | None, typer.Option(help="the model card of this recipe's checkpoint instead")] = None,
) -> None:
    """Describe the data set, or with --recipe a trained model, from what the lake's tables say."""
    from mmret.export.data_card import write_data_card
    from mmret.export.model_card import write_model_card
    from mmret.lake.configuration import resolve

    store = Lake(lake)
    if recipe is not None:
        print(write_model_card(store, resolve(store)[0], recipe, out))
    elif out is None:
        raise UserError("give --out FILE.md or FILE.html, or --recipe for a model card")
    else:
        print(write_data_card(store, resolve(store)[0], out))
