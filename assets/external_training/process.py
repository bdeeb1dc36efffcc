"""The process that trains outside Dagster's: ``python -m assets.external_training.process JOB``, or the same under torchrun.

JOB is JSON: a :class:`mmret.retriever.train.stage.TrainingJob`, and parent (process id), threads, error (the file that gets the
message of a mistake the user can correct). The first process reports through Dagster Pipes, each row of the training log as it is
written; the others only compute. All of them end when the parent does, however it ended. Needs ``dagster_pipes``, a package of one
file, and not ``dagster``.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from mmret.errors import UserError

POLL_SECONDS = 1.0


def exit_with_parent(parent: int) -> None:
    """End this process within about a second of the end of ``parent``, without clean-up: files on disk are complete anyway."""

    def watch() -> None:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(parent)
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def train_job(job: dict[str, Any]) -> None:
    """Train the job's recipe, or this process's share of it where there are several."""
    exit_with_parent(job["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    import torch

    from mmret.progress import reporting
    from mmret.progress_reports import Loop, Schedule
    from mmret.retriever.train.log import log_line
    from mmret.retriever.train.parallel import Group
    from mmret.retriever.train.stage import TrainingJob, train_on_lake

    torch.set_num_threads(job["threads"])
    try:
        with Group.join() as group, reporter(group.first) as pipes:
            tell = [(Schedule(10, 60), lambda report: pipes.log.info(report.line()))] if group.first else []
            with reporting(Loop(tell)):
                train_on_lake(TrainingJob.from_json(job), lambda row: pipes.log.info(log_line(row)), group)
    except UserError as error:  # not raised: the parent raises it, with this message
        Path(job["error"]).write_text(str(error))


def reporter(first: bool) -> contextlib.AbstractContextManager:
    """The Pipes session of the process that reports, nothing for the others."""
    from dagster_pipes import open_dagster_pipes

    return open_dagster_pipes() if first else contextlib.nullcontext()


if __name__ == "__main__":
    train_job(json.loads(sys.argv[1]))
