"""The part of `mmret run`'s summary that says what a small lake can and cannot show, so that nobody judges the method by thirty
pictures: towers that have seen few of them, and a checkpoint that nothing was held out for."""

from __future__ import annotations

import shlex
from typing import Any

from rich.console import Console
from rich.text import Text

FEW_PICTURES = 1000
"""Towers trained on fewer know those alone: on thirty photos a search for other words was as good as a guess."""
OUTGROWN = 4
"""How many times as many pictures a lake has when towers trained on few are worth training anew."""


def print_expectations(summary: dict[str, Any], console: Console) -> None:
    """Print what the size of the lake means for its searches and figures, each with what to do; nothing on a lake of thousands."""
    seen, images, lake = summary["towers_trained_on"], summary["rows"]["images"], shlex.quote(summary["lake"])
    if 0 < seen < FEW_PICTURES:
        text = (
            f"towers: trained on {seen:,} pictures, so they know these and little else; every step can be looked at, but expect a "
            "search to be little better than a guess. The demo's have seen 8,000; published encoders have seen millions "
            "(--profile local)"
        )
        if images >= OUTGROWN * seen:
            text += (
                f". The lake has {images:,} pictures now, and its towers stay as they were; to train them on all, and compute what "
                f"depends on them again: mmret run --lake {lake} --set towers.seed=1"
            )
        console.print(Text(text), soft_wrap=True)
    if summary["rows"]["checkpoints"] and not summary["rows"]["evaluations"]:
        console.print(
            Text(
                f"not measured: of {summary['queries_with_pairs']:,} query images none fell into the share that is held out. "
                f"Ask questions of your own, mmret evaluate --lake {lake} --triplets FILE, or hold out more, "
                f"mmret run --lake {lake} --set evaluate.held_out=0.2"
            ),
            soft_wrap=True,
        )
