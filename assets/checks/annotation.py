"""What must hold of annotated pairs and of triplets. Each check reads a few columns of Parquet through DuckDB."""

from assets.checks.sql import sql_check

three_instructions_and_the_query_first = sql_check(
    "triplets", "three_instructions_and_the_query_first",
    "Paper, section 3.2: three or more texts; the query image is the first negative.", """
    SELECT pair_id, len(texts) AS texts FROM triplets
    WHERE len(list_distinct(texts)) < 3 OR hard_negatives[1] <> query_id""", blocking=True)

every_pair_is_a_row = sql_check(
    "instructions", "every_pair_is_a_row",
    "No pair is lost: it has a row with a status in both annotation tables.", """
    SELECT p.pair_id FROM pairs p LEFT JOIN descriptions d USING (pair_id) LEFT JOIN instructions i USING (pair_id)
    JOIN images q ON q.image_id = p.query_id
    WHERE (d.status IS NULL OR i.status IS NULL)
      AND q.shard IN (SELECT q.shard FROM instructions JOIN pairs USING (pair_id) JOIN images q ON q.image_id = query_id)""")
