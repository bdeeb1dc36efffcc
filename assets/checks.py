"""Asset checks: what must hold between stages. Each reads a few columns of Parquet through DuckDB."""

import dagster as dg

from resources.warehouse import Warehouse


def _check(asset: str, name: str, description: str, sql: str, *, blocking: bool = False) -> dg.AssetChecksDefinition:
    """A check that passes where ``sql`` returns no row; the rows it returns are shown."""

    @dg.asset_check(asset=asset, name=name, description=description, blocking=blocking)
    def check(warehouse: Warehouse) -> dg.AssetCheckResult:
        connection = warehouse.connect()
        found = connection.execute(f"SELECT * FROM ({sql}) LIMIT 20").fetchall()
        violations = dg.MetadataValue.json([list(map(str, row)) for row in found])
        return dg.AssetCheckResult(passed=not found, metadata={"violations": violations})

    return check


CHECKS = [
    _check("images", "every_row_is_taken_or_rejected", "Manifest rows = images + rejects, shard by shard.", """
        SELECT m.shard, m.n AS sealed, coalesce(i.n, 0) AS images, coalesce(r.n, 0) AS rejects
        FROM (SELECT shard, count(*) AS n FROM corpus_manifest GROUP BY shard) m
        JOIN (SELECT shard, count(*) AS n FROM images GROUP BY shard) i USING (shard)
        LEFT JOIN (SELECT shard, count(*) AS n FROM rejects GROUP BY shard) r USING (shard)
        WHERE m.n <> i.n + coalesce(r.n, 0)""", blocking=True),
    _check("images", "image_ids_are_unique", "The same picture twice is one row.",
           "SELECT image_id, count(*) AS n FROM images GROUP BY image_id HAVING count(*) > 1", blocking=True),
    _check("pairs", "no_orphan_ids", "Queries, targets and hard negatives are images of the corpus.", """
        SELECT id FROM (SELECT query_id AS id FROM pairs UNION SELECT target_id FROM pairs
                        UNION SELECT unnest(hard_negatives) FROM pairs)
        WHERE id NOT IN (SELECT image_id FROM images)"""),
    _check("pairs", "target_is_not_a_negative", "A target is never among its pair's hard negatives, nor a query its own target.",
           "SELECT pair_id FROM pairs WHERE list_contains(hard_negatives, target_id) OR query_id = target_id",
           blocking=True),
    _check("pairs", "no_benchmark_picture", "What a benchmark is measured with is not trained on (setting leaks.benchmarks).", """
        SELECT l.benchmark, l.image_id, l.how FROM leaks l
        WHERE l.image_id IN (SELECT query_id FROM pairs UNION SELECT target_id FROM pairs
                             UNION SELECT unnest(hard_negatives) FROM pairs)""",
           blocking=True),
    _check("triplets", "three_instructions_and_the_query_first",
           "Paper, section 3.2: three or more texts; the query image is the first negative.", """
        SELECT pair_id, len(texts) AS texts FROM triplets
        WHERE len(list_distinct(texts)) < 3 OR hard_negatives[1] <> query_id""", blocking=True),
    _check("instructions", "every_pair_is_a_row", "No pair is lost: it has a row with a status in both annotation tables.", """
        SELECT p.pair_id FROM pairs p LEFT JOIN descriptions d USING (pair_id) LEFT JOIN instructions i USING (pair_id)
        JOIN images q ON q.image_id = p.query_id
        WHERE (d.status IS NULL OR i.status IS NULL)
          AND q.shard IN (SELECT q.shard FROM instructions JOIN pairs USING (pair_id) JOIN images q ON q.image_id = query_id)"""),
]
(every_row_is_taken_or_rejected, image_ids_are_unique, no_orphan_ids, target_is_not_a_negative, no_benchmark_picture,
 three_instructions_and_the_query_first, every_pair_is_a_row) = CHECKS
