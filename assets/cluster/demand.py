"""What a step asks the cluster for: the cores, GPUs and memory that the stage table states for its stage and its shard's size."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import dagster as dg

from assets.cluster.nodes import Nodes
from mmret.lake import Lake
from mmret.stage_declaration import Memory, Resources
from mmret.stages import STAGES
from resources.lake import lake_folder

CHECKS = Resources(Memory(1.0, of_lake=2_000), cores=2)
"""Of steps that are no stage: asset checks and jobs over the whole lake."""
_SHARD, _FIRST, _LAST = "dagster/partition", "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dataclass(frozen=True)
class Options:
    """How a run uses a cluster: ``execution: {config: {ray: ...}}`` of a launchpad, or of a deployment's executor.yaml."""

    address: str | None = None
    env: tuple[str, ...] = ()
    """Variables of the process that launches that steps get too, by NAME, or as NAME=VALUE. No secrets: a dashboard shows them."""
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    """Ray's own, for clusters whose nodes do not have this project installed."""
    gpus: Literal["where there are any", "always", "never"] = "where there are any"
    """``always`` for a cluster that starts its GPU nodes only when something asks for them."""
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By stage ``cores``, ``gpus`` and ``memory`` (GiB) instead of those of the table."""
    check_every: int = 10
    """Seconds between two looks at whether the nodes of the running steps are still there."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Options":
        known = {name: value for name, value in config.items() if value is not None}
        return cls(**known | {"env": tuple(known.get("env", ()))})


class Asked(NamedTuple):
    """``memory`` in bytes."""

    cores: float
    gpus: float
    memory: int

    def __str__(self) -> str:
        gpus = f"{self.gpus:g} GPU, " if self.gpus else ""
        return f"{self.cores:g} cores, {gpus}{self.memory / 2**30:.1f} GiB of memory"


def demand(step: str, run: dg.DagsterRun, options: Options, nodes: Nodes) -> Asked:
    """What ``step`` of ``run`` asks for. A run of several shards works on one at a time: its largest counts."""
    table = STAGES[step].resources if step in STAGES else CHECKS
    own = options.stages.get(step, {})
    gpus = own.get("gpus", table.gpus)
    if options.gpus == "never" or (options.gpus != "always" and not nodes.have_gpus()):
        gpus = 0.0
    memory = int(own["memory"] * 2**30) if "memory" in own else table.memory.bytes(*sizes(Lake(lake_folder()), run.tags))
    return Asked(min(own.get("cores", table.cores), nodes.most_cores()), gpus, memory)


def sizes(lake: Lake, tags: Mapping[str, str]) -> tuple[int, int]:
    """(images of the largest shard that the tags of a run name, images of the lake); 0 of what is not listed yet."""
    shards = lake.shards()
    images = {shard: facts.rows for shard in shards if (facts := lake.facts("corpus_manifest", shard))}
    first, last = tags.get(_SHARD, tags.get(_FIRST, "")), tags.get(_SHARD, tags.get(_LAST, ""))
    of_run = [rows for shard, rows in images.items() if first <= shard <= last]
    return max(of_run, default=0), sum(images.values())
