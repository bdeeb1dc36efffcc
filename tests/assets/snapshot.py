"""``python -m tests.assets.snapshot``: writes ``definitions.txt``, what the graph consists of, one line a fact. Some seconds.

A change of the graph is then a change of that file, which a reviewer reads; what is declared in ``assets/defs`` is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

FILE = Path(__file__).with_name("definitions.txt")
RENEW = ".venv/bin/python -m tests.assets.snapshot"


def described(defs: dg.Definitions) -> str:
    """Every asset, check, job, schedule, sensor and resource of ``defs``, each in the order of its name."""
    repository, graph = defs.get_repository_def(), defs.resolve_asset_graph()
    lines = [f"# What the graph consists of. After an intended change: {RENEW}"]
    for key in sorted(graph.get_all_asset_keys(), key=_name):
        lines += ["", f"asset {_name(key)}", *_facts(_asset(graph.get(key)))]
        for check in sorted(graph.get(key).check_keys, key=lambda check: check.name):
            lines.append(f"  check {check.name}{_check(graph.get_check_spec(check))}")
    for job in sorted(repository.get_all_jobs(), key=lambda job: job.name):
        if not job.name.startswith("__"):
            lines += ["", f"job {job.name}", *_facts(_job(job))]
    for schedule in sorted(repository.schedule_defs, key=lambda each: each.name):
        lines += ["", f"schedule {schedule.name}", *_facts(_schedule(schedule))]
    for sensor in sorted(repository.sensor_defs, key=lambda each: each.name):
        lines += ["", f"sensor {sensor.name}", *_facts(_sensor(sensor))]
    lines += ["", *(f"resource {name}: {type(each).__name__}" for name, each in sorted((defs.resources or {}).items()))]
    return "\n".join([*lines, f"executor {defs.executor.name}", ""])


def _name(key: dg.AssetKey) -> str:
    return key.to_user_string()


def _facts(facts: dict[str, Any]) -> Iterator[str]:
    """``name: value`` of those that say something."""
    for name, value in facts.items():
        if isinstance(value, set | frozenset):
            value = ", ".join(sorted(value))
        if value:
            yield f"  {name}: {value}"


def _partitions(definition: dg.PartitionsDefinition | None) -> str | None:
    return getattr(definition, "name", None) or (type(definition).__name__ if definition else None)


def _asset(node: Any) -> dict[str, Any]:
    every = {key for key, mapping in node.partition_mappings.items() if isinstance(mapping, dg.AllPartitionMapping)}
    policy = node.freshness_policy
    return {
        "group": node.group_name,
        "deps": ", ".join(f"{_name(key)} (every partition)" if key in every else _name(key) for key in sorted(node.parent_keys)),
        "partitions": _partitions(node.partitions_def),
        "pool": node.pools,
        "kinds": node.kinds,
        "owners": set(node.owners),
        "tags": {f"{key}={value}" for key, value in node.tags.items() if not key.startswith("dagster/kind/")},
        "version": node.code_version,
        "runs by itself": node.automation_condition and node.automation_condition.get_label(),
        "shards a run": node.backfill_policy and node.backfill_policy.max_partitions_per_run,
        "freshness": policy and type(policy).__name__,
    }


def _check(spec: dg.AssetCheckSpec) -> str:
    said = ["blocking"] * spec.blocking + [f"by {name}" for name in [_partitions(spec.partitions_def)] if name]
    return f" ({', '.join(said)})" if said else ""


def _job(job: dg.JobDefinition) -> dict[str, Any]:
    assets = {_name(key) for key in job.asset_layer.selected_asset_keys}
    steps = {node.name for node in job.nodes} if not assets else set()
    checks = job.asset_layer.asset_graph.asset_check_keys if not assets else ()
    return {
        "assets": assets,
        "steps": f"{len(checks)} checks" if checks and len(steps) > 3 else steps,
        "partitions": _partitions(job.partitions_def),
    }


def _schedule(schedule: dg.ScheduleDefinition) -> dict[str, Any]:
    return {"cron": schedule.cron_schedule, "job": schedule.job_name, "starts": schedule.default_status.value.lower()}


def _sensor(sensor: dg.SensorDefinition) -> dict[str, Any]:
    return {
        "kind": sensor.sensor_type.value.lower(),
        "seconds": sensor.minimum_interval_seconds,
        "jobs": {target.job_name for target in sensor.targets if hasattr(target, "job_name")},
        "assets": str(sensor.asset_selection) if sensor.asset_selection else None,
        "starts": sensor.default_status.value.lower(),
    }


if __name__ == "__main__":
    from assets.definitions import defs as graph_of_the_stages

    FILE.write_text(described(graph_of_the_stages))
    print(FILE)
