"""``mmret benchmark``: a checkpoint on a benchmark's pictures, with protocol, baselines, published rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmret.cli.lake_option import lake_option
from mmret.cli.score import Benchmark, Gallery


def benchmark(
    name: Annotated[Benchmark, typer.Argument(help="which benchmark")],
    images: Annotated[Path, typer.Option(help="its pictures, in the official layout")],
    annotations: Annotated[Path, typer.Option(help="its annotations: a file, or a folder in the official layout")],
    checkpoint: Annotated[Path, typer.Option(help="a checkpoint of ours, a BGE-VL folder, or any CLIP folder")],
    lake: Annotated[str | None, lake_option(" that keeps embeddings and rows of `evaluations`")] = None,
    out: Annotated[Path | None, typer.Option(help="write predictions, submission files, tables and a picture here")] = None,
    recipe: Annotated[str | None, typer.Option(help="name of the model in tables; default: the checkpoint's folder")] = None,
    template: Annotated[str | None, typer.Option(help="how queries are worded; default: the pinned one")] = None,
    gallery: Annotated[Gallery, typer.Option(help="fashioniq: union = references and targets only; easier")] = Gallery.original,
    allow_missing: Annotated[bool, typer.Option(help="score without missing pictures; every table says so")] = False,
    paraphrases: Annotated[bool, typer.Option(help="also the spread over other wordings of the queries")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="pictures per forward pass")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of tables")] = False,
) -> None:
    """Run a checkpoint on a benchmark: composed queries, and image and text alone, beside the published models."""
    from mmret.cli.terminal import console, print_json, say_loading

    say_loading()
    from rich.markdown import Markdown

    from mmret.benchmarks.common.reports import markdown, record, summary, write_files
    from mmret.benchmarks.common.runs import RunOptions
    from mmret.benchmarks.run import run_checkpoint
    from mmret.lake import Lake

    options = RunOptions(images, annotations, template, allow_missing, paraphrases, gallery.value)
    store = Lake(lake) if lake else None
    run = run_checkpoint(name.value, checkpoint, options, store, batch_size)
    label = recipe or checkpoint.name or str(checkpoint)
    if store:
        record(store, run, label)
    written = write_files(run, label, out) if out else []
    if as_json:
        print_json({**summary(run), "files": [str(p) for p in written]}, indent=2)
        return
    out_console, text = console(), markdown({label: run})
    out_console.print(Markdown(text) if out_console.is_terminal else text, markup=False)  # in a file or a pipe: Markdown as it is
    for path in written:
        typer.echo(f"wrote {path}", err=True)
