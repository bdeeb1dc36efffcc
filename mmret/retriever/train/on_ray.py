"""Training by workers of a Ray cluster (Ray Train's TorchTrainer): one process per GPU, or CPU, of whichever nodes have them.

Ray starts the workers, makes them one process group of torch, and notices when one is lost; then all are started anew, and training
goes on from the newest state in the lake, to the weights of a run that nothing happened to. What a worker does is what a process
under torchrun does: :func:`mmret.retriever.train.stage.train_on_lake`. Ray itself keeps nothing: states, log and checkpoint are the
lake's, so the lake has to lie where all nodes see it. Costs the start of the workers, some 15 to 30 s, and again after a loss.
"""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmret.errors import UserError
from mmret.ray_cluster import address_to_join, is_dashboard, jobs_at, require
from mmret.retriever.train.stage import TrainingJob
from mmret.retriever.train.trainer import OnRow

LOSSES_IN_A_ROW = 3
"""A run ends where workers were lost so many times without a row of the log in between."""
START_S = 900
"""Workers that have not begun by then are begun anew; Ray's own 60 s are too few where many import torch from one disk."""
Say = Callable[[str], None]


def submit(command: list[str], address: str, say: Say) -> None:
    """Run ``command``, arguments of ``mmret``, as a job of the cluster whose dashboard is at ``address``, and pass on its lines.

    For machines that are no node of the cluster. Raises UserError where the cluster does not answer, and where the job fails: its
    lines have said why. Stopped with Ctrl-C, it stops the job.
    """
    import asyncio
    import shlex

    from ray.job_submission import JobStatus

    client = jobs_at(address)

    async def follow() -> None:
        async for text in client.tail_job_logs(job):
            for line in text.splitlines():
                say(line)

    try:
        job = client.submit_job(entrypoint=shlex.join(["python", "-m", "mmret", *command]))
        say(f"job {job} on {address}")
        try:
            asyncio.run(follow())
        except KeyboardInterrupt:
            with suppress(Exception):  # the cluster may be what went away
                client.stop_job(job)
            raise
        status = client.get_job_status(job)
    except (OSError, RuntimeError) as error:  # those of requests and aiohttp are one of them
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the Ray cluster at {address} answers no more ({said}); a job that it began goes on there, and the same command later "
            "goes on from its newest state"
        ) from None
    if status == JobStatus.RUNNING:
        raise UserError(f"its lines broke off; the Ray job {job} goes on: {address}/#/jobs/{job}")
    if status != JobStatus.SUCCEEDED:
        raise UserError(f"the Ray job {job} ended as {status}; its lines above say why, as does {address}/#/jobs/{job}")


def train_on_ray(job: TrainingJob, on_row: OnRow | None = None, say: Say = lambda line: None, address: str | None = None) -> Any:
    """Train ``job`` by ``job.recipe.workers`` workers; returns the facts of the run.

    ``address``: of the cluster's head, as Ray writes it (``10.0.0.1:6379``); None: that of the environment; ``auto``: the one that
    this machine is a node of; ``local``: begun for this. Raises UserError with the message of a mistake that a worker reports,
    where no cluster is named or answers, and where workers are lost again and again.
    """
    require("ray")
    address = address_to_join(address)
    if is_dashboard(address):
        raise UserError(
            f"this machine is no node of the cluster at {address}, so it cannot train there: "
            f"`mmret train --lake {job.lake.address} --recipe {job.name} --on ray:{address}`; `mmret run` then records it"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_S))
    import ray
    from ray.train import TrainingFailedError
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level="warning", include_dashboard=False)
        except ConnectionError as error:
            raise UserError(f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}") from None
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    letters = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    news = _News(letters, on_row, say)
    try:
        lost = 0
        while True:
            before = news.rows
            say(_wanted(job, ray.cluster_resources()))
            try:
                _fit(job, letters)
                return news.end()
            except TrainingFailedError as error:
                if mistake := _mistake(error):
                    raise UserError(mistake) from None
                lost = 1 if news.rows > before else lost + 1
                if lost >= LOSSES_IN_A_ROW:
                    if _is_fault(error):
                        raise
                    raise UserError(
                        f"workers were lost {lost} times without a row of the log in between, at last so: {_last_line(error)}; "
                        "the newest state is kept, and the same command goes on from there"
                    ) from None
                say(f"a worker was lost ({_last_line(error)}); starting anew from the newest state")
    finally:
        news.stop()
        with suppress(Exception):
            letters.shutdown(force=True)


def _fit(job: TrainingJob, letters: Any) -> None:
    """One start of the workers. Raises Ray's TrainingFailedError where one is lost or fails."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from mmret.retriever.train.parallel import PATIENCE

    recipe = job.recipe
    folder = job.lake.scratch / ".ray-train"  # Ray wants one; nothing of the run is in it
    gpus = ray.cluster_resources().get("GPU", 0) > 0
    resources = {"CPU": recipe.worker_cpus, **({"GPU": 1} if gpus else {})}
    try:
        TorchTrainer(
            _work,
            train_loop_config={"job": job.to_json(), "letters": letters, "folder": os.getcwd()},
            torch_config=TorchConfig(timeout_s=int(PATIENCE.total_seconds())),
            scaling_config=ScalingConfig(num_workers=recipe.workers, use_gpu=gpus, resources_per_worker=resources),
            run_config=RunConfig(
                name=f"{job.name}-{uuid.uuid4().hex[:8]}", storage_path=str(folder), failure_config=FailureConfig(max_failures=0)
            ),
        ).fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _work(task: dict[str, Any]) -> None:
    """What one worker does; the first one sends ``("row" | "line" | "facts", value)`` to whoever started it."""
    if Path(task["folder"]).is_dir():
        os.chdir(task["folder"])  # relative paths of the recipe are those of the command
    import torch

    from mmret.progress import reporting
    from mmret.progress_reports import Loop, Schedule
    from mmret.retriever.train.parallel import Group
    from mmret.retriever.train.stage import TrainingJob, train_on_lake

    job, letters = TrainingJob.from_json(task["job"]), task["letters"]
    torch.set_num_threads(job.recipe.worker_cpus)
    with Group.join() as group:
        tell = [(Schedule(10, 60), lambda report: letters.put(("line", report.line())))] if group.first else []
        with reporting(Loop(tell)):
            facts = train_on_lake(job, lambda row: letters.put(("row", row)), group)
        if group.first:
            letters.put(("facts", facts))


class _News:
    """Passes on what the first worker sends, from a thread; counts the rows."""

    def __init__(self, letters: Any, on_row: OnRow | None, say: Say):
        self.letters, self.on_row, self.say = letters, on_row, say
        self.rows, self.facts = 0, None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with suppress(Exception):  # the queue is gone: the run has ended
            while True:
                kind, value = self.letters.get()
                if kind == "row":
                    self.rows += 1
                    if self.on_row:
                        self.on_row(value)
                elif kind == "line":
                    self.say(value)
                elif kind == "facts":
                    self.facts = value
                else:
                    return

    def end(self) -> Any:
        """The facts, after everything that was sent before them."""
        self.stop()
        return self.facts

    def stop(self) -> None:
        if self.thread.is_alive():
            with suppress(Exception):
                self.letters.put(("end", None), timeout=10)
            self.thread.join(30)


def _mistake(error: Exception) -> str | None:
    """The message of the UserError that a worker ended with, if it did."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, UserError):
                return str(cause)
            cause = getattr(cause, "_base_exc", None) or cause.__cause__ or getattr(cause, "cause", None)
    return None


def _is_fault(error: Exception) -> bool:
    """Whether workers ended with an error of the code, not by being lost."""
    return any(hasattr(failure, "_traceback_str") for failure in getattr(error, "worker_failures", {}).values())


def _last_line(error: Exception) -> str:
    line = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
    return line.partition(". ")[0][:200]  # Ray goes on to guess at the cause


def _wanted(job: TrainingJob, there: dict[str, float]) -> str:
    recipe, gpus = job.recipe, int(there.get("GPU", 0))
    each = f"{recipe.worker_cpus} CPU" + ("s" if recipe.worker_cpus > 1 else "") + (" and a GPU" if gpus else "")
    line = f"training {job.name} by {recipe.workers} workers of {each} each"
    cpus = int(there.get("CPU", 0))
    if cpus < recipe.workers * recipe.worker_cpus or 0 < gpus < recipe.workers:
        has = f"{cpus} CPUs" + (f" and {gpus} GPUs" if gpus else "")
        line += f"; the cluster has {has} in all, so this waits for more nodes"
    return line
