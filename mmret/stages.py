"""The stage table. Each stage is declared here once: order, partitions, settings and tables it reads, version, what it needs.

All else is derived: the assets' dependencies, pools and code versions, the jobs, what runs by itself, the order of `mmret run`,
the fingerprints that say when a partition is computed again (:mod:`mmret.freshness`), the words in which `mmret status` says why,
and the first guess of how long a run takes. A test compares the graph in Dagster with it, and another what the stages really read.

What a row may say is in :mod:`mmret.stage_declaration`, which settings count in :mod:`mmret.stage_settings`. To add a stage: a row
here, a function in ``<package>/stage.py``, an asset of a few lines in ``assets/``.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from mmret.captions.captioner import caption_settings
from mmret.captions.wanting import has_rows_to_caption
from mmret.encode import VERSION
from mmret.schemas import SIGNALS
from mmret.stage_declaration import Cost, Memory, Partitioning, Reads, Resources, Stage
from mmret.stage_settings import (
    MANIFEST_COLUMNS,
    annotation_settings,
    columns_trained_on,
    encoder_settings,
    evaluation_reads,
    evaluation_settings,
    images_of_pairs,
    pair_settings,
    reads_of_pairs,
    reads_of_thresholds,
    recipe_decisions,
    recipe_reads,
    recipe_settings,
    scorer_settings,
    search_settings,
    section,
    task_settings,
    unanswered,
)
from mmret.towers import TOWERS_VERSION

UNPARTITIONED = "all"
"""Partition name of a table that has only one."""


def _vectors(signal: str, seconds: float) -> Stage:
    return Stage(
        name=signal,
        version=VERSION,
        partitions="shard",
        group="embeddings",
        run="encode",
        needs="gpu",
        resources=Resources(Memory(1.5, image=4_000), cores=2, gpus=1),
        settings=f"encoders.{signal}",
        fingerprint_settings=lambda profile, _: encoder_settings(profile, signal),
        reads=(Reads("images", columns=("image_id", *(["caption"] if signal == "caption" else []))), Reads("towers", "all")),
        lookups=(signal, "corpus_manifest"),  # vectors made before, under the model's name; sizes of files, for bounded batches
        cost=Cost(seconds, "image", first=1.0),
    )


TABLE: tuple[Stage, ...] = (
    Stage(
        name="corpus_manifest",
        also_writes=("remarks",),
        version="1",
        partitions="whole",
        group="corpus",
        run="list",
        needs="cpu",
        resources=Resources(Memory(1.0, of_lake=2_000), cores=2),
        settings="corpus",
        fingerprint_settings=section("corpus"),
        trigger="first",
    ),
    Stage(
        name="written_captions",
        version="1",
        partitions="shard",
        group="corpus",
        run="ingest",
        needs="vlm",
        resources=Resources(Memory(1.0, image=8_000)),
        settings="captions",
        fingerprint_settings=lambda profile, _: caption_settings(profile),
        reads=(Reads("corpus_manifest", columns=("position", "root", "path", "image_id", "size", "caption", "reason")),),
        lookups=("written_captions",),  # rows of before, where only what got no answer is asked again
        needs_retry=unanswered,
        cost=Cost(0.0005, "image"),
        applies=has_rows_to_caption,
    ),
    Stage(
        name="images",
        also_writes=("rejects",),
        version="1",
        partitions="shard",
        group="corpus",
        run="ingest",
        needs="cpu",
        resources=Resources(Memory(1.5, image=4_000), cores=2),
        settings="ingest",
        fingerprint_settings=section("ingest"),
        reads=(Reads("corpus_manifest", columns=MANIFEST_COLUMNS), Reads("written_captions", if_any=True)),
        lookups=("images",),  # pictures that an earlier or other run stored, by the id of their content
        cost=Cost(0.0005, "image", first=1.0),
    ),
    Stage(
        name="towers",
        version=TOWERS_VERSION,
        partitions="whole",
        group="embeddings",
        run="towers",
        needs="gpu",
        resources=Resources(Memory(2.0, of_lake=500), cores=2, gpus=1),
        settings="towers",
        fingerprint_settings=lambda profile, _: profile.towers.model_dump() if profile.towers else None,
        reads=(Reads("images", "all", pinned=True),),  # or else a new shard would turn every vector stale
        lookups=("corpus_manifest",),
        cost=Cost(0.0012, "picture trained on", beside=6.0, first=2.0),
    ),
    _vectors("clip_image", 0.0005),
    _vectors("dino_image", 0.0005),
    _vectors("caption", 0.0003),
    Stage(
        name="candidates",
        version="1",
        partitions="shard",
        group="mining",
        run="encode",
        needs="gpu",
        resources=Resources(Memory(1.5, image=20_000), cores=2, gpus=1),
        settings="mine",
        fingerprint_settings=search_settings,
        reads=(*(Reads(signal, "up_to") for signal in SIGNALS), Reads("towers", "all")),
        lookups=("images", "corpus_manifest"),  # pictures of the oldest shard, copied and encoded where a band is proposed
        cost=Cost(3e-8, "image pair", more=((0.03, "earlier shard"),)),
    ),
    Stage(
        name="duplicates",
        version="1",
        partitions="whole",
        group="mining",
        run="duplicates",
        needs="cpu",
        resources=Resources(Memory(1.0, of_lake=2_000), cores=2),
        settings="duplicates",
        fingerprint_settings=section("duplicates"),
        reads=(Reads("candidates", "all"), Reads("images", "all", columns=("image_id",))),
        cost=Cost(5e-6, "image of the lake"),
    ),
    Stage(
        name="scores",
        version="1",
        partitions="shard",
        group="mining",
        run="scores",
        needs="gpu",
        resources=Resources(Memory(1.5, image=2_000), cores=2, gpus=1),
        settings="scores",
        fingerprint_settings=scorer_settings,
        reads=(Reads("images", columns=("image_id", "width", "height")),),
        conditional_reads=lambda profile, _: (
            (Reads("clip_image"),) if any(s.kind == "head" for s in profile.scores.values()) else ()
        ),
        lookups=("scores", "corpus_manifest"),  # rows that the same scorer made before; sizes of files
        cost=Cost(0.002, "image", first=1.0),
        applies=lambda lake, profile, _: bool(profile.scores),
    ),
    Stage(
        name="leaks",
        version="1",
        partitions="whole",
        group="mining",
        run="leaks",
        needs="cpu",
        resources=Resources(Memory(1.0, of_lake=500), cores=2),
        settings="leaks",
        fingerprint_settings=section("leaks"),
        reads=(Reads("images", "all", columns=("image_id",)), Reads("clip_image", "all")),
        lookups=("corpus_manifest",),
        cost=Cost(0.0, "image of the lake"),
    ),
    Stage(
        name="neighbours",
        version="1",
        partitions="shard",
        group="mining",
        run="synthesise",
        needs="cpu",
        resources=Resources(Memory(1.2, image=20_000), cores=2),
        settings="mine.k",
        fingerprint_settings=section("mine.k"),
        reads=(Reads("candidates", "from"),),
        lookups=("neighbours",),  # the merge of before, where its fingerprint proves which files it holds
        cost=Cost(0.00015, "image", more=((0.01, "later shard"),)),
    ),
    Stage(
        name="pairs",
        version="2",  # 2: no hard negative is a near-duplicate of the target, whatever shards they lie in
        partitions="shard",
        group="mining",
        run="synthesise",
        needs="cpu",
        resources=Resources(Memory(1.2, image=50_000), cores=2),
        settings="mine",
        fingerprint_settings=pair_settings,
        reads=(
            Reads("neighbours"),
            Reads("candidates"),  # the bands they were mined with
            Reads("leaks", "all"),
            Reads("images", "linked", "neighbours", columns=("image_id", "caption", "shard")),
            *(Reads(signal, "linked", "neighbours") for signal in SIGNALS),
        ),
        # scores that it had before; what other shards' candidates have above the band, where their recorded inputs prove it exact
        lookups=("pairs", "candidates"),
        conditional_reads=reads_of_pairs,
        cost=Cost(0.0001, "image"),
    ),
    Stage(
        name="descriptions",
        version="2",  # 2: follows the captions of its images
        partitions="shard",
        group="annotation",
        run="synthesise",
        needs="vlm",
        resources=Resources(Memory(1.0, image=20_000)),
        settings="annotate",
        fingerprint_settings=annotation_settings("descriptions"),
        reads=(Reads("pairs"), images_of_pairs("caption")),
        lookups=("descriptions",),  # rows of before, where only what got no answer is asked again
        needs_retry=unanswered,
        cost=Cost(0.0004, "image"),
    ),
    Stage(
        name="instructions",
        version="2",  # 2: follows the captions of its images
        partitions="shard",
        group="annotation",
        run="synthesise",
        needs="vlm",
        resources=Resources(Memory(1.0, image=20_000)),
        settings="annotate",
        fingerprint_settings=annotation_settings("instructions"),
        reads=(Reads("descriptions"), Reads("pairs"), images_of_pairs("caption")),
        lookups=("instructions",),
        needs_retry=unanswered,
        cost=Cost(0.0003, "image"),
    ),
    Stage(
        name="triplets",
        version="2",  # 2: follows the paths and licences of its images
        partitions="shard",
        group="annotation",
        run="synthesise",
        needs="cpu",
        resources=Resources(Memory(1.5, image=50_000)),
        settings="evaluate.held_out",
        fingerprint_settings=section("evaluate.held_out"),
        reads=(
            Reads("pairs"),
            Reads("descriptions"),
            Reads("instructions"),
            images_of_pairs("path", "licence", "caption"),  # captions: what its texts are measured against
        ),
        lookups=("caption", "clip_image"),  # what its texts are measured with, noted beside the rows
        cost=Cost(0.00015, "image"),
    ),
    Stage(
        name="tasks",
        version="1",
        partitions="shard",
        group="annotation",
        run="synthesise",
        needs="cpu",
        resources=Resources(Memory(1.0, image=40_000)),
        settings="evaluate.held_out",
        fingerprint_settings=task_settings,
        reads=(
            Reads("neighbours"),
            Reads("triplets", columns=("pair_id", "query_id", "target_id", "texts", "hard_negatives", "signals")),
            Reads("leaks", "all"),
            Reads("images", "linked", "neighbours", columns=("image_id", "caption", "licence")),
        ),
        conditional_reads=lambda profile, _: reads_of_thresholds(profile),
        cost=Cost(0.0001, "image"),
    ),
    Stage(
        name="checkpoints",
        version="1",
        partitions="recipe",
        group="training",
        run="train",
        needs="gpu",
        resources=Resources(Memory(2.0, of_lake=5_000), cores=2, gpus=1),
        settings="recipes",
        fingerprint_settings=recipe_settings,
        reads=(Reads("triplets", "all", columns=columns_trained_on), Reads("towers", "all")),
        conditional_reads=recipe_reads,
        # pictures by the id of their content; the state that a base was trained on; what has opted out of an earlier state
        lookups=("images", "checkpoints", "corpus_manifest"),
        trigger="after enough new pairs",
        decisions=recipe_decisions,
        cost=Cost(0.16, "step", beside=1.0, more=((0.001, "image of the lake"),), first=1.0),
    ),
    Stage(
        name="evaluations",
        version="4",  # 4: robustness; 3: every direction, not composed queries alone
        partitions="recipe",
        group="training",
        run="train",
        needs="gpu",
        resources=Resources(Memory(1.5, of_lake=6_000), cores=2, gpus=1),
        settings="evaluate",
        fingerprint_settings=evaluation_settings,
        reads=(
            Reads("checkpoints"),
            Reads("images", "all", columns=("image_id", "caption", "root", "extra")),
            Reads("triplets", "all", columns=("pair_id", "query_id", "target_id", "texts", "hard_negatives", "split")),
        ),
        conditional_reads=evaluation_reads,
        lookups=("corpus_manifest", "evaluations", "checkpoints"),  # sizes of files; figures of the same model measured before
        trigger="after a new checkpoint",
        cost=Cost(0.0014, "image of the lake", beside=0.5),
    ),
)

STAGES: dict[str, Stage] = {stage.name: stage for stage in TABLE}
"""By name, in the order they are computed in."""

FINGERPRINTED_STAGES: dict[str, Stage] = {name: stage for name, stage in STAGES.items() if stage.trigger != "first"}
"""Stages whose partitions are compared with what they would be computed from now."""

RUNS: tuple[tuple[str, ...], ...] = tuple(
    tuple(stage.name for stage in run) for _, run in groupby(FINGERPRINTED_STAGES.values(), key=lambda stage: stage.run)
)
"""Stages that are launched together, in order; what one of these runs has to do is known when those before it have ended."""


FINGERPRINTED_TABLES: frozenset[str] = frozenset(table for stage in FINGERPRINTED_STAGES.values() for table in stage.tables)
"""Tables whose partitions have a fingerprint."""


def stage_of(table: str) -> Stage:
    """The stage that writes ``table``. Raises KeyError for a table that no stage computes."""
    return next(s for s in TABLE if table in s.tables) if table not in STAGES else STAGES[table]


def assets_of(stages: Iterable[str]) -> tuple[str, ...]:
    """The tables, and so the assets, that ``stages`` write."""
    return tuple(table for name in stages for table in STAGES[name].tables)


def names_of(partitions: Partitioning, run: str | None = None) -> tuple[str, ...]:
    """Fingerprinted stages with these partitions (of one run), in order."""
    return tuple(n for n, s in FINGERPRINTED_STAGES.items() if s.partitions == partitions and run in (None, s.run))
