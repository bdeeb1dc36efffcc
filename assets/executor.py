"""How the steps of a run are executed, chosen by the run: one process for all of them, one each, or on a Ray cluster.

In a launchpad: ``execution: {config: {multiprocess: {max_concurrent: 2}}}``. A run that says nothing takes the environment variable
``MMRET_EXECUTOR`` of the process that starts it, else what a deployment's file ``$DAGSTER_HOME/executor.yaml`` says in the same
words, else ``in_process``; nothing is read when the code location is loaded.
"""

import os
from pathlib import Path
from typing import Any

import dagster as dg

from mmret.errors import UserError

FILE = "executor.yaml"
_RAY = {
    "address": dg.Field(
        dg.Noneable(dg.StringSource), is_required=False, description="of the head, as http://head:8265; without it: RAY_ADDRESS"
    ),
    "env": dg.Field([str], is_required=False, description="variables that steps get too: NAME, or NAME=VALUE. No secrets"),
    "runtime_env": dg.Field(dg.Permissive(), is_required=False, description="Ray's runtime environment of each step"),
    "gpus": dg.Field(
        dg.Enum("Gpus", [dg.EnumValue(name) for name in ("where there are any", "always", "never")]),
        is_required=False,
        description="who gets GPUs of the stages that use them",
    ),
    "stages": dg.Field(
        dg.Map(str, dg.Map(str, float)),
        is_required=False,
        description="by stage: cores, gpus, memory (GiB) of its steps",
    ),
    "check_every": dg.Field(int, is_required=False, description="seconds between two looks at whether the nodes live"),
}
CHOICES = {
    "in_process": dg.Field(
        {}, description="one process a run: models are loaded once, a step costs 0.2 s, memory is freed at its end"
    ),
    "multiprocess": dg.Field(
        {"max_concurrent": dg.Field(int, default_value=2, description="steps at once")},
        description="one process a step: for machines on which two stages of a run may work side by side",
    ),
    "ray": dg.Field(_RAY, description="one Ray job a step, on whichever node has the cores, GPUs and memory (docs/cluster.md)"),
}


def chosen(config: dict[str, Any] | None, home: str | None = None) -> dict[str, Any]:
    """``{name: options}`` for a run's ``config``; ``home``: where a deployment's file may lie. Raises UserError for a value of
    MMRET_EXECUTOR, or a file, that is none of the choices."""
    if config:
        return config
    if named := os.environ.get("MMRET_EXECUTOR"):
        if named not in CHOICES:
            raise UserError(f"MMRET_EXECUTOR={named}: choose one of {', '.join(CHOICES)}")
        return {named: _of_file(home).get(named) or {}}
    return _of_file(home) or {"in_process": {}}


def _of_file(home: str | None) -> dict[str, Any]:
    path = Path(home, FILE) if home else None
    if path is None or not path.is_file():
        return {}
    import yaml

    try:
        found = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(found, dict) or len(found) != 1 or not set(found) <= set(CHOICES):
        raise UserError(f"{path}: one of {', '.join(CHOICES)}, with its options, as in `ray: {{address: http://head:8265}}`")
    ((name, options),) = found.items()
    there_are = set(_RAY) if name == "ray" else {"max_concurrent"} if name == "multiprocess" else set()
    if unknown := sorted(set(options or {}) - there_are):
        raise UserError(f"{path}: {name} has no option {', '.join(unknown)}; it has {', '.join(sorted(there_are)) or 'none'}")
    return {name: options or {}}


def _requirements(config: dict[str, Any]) -> list[dg.ExecutorRequirement]:
    """Known of a run that says what it wants; of one that does not, the executor itself says when it begins."""
    return [] if set(config or {}) <= {"in_process"} else dg.multiple_process_executor_requirements()


@dg.executor(name="chosen_by_the_run", config_schema=dg.Field(dg.Selector(CHOICES), is_required=False), requirements=_requirements)
def executor(init_context: dg.InitExecutorContext) -> dg.Executor:
    """One process, one process a step, or a Ray cluster."""
    ((name, options),) = chosen(dict(init_context.executor_config), init_context.instance.root_directory).items()
    if name == "ray":
        try:
            from assets.cluster.demand import Options
            from assets.cluster.steps import ray_steps
        except ModuleNotFoundError as error:
            raise UserError(f"a Ray cluster needs the extra `cluster` ({error}): uv pip install -e '.[cluster]'") from None
        return ray_steps(Options.of(options))
    return dg.multi_or_in_process_executor.executor_creation_fn(init_context._replace(executor_config=dagsters_own(name, options)))


def dagsters_own(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The whole configuration of Dagster's own executor of that name: it fills in nothing for those who call it."""
    again = {"retries": {"enabled": {}}}
    if name == "in_process":
        return {"in_process": again}
    start = {"forkserver": {"preload_modules": ["assets.definitions", "torch", "lancedb", "polars"]}}
    return {"multiprocess": {"max_concurrent": options.get("max_concurrent", 2), "start_method": start, **again}}
