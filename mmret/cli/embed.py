"""``mmret embed``: vectors of pictures, captions, or both, from any checkpoint into Parquet or Lance."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmret.cli.export_onnx import pick_checkpoint
from mmret.cli.lake_option import lake_option
from mmret.errors import UserError
from mmret.paths import local_path


class What(StrEnum):
    image = "image"
    text = "text"
    composed = "composed"


class Format(StrEnum):
    parquet = "parquet"
    lance = "lance"


class Precision(StrEnum):
    float32 = "float32"
    float16 = "float16"
    int8 = "int8"
    binary = "binary"


def embed(
    sources: Annotated[
        list[str],
        typer.Argument(help="folders, manifests, WebDataset tars, or Parquet files that hold pictures or texts; shapes:<n>"),
    ],
    out: Annotated[Path, typer.Option(help="folder (parquet) or data set (lance) to write; must not exist yet")],
    lake: Annotated[str | None, lake_option(" whose checkpoint embeds")] = None,
    recipe: Annotated[str | None, typer.Option(help="of the lake, or 'untrained'; default: its first")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="instead: a checkpoint folder or hub name of any kind")] = None,
    what: Annotated[What, typer.Option(help="of each row: its image, its text, or both as one query")] = What.image,
    format_: Annotated[Format, typer.Option("--format")] = Format.parquet,
    query: Annotated[bool, typer.Option("--query", help="as queries: an MLLM gets its task instruction")] = False,
    dimensions: Annotated[
        int | None,
        typer.Option(min=1, help="keep the first so many, of unit length; for checkpoints trained with matryoshka"),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="of the vectors written; int8 has a column scale, binary the bits of the signs")
    ] = Precision.float32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    devices: Annotated[
        str | None, typer.Option(help="instead: cuda:0,cuda:1 and so on, a process with its own copy of the model on each")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="so many processes, over the devices in turn; on the CPU they share its cores")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="what the model computes in: float32, bfloat16 or float16; default: the checkpoint's")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="rows in one forward pass, of each process")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="print the counts as JSON")] = False,
) -> None:
    """Embed every row. Begun again after a crash, it goes on with the part it was at."""
    from mmret.cli.terminal import print_json, say_loading, stderr_reporter
    from mmret.progress import reporting

    if devices is not None and device != "auto":
        raise UserError("give --device or --devices, not both")
    names = tuple(name.strip() for name in (devices or "").split(",") if name.strip())
    if devices is not None and not names:
        raise UserError("--devices is empty: give names like cuda:0,cuda:1")
    sources = [source if source.startswith("shapes:") else str(local_path(source, "SOURCES")) for source in sources]
    say_loading()
    from mmret.retriever.embed import EmbedOptions
    from mmret.retriever.embed import embed as run
    from mmret.retriever.models.checkpoint import trained_dimensions

    options = EmbedOptions(
        what.value, format_.value, query, batch_size, device=device, dtype=dtype, dimensions=dimensions, precision=precision.value,
        devices=names, processes=processes,
    )  # fmt: skip
    chosen = pick_checkpoint(lake, recipe, checkpoint)
    with reporting(stderr_reporter("embedding")):
        counts = run(sources, chosen, out, options)
    trained = trained_dimensions(chosen)
    if dimensions and trained is not None and dimensions not in trained:
        said = f"for {', '.join(map(str, trained))}" if trained else "for whole vectors alone"
        print(f"note: {chosen} was trained {said}: its first {dimensions} dimensions may rank badly by themselves", file=sys.stderr)
    if as_json:
        print_json({"out": str(out), **counts})
        return
    print(f"{out}: " + ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in counts.items() if n))
