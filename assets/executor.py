"""How the steps of a run are executed, chosen by the run: one process for all of them, or one each.

In a launchpad: ``execution: {config: {multiprocess: {max_concurrent: 2}}}``. A run that says nothing takes the environment variable
``MMRET_EXECUTOR`` of the process that starts it, else ``in_process``; nothing is read when the code location is loaded.
"""

import os
from typing import Any

import dagster as dg

from mmret.errors import UserError

CHOICES = {
    "in_process": dg.Field(
        {}, description="one process a run: models are loaded once, a step costs 0.2 s, memory is freed at its end"
    ),
    "multiprocess": dg.Field(
        {"max_concurrent": dg.Field(int, default_value=2, description="steps at once")},
        description="one process a step: for machines on which two stages of a run may work side by side",
    ),
}


def chosen(config: dict[str, Any] | None) -> dict[str, Any]:
    """The configuration of Dagster's own executor for a run's ``config``. Raises UserError for a value of MMRET_EXECUTOR that is
    none of the choices."""
    name, options = next(iter((config or {os.environ.get("MMRET_EXECUTOR") or "in_process": {}}).items()))
    if name not in CHOICES:
        raise UserError(f"MMRET_EXECUTOR={name}: choose in_process or multiprocess")
    if name == "in_process":
        return {"in_process": {}}
    start = {"forkserver": {"preload_modules": ["assets.definitions", "torch", "lancedb", "polars"]}}
    return {"multiprocess": {"max_concurrent": options.get("max_concurrent", 2), "start_method": start}}


executor = dg.multi_or_in_process_executor.configured(
    chosen, name="in_process_or_multiprocess", config_schema=dg.Field(dg.Selector(CHOICES), is_required=False)
)
