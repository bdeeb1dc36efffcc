"""The ``mmret`` command: one file per sub-command, of which only the one that was asked for is loaded.

Heavy libraries are imported inside the functions that need them. Costs the import of typer.
"""

from __future__ import annotations

import typer

from mmret.cli.command import run_application
from mmret.cli.loaded_commands import group_of

COMMANDS = {
    "run": "Register new shards and materialise what is missing or stale. Run again, it does nothing.",
    "status": "Say per stage how many partitions are current, stale or missing, and why. Computes nothing.",
    "backfill": "Launch a backfill of what is missing or stale in a running Dagster UI (`make ui`).",
    "estimate": "Requests, tokens, money and time that annotating the mined pairs, and the judge of recipes, would take. Nothing "
    "is sent.",
    "quality": "How varied the instructions are, how long, what they leak, and whether half a query finds its target.",
    "sql": "Ask SQL of the lake's tables; docs/sql.md has worked queries. Without a query: a shell, or statements from "
    "standard input.",
    "diff": "Say what differs between two states of a lake: rows added, gone and changed per table, and why.",
    "bands": "Per signal: scores of the neighbours, share in the band, overlap with the other signals, and a proposed band; "
    "and what the chosen pairs change, as their captions tell.",
    "search": "Find images of the corpus. The query image itself, where it is in the corpus, is left out.",
    "serve": "Answer searches over HTTP: by text, picture or both, with filters, pages and batches.",
    "evaluate": "Recall at 1, 5, 10 and 50, the reference image removed, beside the untrained model; and every other kind of "
    "query, and how robust the answers are, as they were measured when the checkpoint was.",
    "score": "Score a prediction file by the benchmark's official rules; all figures in percent.",
    "benchmark": "Run a checkpoint on a benchmark: composed queries, and image and text alone, beside the published models.",
    "study": "Train and evaluate what is missing of the studies, seed after seed, and compare.",
    "train": "Train one recipe on the lake's triplets, without Dagster. Continues where a killed one stopped.",
    "teach": "Write table `teacher_scores`: what a teacher says of every training triplet's target and hard negatives.",
    "check": "Write table `verdicts`: which texts do not lead to their target, and which hard negatives a text asks for.",
    "merge": "Merge a LoRA adapter into its base model: a folder that transformers, sentence-transformers and vLLM load, "
    "without peft.",
    "embed": "Embed every row. Begun again after a crash, it goes on with the part it was at.",
    "export": "Write the data set to a folder, whole or not at all; begun again, it continues where it stopped.",
    "export-onnx": "Write image.onnx and text.onnx, or image.xml and text.xml, with the processor's files.",
    "card": "Describe the data set, or with --recipe a trained model, from what the lake's tables say.",
    "compact": "Keep a lake small and fast: merge small files, drop old versions that no reader, checkpoint or `--as-of` needs "
    "any more.",
    "import": "Import released triplets, to train on them beside the lake's own. Begun again, it continues where it stopped.",
    "register": "Start a server of a model (vLLM's, llama.cpp's, any that speaks OpenAI's API) and make it known in the lake "
    "while it runs.",
    "gallery": "Browse triplets, see where each came from, accept or reject them, and search with any checkpoint.",
}
"""Every command in the order of the help, with what that says of it: the first paragraph of its function's docstring."""

app = typer.Typer(cls=group_of(COMMANDS), no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def commands() -> None:
    """From a folder of captioned images to a trained and evaluated universal multimodal retriever."""


def main() -> None:
    """Entry point; :mod:`mmret.cli.command` says how errors are told."""
    run_application(app)
