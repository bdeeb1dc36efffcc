"""The loop that every partitioned asset shares: skip what is current, compute the rest, report each partition.

A partition counts as current when the fingerprint of its inputs is the recorded one (:mod:`mmret.freshness.fingerprints`),
whoever asks: `mmret run`, a backfill, a schedule. So launching twice costs nothing, and a crashed run continues where it stopped.
"""

from collections.abc import Callable

import dagster as dg

from assets.dagster_internals.retries import StoppableRetryPolicy, out_of_reach
from assets.display.metadata import describe
from assets.display.progress import telling
from mmret.errors import UserError
from mmret.freshness.fingerprints import inputs_of
from mmret.lake import Facts, Lake
from mmret.lake.inputs import record_inputs
from mmret.retriever.train.imported_scores import wanted_scores
from mmret.settings import Profile
from mmret.stages import STAGES, UNPARTITIONED
from resources.lake import LakeResource, ProfileResource

TRANSIENT = StoppableRetryPolicy(max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""Retries for errors that may pass by themselves; all others fail at once (:func:`is_transient`)."""

_TRANSIENT_ERRORS = {
    "ConnectionError",
    "TimeoutError",
    "TransportError",
    "APIConnectionError",
    "InternalServerError",
    "OutOfMemoryError",
}

Compute = Callable[[Lake, Profile, str, str], Facts | tuple[Facts, int]]
"""Function of (lake, settings, partition, fingerprint of its inputs) that writes the partition and returns its facts, with the
number of rows worked on where that is not all of them."""


def is_transient(error: Exception) -> bool:
    """Whether the same step may succeed later, as when a server restarts or a GPU is full; not so for mistakes of the user."""
    if isinstance(error, UserError):
        return False
    kinds = (kind.__name__ for kind in type(error).__mro__)
    return out_of_reach(error) or not _TRANSIENT_ERRORS.isdisjoint(kinds)


def current_or_compute(lake: Lake, profile: Profile, table: str, partition: str, compute: Compute) -> tuple[Facts, int]:
    """Facts of a partition, computing it only where it is missing or stale. Raises dg.Failure while its inputs are missing,
    and for a recipe that the settings do not have."""
    if STAGES[table].partitions == "recipe" and partition not in profile.recipes:
        raise dg.Failure(f"no recipe '{partition}': the lake has {', '.join(profile.recipes)}", allow_retries=False)
    inputs = inputs_of(lake, profile, table, partition)
    if inputs is None:
        raise dg.Failure(_wanting(lake, profile, table, partition), metadata={"partition": partition}, allow_retries=False)
    facts = lake.facts(table, partition)
    if facts and facts.inputs == inputs.fingerprint and not STAGES[table].needs_retry(profile, facts):
        return facts, 0
    record_inputs(lake, inputs)
    try:
        made = compute(lake, profile, partition, inputs.fingerprint)
    except Exception as error:
        if is_transient(error):
            raise
        # trying again would end the same way
        raise dg.Failure(str(error), metadata={"partition": partition}, allow_retries=False) from error
    return made if isinstance(made, tuple) else (made, made.rows)


def _wanting(lake: Lake, profile: Profile, table: str, partition: str) -> str:
    """What a partition cannot be computed without: a recipe that is to be trained first, or a table that is not there yet."""
    named = [read for read in STAGES[table].conditional_reads(profile, partition) if read.scope == "named"]
    if brought := [r.via for r in named if r.table == "teacher_scores" and lake.facts(r.table, r.via) is None]:
        return f"{table} of {partition} learns from {wanted_scores(lake, brought[0])}"
    if recipes := [r.via for r in named if r.table == "checkpoints" and lake.facts(r.table, r.via) is None]:
        return (
            f"{table} of {partition} needs the checkpoint of {', '.join(recipes)}, which is not trained yet: name "
            f"{'it' if len(recipes) == 1 else 'them'} in `train` too, as in `--set 'train=[{', '.join([*recipes, partition])}]'`"
        )
    upstream = ", ".join(dict.fromkeys(read.table for read in STAGES[table].reads))
    return f"{table} of {partition} needs {upstream}, which are not all materialised yet"


def materialize(
    context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource, table: str, compute: Compute
) -> dg.MaterializeResult:
    """Materialise the partitions of this run, one after the other, each with its own metadata."""
    store = lake.open()
    settings = profile.of(store)
    version = None
    for key in context.partition_keys:
        with telling(context, table, key):
            facts, computed = current_or_compute(store, settings, table, key, compute)
        context.log.info(f"{table} {key}: {facts.rows:,} rows, " + (f"{computed:,} computed" if computed else "nothing to do"))
        context.add_asset_metadata(describe(store, table, key, facts, computed), partition_key=key)
        version = facts.digest
    # a ranged run would stamp one version on all its partitions
    return dg.MaterializeResult(data_version=dg.DataVersion(version) if len(context.partition_keys) == 1 else None)


def materialize_whole(
    context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource, table: str, compute: Compute
) -> dg.MaterializeResult:
    """The same for a table that has one partition only."""
    store = lake.open()
    with telling(context, table, UNPARTITIONED):
        facts, computed = current_or_compute(store, profile.of(store), table, UNPARTITIONED, compute)
    context.log.info(f"{table}: {facts.rows:,} rows, " + (f"{computed:,} computed" if computed else "nothing to do"))
    shown = describe(store, table, UNPARTITIONED, facts, computed)
    return dg.MaterializeResult(
        metadata={"dagster/row_count": shown.pop("dagster/partition_row_count"), **shown}, data_version=dg.DataVersion(facts.digest)
    )
