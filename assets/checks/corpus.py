"""What must hold of the corpus. Each check reads a few columns of Parquet through DuckDB."""

from assets.checks.sql import sql_check

every_row_is_taken_or_rejected = sql_check(
    "images", "every_row_is_taken_or_rejected",
    "Manifest rows = images + rejects, shard by shard.", """
    SELECT m.shard, m.n AS sealed, coalesce(i.n, 0) AS images, coalesce(r.n, 0) AS rejects
    FROM (SELECT shard, count(*) AS n FROM corpus_manifest GROUP BY shard) m
    JOIN (SELECT shard, count(*) AS n FROM images GROUP BY shard) i USING (shard)
    LEFT JOIN (SELECT shard, count(*) AS n FROM rejects GROUP BY shard) r USING (shard)
    WHERE m.n <> i.n + coalesce(r.n, 0)""", blocking=True)

image_ids_are_unique = sql_check(
    "images", "image_ids_are_unique",
    "The same picture twice is one row.",
    "SELECT image_id, count(*) AS n FROM images GROUP BY image_id HAVING count(*) > 1", blocking=True)
