"""Steps as Ray jobs, by dagster-ray: where each runs is Ray's to say, from the cores, GPUs and memory of its stage and shard.

A step costs one to two seconds of Ray and a fork (:mod:`assets.cluster.step`). What its process needs of the environment
(credentials, where Postgres is) is that of the node, as `ray start` found it: a job's own would be shown to whoever sees the
cluster's dashboard.
"""

import logging
import time
from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster_ray.core.executor import CheckStepHealthResult, RayStepHandler
from ray.job_submission import JobStatus, JobSubmissionClient

from assets.cluster.demand import Options, demand
from assets.cluster.nodes import Asked, Nodes
from assets.dagster_internals.step_delegation import WatchedSteps
from mmret.ray_cluster import jobs_at
from resources.lake import lake_folder

UNREACHABLE_S = 300.0
"""So long a cluster may give no answer until a step counts as lost; it may only have been cut off."""
_ENDED = {JobStatus.SUCCEEDED, JobStatus.STOPPED}
_SILENT_CHECKS = 3  # looks at a job that ended without a word of its step, until that is lost: events take a moment


_AGAIN_S = 5.0


class _Asking:
    """A client whose jobs ask for ``asked``, whatever the op's tags say: they know nothing of shards, nor of what nodes have.
    What they run is a child of the node's starter."""

    def __init__(self, client: JobSubmissionClient):
        self._client, self.asked = client, Asked(1.0, 0.0, 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def submit_job(self, **job: Any) -> str:
        """Tries again while the cluster cannot be reached, as it is while a health check waits for it."""
        asks = {"cpus": self.asked.cores, "gpus": self.asked.gpus or None}
        demand = {f"entrypoint_num_{name}": value for name, value in asks.items()} | {"entrypoint_memory": self.asked.memory}
        entrypoint = f"python -m assets.cluster.step {job['entrypoint']}"
        end, tried = time.monotonic() + UNREACHABLE_S, False
        while True:
            try:
                return self._client.submit_job(**job | demand | {"entrypoint": entrypoint})
            except OSError:  # those of requests are
                if time.monotonic() > end:
                    raise
                tried = True
                time.sleep(_AGAIN_S)
            except RuntimeError as error:
                if tried and "already exists" in str(error):  # the answer to an earlier try was lost
                    return job["submission_id"]
                raise


class ShardSteps(RayStepHandler):
    """Submits the steps of one run and tells how they fare."""

    def __init__(self, client: JobSubmissionClient, options: Options):
        super().__init__(_Asking(client), list(options.env), dict(options.runtime_env), None, None, None, None)
        self._options, self._nodes = options, Nodes(client)
        self.under_way: set[str] = set()
        self._jobs: dict[str, str] = {}
        self._silent: dict[str, int] = {}
        self._heard = time.monotonic()

    def launch_step(self, step_handler_context: Any) -> Iterator[dg.DagsterEvent]:
        key = self._get_step_key(step_handler_context)
        asked = demand(key, step_handler_context.dagster_run, self._options, self._nodes)
        self.client.asked = asked
        self.env_vars = [*self._options.env, f"MMRET_LAKE={lake_folder()}"]
        self._stop(self._jobs.get(key))  # an earlier try that was given up may still run
        self._jobs[key] = self._get_ray_job_submission_id(step_handler_context)
        self.under_way.add(key)
        self._silent.pop(key, None)
        if unmet := self._nodes.cannot_have(asked):
            waits = f"{key} waits for a node with {asked}: {unmet}"
            dg.DagsterEvent.engine_event(step_handler_context.get_step_context(key), waits)
        yield from super().launch_step(step_handler_context)
        self._heard = time.monotonic()

    def check_step_health(self, step_handler_context: Any) -> CheckStepHealthResult:
        key = self._get_step_key(step_handler_context)
        job = self._jobs.get(key) or self._get_ray_job_submission_id(step_handler_context)
        try:
            found = self.client.get_job_info(job)
        except Exception as error:
            if "does not exist" in str(error):
                return CheckStepHealthResult.unhealthy(f"the Ray cluster knows nothing of {job}: its head was started anew")
            if time.monotonic() - self._heard < UNREACHABLE_S:
                return CheckStepHealthResult.healthy()
            return CheckStepHealthResult.unhealthy(
                f"the Ray cluster has not answered for {UNREACHABLE_S / 60:.0f} minutes ({error})"
            )
        self._heard = time.monotonic()
        if found.status == JobStatus.FAILED:
            return CheckStepHealthResult.unhealthy(f"its Ray job {job} failed: {' '.join((found.message or '').split())[:500]}")
        if found.status in _ENDED:
            self._silent[key] = self._silent.get(key, 0) + 1
            if self._silent[key] >= _SILENT_CHECKS:
                return CheckStepHealthResult.unhealthy(f"its Ray job {job} is {found.status} and said nothing of the step's end")
        return CheckStepHealthResult.healthy()

    def stop_all(self) -> None:
        for key in sorted(self.under_way):
            self._stop(self._jobs.get(key))

    def _stop(self, job: str | None) -> None:
        if job is None:
            return
        try:
            self.client.stop_job(job)
        except Exception as error:  # ended, forgotten by the cluster, or nobody there to ask: it is given up all the same
            logging.getLogger(__name__).debug("job %s was not stopped: %s", job, error)


def ray_steps(options: Options) -> WatchedSteps:
    """The executor of a run on the cluster that ``options`` name. Raises UserError where it does not answer."""
    return WatchedSteps(ShardSteps(jobs_at(options.address), options), options.check_every)
