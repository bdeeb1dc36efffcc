"""Runs of a module's assets that one process records and another executes. Costs what Dagster's own ``execute_job`` does.

That one does both at once, and two processes that record their first run of the same assets at the same moment fail on Postgres:
both store what the job is, and Dagster goes on with the transaction that was refused.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.execution.api import execute_run


def assets_job(module: str, name: str) -> Any:
    """A handle of the job over every asset of the definitions called ``name`` in ``module``, by which any process builds it anew.

    Dagster's public ``reconstructable`` takes jobs that have a name of their own, and no such job has assets of different
    partitions.
    """
    return ReconstructableRepository.for_module(module, name, os.getcwd()).get_reconstructable_job(IMPLICIT_ASSET_JOB_NAME)


def record_run(
    instance: dg.DagsterInstance, job: Any, assets: Iterable[str], config: Mapping[str, Any], tags: Mapping[str, str]
) -> str:
    """The id of a new run of ``assets`` that nobody executes yet. For one process at a time."""
    keys = {dg.AssetKey(name) for name in assets}
    part = job.get_subset(asset_selection=keys)
    run = instance.create_run_for_job(
        part.get_definition(), run_config=config, tags=tags, job_code_origin=job.get_python_origin(), asset_selection=keys
    )
    return run.run_id


def execute_recorded(instance: dg.DagsterInstance, job: Any, run_id: str) -> Any:
    """Execute a run of :func:`record_run`; Dagster's result of it."""
    run = instance.get_run_by_id(run_id)
    assert run is not None, run_id
    return execute_run(job, run, instance, raise_on_error=False)
