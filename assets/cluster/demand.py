"""What a step asks the cluster for: the cores, GPUs and memory that the stage table states for its stage and its shard's size."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import dagster as dg

from assets.cluster.nodes import Asked, Nodes
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.stage_declaration import Memory, Resources
from mmret.stages import STAGES
from resources.lake import lake_folder

CHECKS = Resources(Memory(1.0, of_lake=2_000), cores=2)
"""Of steps that are no stage: asset checks and jobs over the whole lake."""
DRIVES = Memory(1.5)
"""Of a step that only starts workers on the cluster and waits for them: it must hold nothing that they wait for."""
_GPUS = ("where there are any", "always", "never")
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
        """Those of ``config``, as a launchpad or a file has them. Raises UserError for what means nothing."""
        known = {name: value for name, value in config.items() if value is not None}
        made = cls(**known | {"env": tuple(known.get("env", ()))})
        if made.gpus not in _GPUS:
            raise UserError(f"ray: gpus is {made.gpus!r}: one of {', '.join(_GPUS)}")
        if not isinstance(made.check_every, int) or made.check_every < 1:
            raise UserError(f"ray: check_every is {made.check_every!r}: a number of seconds from 1 on")
        if not isinstance(made.address, str | None):
            raise UserError(f"ray: address is {made.address!r}: write it as http://head:8265")
        if strange := [each for each in made.env if not isinstance(each, str)]:
            raise UserError(f"ray: env has {strange[0]!r}: write variables as NAME or NAME=VALUE")
        for stage, asks in made.stages.items():
            if stage not in STAGES:
                raise UserError(f"ray: stages has {stage}, and there are {', '.join(STAGES)}")
            for name, value in (asks or {}).items():
                if name not in ("cores", "gpus", "memory") or not isinstance(value, int | float) or value < 0:
                    raise UserError(f"ray: stages.{stage} has {name}: {value!r}; it takes numbers of cores, gpus and memory (GiB)")
        return made


def demand(step: str, run: dg.DagsterRun, options: Options, nodes: Nodes) -> Asked:
    """What ``step`` of ``run`` asks for. A run of several shards works on one at a time: its largest counts."""
    table = STAGES[step].resources if step in STAGES else CHECKS
    own, lake = options.stages.get(step) or {}, Lake(lake_folder())
    if step == "checkpoints" and _has_workers(lake, run.tags.get(_SHARD, "")):
        return Asked(0.0, 0.0, DRIVES.bytes(0, 0))
    gpus = own.get("gpus", table.gpus)
    if options.gpus == "never" or (options.gpus != "always" and not nodes.have_gpus()):
        gpus = 0.0
    memory = int(own["memory"] * 2**30) if "memory" in own else table.memory.bytes(*sizes(lake, run.tags, table.memory))
    return Asked(min(own.get("cores", table.cores), nodes.most_cores()), gpus, memory)


def _has_workers(lake: Lake, recipe: str) -> bool:
    """Whether ``recipe`` is trained by workers of the cluster, of which its step is none."""
    recipes = resolve(lake)[0].recipes
    return recipe in recipes and recipes[recipe].workers is not None


def sizes(lake: Lake, tags: Mapping[str, str], needs: Memory) -> tuple[int, int]:
    """(images of the largest shard that the tags of a run name, images of the lake); 0 of what is not listed yet, and of what
    ``needs`` nothing: of the lake, each shard is a file to look at."""
    shards = lake.shards() if needs.image or needs.of_lake else []
    first, last = tags.get(_SHARD, tags.get(_FIRST, "")), tags.get(_SHARD, tags.get(_LAST, ""))
    of_run = [shard for shard in shards if first <= shard <= last] if needs.image else []
    wanted = shards if needs.of_lake else of_run
    images = {shard: facts.rows for shard in wanted if (facts := lake.facts("corpus_manifest", shard))}
    return max((images.get(shard, 0) for shard in of_run), default=0), sum(images.values()) if needs.of_lake else 0
