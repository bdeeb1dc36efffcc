"""What must hold of neighbours and mined pairs. Most checks read a few columns of Parquet through DuckDB."""

import dagster as dg

from assets.checks.sql import ANY_PICTURE_IN_BAD, sql_check
from resources.lake import LakeResource, ProfileResource


@dg.asset_check(
    asset="neighbours",
    description="Where an index searched (setting mine.index), enough of the exact in-band "
    "neighbours of a sample of images were found; exact mining has them all.",
)
def in_band_recall(lake: LakeResource, profile: ProfileResource) -> dg.AssetCheckResult:
    from mmret.mine.stage import lake_recall

    store = lake.open()
    mine = profile.of(store).mine
    recall = lake_recall(store, mine)
    if recall is None:
        return dg.AssetCheckResult(passed=True, metadata={"search": "exact"})
    return dg.AssetCheckResult(
        passed=min(recall.values()) >= mine.index.recall_floor,
        metadata={"floor": mine.index.recall_floor, "images_checked": mine.index.checked, **recall},
    )


groups_are_of_two_or_more = sql_check(
    "duplicates",
    "groups_are_of_two_or_more",
    "A group of near-duplicates has at least two pictures, is called after one of them, and all are images of the corpus.",
    """
    SELECT group_id, count(*) AS n FROM duplicates d
    GROUP BY group_id
    HAVING count(*) < 2 OR count(*) <> max(pictures) OR sum((image_id = group_id)::INT) <> 1
        OR sum((image_id NOT IN (SELECT image_id FROM images))::INT) > 0""",
)

no_orphan_ids = sql_check(
    "pairs",
    "no_orphan_ids",
    "Queries, targets and hard negatives are images of the corpus.",
    """
    SELECT id FROM (SELECT query_id AS id FROM pairs UNION SELECT target_id FROM pairs
                    UNION SELECT unnest(hard_negatives) FROM pairs)
    WHERE id NOT IN (SELECT image_id FROM images)""",
    where=ANY_PICTURE_IN_BAD.format("id"),
)

target_is_not_a_negative = sql_check(
    "pairs",
    "target_is_not_a_negative",
    "A target is never among its pair's hard negatives, nor a query its own target.",
    "SELECT pair_id FROM pairs WHERE list_contains(hard_negatives, target_id) OR query_id = target_id",
    where="pair_id IN (SELECT pair_id FROM bad)",
    blocking=True,
)

no_benchmark_picture = sql_check(
    "pairs",
    "no_benchmark_picture",
    "What a benchmark is measured with is not trained on (setting leaks.benchmarks).",
    """
    SELECT l.benchmark, l.image_id, l.how FROM leaks l
    WHERE l.image_id IN (SELECT query_id FROM pairs UNION SELECT target_id FROM pairs
                         UNION SELECT unnest(hard_negatives) FROM pairs)""",
    where=ANY_PICTURE_IN_BAD.format("image_id"),
    blocking=True,
)
