"""Concurrency pools: how many steps of a kind may run at once, over all runs. Assets name them; the instance stores the limits.

``dagster.yaml`` can only hold a default for all pools, so the limits are set when the UI starts (``make ui`` runs this module);
one that somebody set already, with ``dagster instance concurrency set gpu 2`` or in the UI, is left alone. Where the home's
default is larger than a limit here it is taken: on a cluster Ray decides by cores, GPUs and memory, and limits are for what it does
not know. They are set before the first run, since two runs that meet a pool for the first time at once fail on Postgres.
"""

import dagster as dg

POOLS = {"gpu": 1, "vlm": 1, "lake": 2}
"""Limits. gpu: steps with a model in memory, or that use all cores; vlm: with requests to an annotation server; lake: others."""


def set_pools(instance: dg.DagsterInstance) -> dict[str, int]:
    """Set the limit of every pool that has none; returns those set."""
    storage, usual = instance.event_log_storage, instance.get_concurrency_config().pool_config.default_pool_limit or 1
    known = {info.name for info in storage.get_pool_limits() if not info.from_default}
    made = {pool: max(limit, usual) for pool, limit in POOLS.items() if pool not in known}
    for pool, limit in made.items():
        storage.set_concurrency_slots(pool, limit)
    return made


if __name__ == "__main__":
    set_pools(dg.DagsterInstance.get())
