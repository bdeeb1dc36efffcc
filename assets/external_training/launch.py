"""Training in a process of its own, or several under torchrun, so that GPU memory is free when it ends; or on a Ray cluster.

Costs the start of that process (some 8 s, nearly all of it imports). Its log appears in the run's while it trains.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from mmret.errors import UserError

if TYPE_CHECKING:
    from mmret.retriever.train.stage import TrainingJob

CHECKOUT = Path(__file__).resolve().parents[2]


def train_outside(context: dg.AssetExecutionContext, job: "TrainingJob") -> dict[str, Any]:
    """Train ``job`` in ``job.recipe.processes`` processes; returns the facts of the run.

    Raises UserError with the message of a mistake that the training reports, and Dagster's own error where a process died.
    """
    import torch

    from mmret.retriever.train.log import EVENTS
    from mmret.retriever.train.loop import finished_run

    processes = job.recipe.processes
    context.log.info(f"training {job.name} outside this process; TensorBoard meanwhile: {job.place.work / EVENTS}")
    task = {**job.to_json(), "parent": os.getpid(), "threads": max(1, torch.get_num_threads() // processes)}
    with tempfile.TemporaryDirectory() as place:
        message = Path(place) / "error"
        try:
            dg.PipesSubprocessClient(cwd=str(CHECKOUT)).run(
                context=context, command=command(processes, json.dumps({**task, "error": str(message)})), env=environment()
            )
        except Exception:  # of no public class of Dagster's: the process failed, and may have left a message that says why
            if not message.is_file():
                raise
        if message.is_file():
            raise UserError(message.read_text())
    return finished_run(job.place)


def train_on_cluster(context: dg.AssetExecutionContext, job: "TrainingJob") -> dict[str, Any]:
    """Train ``job`` by ``job.recipe.workers`` workers of the Ray cluster at RAY_ADDRESS.

    Raises UserError with the message of a mistake that the training reports.
    """
    from mmret.retriever.train.log import log_line
    from mmret.retriever.train.on_ray import train_on_ray

    return train_on_ray(job, lambda row: context.log.info(log_line(row)), context.log.info)


def command(processes: int, job: str) -> list[str]:
    """Command line that trains ``job``: a Python process, or torchrun with several on this machine."""
    launcher = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *launcher, "-m", "assets.external_training.process", job]


def environment() -> dict[str, str]:
    """Variables added to the environment of the child, so that it can import this checkout whatever folder it starts in."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))}
