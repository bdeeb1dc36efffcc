"""The ``mmret`` command: one file per sub-command. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import sys

import typer

from mmret.cli.benchmark import benchmark
from mmret.cli.evaluate import evaluate
from mmret.cli.export import export
from mmret.cli.run import run
from mmret.cli.score import score
from mmret.cli.search import search
from mmret.cli.sql import sql
from mmret.errors import UserError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False,
                  help="From a folder of captioned images to a trained and evaluated universal multimodal retriever.")
for command in (run, sql, search, evaluate, score, benchmark, export):
    app.command()(command)


def main() -> None:
    """Entry point: what the user can mend is one message on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
