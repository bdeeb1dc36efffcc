"""``mmret export-onnx``: a CLIP checkpoint as two graphs, for ONNX or OpenVINO, checked against torch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmret.cli.lake_option import lake_option
from mmret.cli.terminal import print_json, say_loading
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.paths import local_path


class Format(StrEnum):
    onnx = "onnx"
    openvino = "openvino"


def export_onnx(
    out: Annotated[Path, typer.Option(help="folder to write; must not exist yet")],
    lake: Annotated[str | None, lake_option(" whose checkpoint is exported")] = None,
    recipe: Annotated[str | None, typer.Option(help="of the lake; default: its first")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="instead: a checkpoint folder or hub name")] = None,
    format_: Annotated[Format, typer.Option("--format", help="each needs the extra of its name")] = Format.onnx,
    as_json: Annotated[bool, typer.Option("--json", help="print what was written as JSON")] = False,
) -> None:
    """Write image.onnx and text.onnx, or image.xml and text.xml, with the processor's files."""
    say_loading()
    from mmret.retriever.models.onnx import export_onnx
    from mmret.retriever.models.openvino import export_openvino

    write, end = {Format.onnx: (export_onnx, "onnx"), Format.openvino: (export_openvino, "xml")}[format_]
    made = write(pick_checkpoint(lake, recipe, checkpoint), out)
    if as_json:
        print_json({"out": str(out), **made})
    else:
        print(
            f"{out}: image.{end} and text.{end} of {made['dim']} dimensions, {made['largest_difference']:.1e} from torch at most "
            f"(allowed: {made['tolerance']:g})"
        )


def pick_checkpoint(lake: str | None, recipe: str | None, checkpoint: str | None) -> str | Path:
    """The checkpoint that --checkpoint, or --lake and --recipe, name. Raises UserError for neither or both."""
    if (lake is None) == (checkpoint is None):
        raise UserError("give --lake (with --recipe), or --checkpoint, a folder or hub name")
    if checkpoint is not None:
        if recipe is not None:
            raise UserError("--recipe names a checkpoint of a --lake; with --checkpoint leave it out")
        return str(local_path(checkpoint, "--checkpoint"))  # a hub name stays as it is
    from mmret.lake.configuration import resolve
    from mmret.search.models import model_folder, pick_recipe

    store = Lake(lake)
    profile, _ = resolve(store)
    return model_folder(store, profile, pick_recipe(store, profile, recipe))
