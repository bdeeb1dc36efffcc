"""Concurrency pools: how many steps of a kind may run at once, over all runs. Assets name them; the instance stores the limits.

``dagster.yaml`` can only hold a default for all pools, so the limits are set when the UI starts (``make ui`` runs this module);
one that somebody set already, with ``dagster instance concurrency set gpu 2`` or in the UI, is left alone.
"""

import dagster as dg

POOLS = {"gpu": 1, "vlm": 1, "lake": 2}
"""Limits. gpu: steps with a model in memory, or that use all cores; vlm: with requests to an annotation server; lake: others."""


def set_pools(instance: dg.DagsterInstance) -> dict[str, int]:
    """Set the limit of every pool that has none; returns those set."""
    storage = instance.event_log_storage
    known = {info.name for info in storage.get_pool_limits() if not info.from_default}
    made = {pool: limit for pool, limit in POOLS.items() if pool not in known}
    for pool, limit in made.items():
        storage.set_concurrency_slots(pool, limit)
    return made


if __name__ == "__main__":
    set_pools(dg.DagsterInstance.get())
