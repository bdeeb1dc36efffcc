"""Sensors: new pictures in a watched source are sealed into shards, and automation conditions carry them on.

Those that launch runs start switched off; switch them on under *Automation* in the UI. None reads a picture: see each for what a
tick costs.
"""

import json

import dagster as dg

from assets.alarms.sensor import alarms
from assets.automation.jobs import UP_TO_TRIPLETS, seal_corpus
from assets.automation.registration import known_partitions
from assets.automation.upkeep import fresh_catalogue
from assets.automation.watching import look
from mmret.freshness.survey import survey
from mmret.hashing import fingerprint
from mmret.lake.configuration import resolve
from mmret.lake.lease import is_leased
from mmret.stages import UNPARTITIONED
from resources.declared import Declarations
from resources.lake import LakeResource


@dg.sensor(
    job=seal_corpus,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Seals what appears in the lake's sources into new shards, once a source is quiet.",
)
def new_pictures(
    context: dg.SensorEvaluationContext, lake: LakeResource, declared: Declarations
) -> dg.SensorResult | dg.SkipReason:
    """Ask for new shards once a watched source has changed and is quiet again (setting `automation.settle_seconds`).

    Watched are the lake's sources that are folders or files: pictures with captions, a manifest or a tar dropped into one of them
    become the next shard. A tick costs one `lstat` a file; hashing is left to the run, which reads only what is new. A source that
    a `defs.yaml` declares is left to that file, which says whether it is watched.
    """
    store = lake.open()
    if is_leased(store):
        return dg.SkipReason(f"`mmret run` is working on {store.address}")
    settings = resolve(store)[0]
    own = declared.sources_of(store).values()
    return look([s for s in settings.corpus.sources if s not in own], context.cursor, settings.automation.settle_seconds)


@dg.sensor(
    minimum_interval_seconds=120,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Notes on each stale partition why it is stale, as an observation. Launches nothing.",
)
def stale_partitions(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
    """Show in the UI which partitions are stale and why, once per partition and reason."""
    store = lake.open()
    if is_leased(store) or not store.shards():
        return dg.SkipReason(f"`mmret run` is working on {store.address}" if store.shards() else "no shard is sealed yet")
    stale = {(s.table, s.partition): "; ".join(s.reasons) for s in survey(store, resolve(store)[0]) if s.state == "stale"}
    said = set(json.loads(context.cursor or "[]"))
    marks = {key: fingerprint(*key, why) for key, why in stale.items()}
    fresh = [key for key, mark in marks.items() if mark not in said]
    observed = [
        dg.AssetObservation(
            table, partition=None if partition == UNPARTITIONED else partition, metadata={"stale because": stale[table, partition]}
        )
        for table, partition in fresh
    ]
    return dg.SensorResult(
        asset_events=observed,
        cursor=json.dumps(sorted(marks.values())),
        skip_reason=None if observed else dg.SkipReason(f"{len(stale)} partitions are stale, as noted"),
    )


SENSORS = [
    new_pictures,
    stale_partitions,
    known_partitions,
    dg.AutomationConditionSensorDefinition(
        "missing_or_stale_shards",
        target=UP_TO_TRIPLETS,
        use_user_code_server=True,
        default_status=dg.DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=30,
        run_tags={"dagster/priority": "-1"},
        description="Carries new shards, and whatever a changed setting made stale, through every stage up to triplets and tasks.",
    ),
    dg.AutomationConditionSensorDefinition(
        "train_on_new_pairs",
        target=dg.AssetSelection.groups("training"),
        use_user_code_server=True,
        default_status=dg.DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=60,
        description="Trains and evaluates the profile's recipes once automation.new_pairs triplets are new.",
    ),
    fresh_catalogue,
    alarms,
]
