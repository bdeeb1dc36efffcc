"""``mmret merge``: an MLLM checkpoint as one whole model, or one model of several checkpoints."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmret.cli.lake_option import lake_option
from mmret.errors import UserError

if TYPE_CHECKING:
    from mmret.lake import Lake
    from mmret.retriever.models.merge_weights import Part


class Method(StrEnum):
    linear = "linear"
    slerp = "slerp"
    task = "task"


def merge(
    out: Annotated[Path, typer.Option(help="folder to write the whole model to")],
    lake: Annotated[str | None, lake_option(", with --recipe")] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="a trained recipe; several: their weights are merged")] = None,
    adapter: Annotated[Path | None, typer.Option(help="or the folder of a LoRA adapter")] = None,
    dtype: Annotated[str, typer.Option(help="of the weights written; auto: the base model's own, or the first one's")] = "auto",
    checkpoint: Annotated[list[Path] | None, typer.Option(help="folder of a checkpoint, merged behind the recipes")] = None,
    weight: Annotated[list[float] | None, typer.Option(help="share of each, recipes first; default: equal ones")] = None,
    method: Annotated[
        Method | None, typer.Option(help="linear: the mean; slerp: the arc between two; task: base + weighted differences")
    ] = None,
    base: Annotated[str | None, typer.Option(help="of task: folder, or with --lake towers/clip or checkpoints/RECIPE")] = None,
) -> None:
    """Merge a LoRA adapter into its base model: a folder that transformers, sentence-transformers and vLLM load, without peft.

    With several recipes or folders, of one architecture: one model of their weights, which loads and is measured like any other
    (`mmret evaluate --checkpoint OUT`).
    """
    recipes, folders = recipe or [], checkpoint or []
    if recipes and lake is None:
        raise UserError("--recipe names a recipe of a lake: add --lake")
    if adapter is not None and recipes:
        raise UserError("--adapter and --recipe are two ways to say which adapter: leave one out")
    many = len(recipes) + len(folders) > 1 or folders or weight or method or base
    if not many:
        return _whole(out, lake, recipes, adapter, dtype)
    if adapter is not None:
        raise UserError(
            "--adapter is made whole by itself: `mmret merge --adapter FOLDER --out WHOLE`; then merge --checkpoint WHOLE"
        )
    _merged(out, lake, recipes, folders, weight or [], method or Method.linear, base, dtype)


def _whole(out: Path, lake: str | None, recipes: list[str], adapter: Path | None, dtype: str) -> None:
    from mmret.cli.terminal import say_loading

    if adapter is None and (lake is None or not recipes):
        raise UserError("say which adapter: --lake and --recipe, or --adapter")
    say_loading()
    from mmret.lake import Lake
    from mmret.retriever.models.merge import export_merged
    from mmret.retriever.train.stage import checkpoint_folder

    export_merged(adapter or checkpoint_folder(Lake(lake), recipes[0]), out, dtype)
    typer.echo(str(out))


def _merged(
    out: Path, lake: str | None, recipes: list[str], folders: list[Path], weights: list[float], method: Method, base: str | None,
    dtype: str,
) -> None:  # fmt: skip
    from mmret.cli.terminal import say_loading

    say_loading()
    from mmret.lake import Lake
    from mmret.retriever.models.load import DTYPES
    from mmret.retriever.models.merge_weights import Part, merge_checkpoints, shares
    from mmret.retriever.train.stage import trained_folder

    if dtype not in ("auto", *DTYPES):
        raise UserError(f"no dtype '{dtype}': there are auto, {', '.join(DTYPES)}")
    store = Lake(lake) if lake else None
    named = [(name, trained_folder(store, name)) for name in recipes if store]
    named += [(str(folder), folder) for folder in folders]
    each = shares(weights, len(named), method.value)
    parts = [Part(name, folder, share) for (name, folder), share in zip(named, each, strict=True)]
    found = merge_checkpoints(parts, out, method.value, _base(store, base), dtype)
    for part in parts:
        typer.echo(f"{part.weight:.4g} x {part.name}", err=True)
    if found.taken:
        others = f" and {len(found.taken) - 1} others" if len(found.taken) > 1 else ""
        typer.echo(f"note: {found.taken[0]}{others} hold whole numbers that differ: those of {parts[0].name} are taken", err=True)
    typer.echo(str(out))


def _base(store: Lake | None, base: str | None) -> Part | None:
    from mmret.paths import local_path
    from mmret.retriever.models.merge_weights import Part
    from mmret.retriever.train.stage import base_folder

    if base is None:
        return None
    folder = Path(base_folder(store, base)) if store else local_path(base, "--base")
    if not folder.is_dir():
        raise UserError(f"--base {base}: there is no folder {folder}")
    return Part(base, folder, 0.0)
