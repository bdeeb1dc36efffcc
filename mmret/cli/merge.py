"""``mmret merge``: an MLLM checkpoint as one whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmret.cli.lake_option import lake_option


def merge(
    out: Annotated[Path, typer.Option(help="folder to write the whole model to")],
    lake: Annotated[str | None, lake_option(", with --recipe")] = None,
    recipe: Annotated[str | None, typer.Option(help="name of a trained recipe of kind mllm")] = None,
    adapter: Annotated[Path | None, typer.Option(help="or the folder of a LoRA adapter")] = None,
    dtype: Annotated[str, typer.Option(help="of the weights written; auto: the base model's own")] = "auto",
) -> None:
    """Merge a LoRA adapter into its base model: a folder that transformers, sentence-transformers and vLLM load, without peft."""
    from mmret.errors import UserError
    from mmret.lake import Lake
    from mmret.retriever.models.merge import export_merged
    from mmret.retriever.train.stage import checkpoint_folder

    if adapter is None and (lake is None or recipe is None):
        raise UserError("say which adapter: --lake and --recipe, or --adapter")
    export_merged(adapter or checkpoint_folder(Lake(lake), recipe), out, dtype)
    typer.echo(str(out))
