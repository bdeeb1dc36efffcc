"""What must hold of the corpus. Each check reads a few columns of Parquet through DuckDB."""

from assets.checks.sql import sql_check

image_ids_are_unique = sql_check(
    "images",
    "image_ids_are_unique",
    "The same picture twice is one row.",
    "SELECT image_id, count(*) AS n FROM images GROUP BY image_id HAVING count(*) > 1",
    where="image_id IN (SELECT image_id FROM bad)",
    blocking=True,
)
