"""The ``mmret`` command: one file per sub-command. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import typer

from mmret.cli.backfill import backfill
from mmret.cli.bands import bands
from mmret.cli.benchmark import benchmark
from mmret.cli.card import card
from mmret.cli.check import check
from mmret.cli.command import Command, run_application
from mmret.cli.compact import compact
from mmret.cli.diff import diff
from mmret.cli.embed import embed
from mmret.cli.estimate import estimate
from mmret.cli.evaluate import evaluate
from mmret.cli.export import export
from mmret.cli.export_onnx import export_onnx
from mmret.cli.gallery import gallery
from mmret.cli.import_ import import_
from mmret.cli.merge import merge
from mmret.cli.quality import quality
from mmret.cli.register import register
from mmret.cli.run import run
from mmret.cli.score import score
from mmret.cli.search import search
from mmret.cli.serve import serve
from mmret.cli.sql import sql
from mmret.cli.status import status
from mmret.cli.study import study
from mmret.cli.teach import teach
from mmret.cli.train import train

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="From a folder of captioned images to a trained and evaluated universal multimodal retriever.",
)
for subcommand in (
    run,
    status,
    backfill,
    estimate,
    quality,
    sql,
    diff,
    bands,
    search,
    serve,
    evaluate,
    score,
    benchmark,
    study,
    train,
    teach,
    check,
    merge,
    embed,
    export,
    export_onnx,
    card,
    compact,
    import_,
    register,
    gallery,
):
    app.command(subcommand.__name__.rstrip("_").replace("_", "-"), cls=Command)(subcommand)


def main() -> None:
    """Entry point; :mod:`mmret.cli.command` says how errors are told."""
    run_application(app)
