"""Training in a process of its own, or several under torchrun, so that GPU memory is free when it ends.

Costs the start of that process (some 8 s, nearly all of it imports). Its log appears in the run's while it trains.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import dagster as dg

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.settings import Recipe

CHECKOUT = Path(__file__).resolve().parents[2]


def train_outside(context: dg.AssetExecutionContext, lake: Lake, name: str, recipe: Recipe) -> dict[str, Any]:
    """Train ``recipe`` in ``recipe.processes`` processes; returns the facts of the run.

    Raises UserError with what the training said, and Dagster's own error where a process died.
    """
    import torch

    from mmret.retriever.train.log import EVENTS
    from mmret.retriever.train.loop import trained_already
    from mmret.retriever.train.stage import checkpoint_folder

    folder = checkpoint_folder(lake, name)
    context.log.info(f"training {name} outside this process; TensorBoard meanwhile: {folder}.work/{EVENTS}")
    job = {
        "lake": str(lake.root),
        "name": name,
        "recipe": recipe.model_dump(mode="json"),
        "parent": os.getpid(),
        "threads": max(1, torch.get_num_threads() // recipe.processes),
    }
    with tempfile.TemporaryDirectory() as place:
        said = Path(place) / "error"
        try:
            dg.PipesSubprocessClient(cwd=str(CHECKOUT)).run(
                context=context, command=command(recipe.processes, json.dumps({**job, "error": str(said)})), env=environment()
            )
        except Exception:  # Dagster's, of no public class: a process ended otherwise than well; why, it may have said
            if not said.is_file():
                raise
        if said.is_file():
            raise UserError(said.read_text())
    return trained_already(folder)


def command(processes: int, job: str) -> list[str]:
    """One process is started as it is, several by torchrun on this machine."""
    launcher = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *launcher, "-m", "assets.external_training.process", job]


def environment() -> dict[str, str]:
    """What the child adds to this process's environment: this checkout importable, wherever it was started from."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))}
