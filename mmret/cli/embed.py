"""``mmret embed``: vectors of pictures, captions, or both, from any checkpoint into Parquet or Lance."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmret.cli.export_onnx import pick_checkpoint
from mmret.paths import local_path


class What(StrEnum):
    image = "image"
    text = "text"
    composed = "composed"


class Format(StrEnum):
    parquet = "parquet"
    lance = "lance"


def embed(
    sources: Annotated[
        list[str],
        typer.Argument(help="folders, manifests, WebDataset tars, or Parquet files that hold pictures or texts; shapes:<n>"),
    ],
    out: Annotated[Path, typer.Option(help="folder (parquet) or data set (lance) to write; must not exist yet")],
    lake: Annotated[Path | None, typer.Option(help="folder of the lake whose checkpoint embeds")] = None,
    recipe: Annotated[str | None, typer.Option(help="of the lake, or 'untrained'; default: its first")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="instead: a checkpoint folder or hub name of any kind")] = None,
    what: Annotated[What, typer.Option(help="of each row: its image, its text, or both as one query")] = What.image,
    format_: Annotated[Format, typer.Option("--format")] = Format.parquet,
    query: Annotated[bool, typer.Option("--query", help="as queries: an MLLM gets its task instruction")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: the checkpoint's")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="print the counts as JSON")] = False,
) -> None:
    """Embed every row. Begun again after a crash, it goes on with the part it was at."""
    from mmret.cli.terminal import print_json, stderr_reporter
    from mmret.progress import reporting
    from mmret.retriever.embed import EmbedOptions
    from mmret.retriever.embed import embed as run

    sources = [source if source.startswith("shapes:") else str(local_path(source, "SOURCES")) for source in sources]
    options = EmbedOptions(what.value, format_.value, query, batch_size, device=device, dtype=dtype)
    with reporting(stderr_reporter("embedding")):
        counts = run(sources, pick_checkpoint(lake, recipe, checkpoint), out, options)
    if as_json:
        print_json({"out": str(out), **counts})
        return
    print(f"{out}: " + ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in counts.items() if n))
