"""What must hold of mined pairs. Each check reads a few columns of Parquet through DuckDB."""

from assets.checks.sql import sql_check

no_orphan_ids = sql_check(
    "pairs", "no_orphan_ids",
    "Queries, targets and hard negatives are images of the corpus.", """
    SELECT id FROM (SELECT query_id AS id FROM pairs UNION SELECT target_id FROM pairs
                    UNION SELECT unnest(hard_negatives) FROM pairs)
    WHERE id NOT IN (SELECT image_id FROM images)""")

target_is_not_a_negative = sql_check(
    "pairs", "target_is_not_a_negative",
    "A target is never among its pair's hard negatives, nor a query its own target.",
    "SELECT pair_id FROM pairs WHERE list_contains(hard_negatives, target_id) OR query_id = target_id", blocking=True)

no_benchmark_picture = sql_check(
    "pairs", "no_benchmark_picture",
    "What a benchmark is measured with is not trained on (setting leaks.benchmarks).", """
    SELECT l.benchmark, l.image_id, l.how FROM leaks l
    WHERE l.image_id IN (SELECT query_id FROM pairs UNION SELECT target_id FROM pairs
                         UNION SELECT unnest(hard_negatives) FROM pairs)""", blocking=True)
