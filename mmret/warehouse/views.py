"""The SQL of the views: one per table, and joins that people would otherwise write each time.

A table's view names its files one by one. They are versions that never change (:mod:`mmret.lake.history`), so every query of a
reader, and every part of one query, sees the same state, whatever is written meanwhile. A table not yet written is an empty
view with its columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from mmret.schemas import SIGNALS, TABLES, VECTORS_INDEX, column_comment
from mmret.warehouse.files import Files, PartitionFile, listed, sql_literal

_SQL_TYPES = {"string": "VARCHAR", "int32": "INTEGER", "int64": "BIGINT", "float": "FLOAT", "double": "DOUBLE", "bool": "BOOLEAN"}


def _sql_type(type_: pa.DataType) -> str:
    if pa.types.is_list(type_):
        return _sql_type(type_.value_type) + "[]"
    return _SQL_TYPES[str(type_)]


def _by_columns(files: Sequence[PartitionFile]) -> dict[tuple[str, ...], list[PartitionFile]]:
    """Files by the columns they have: one written before a column was added to the schema lacks it."""
    found: dict[tuple[str, ...], list[PartitionFile]] = {}
    for file in files:
        found.setdefault(file.columns, []).append(file)
    return found


def table_rows(table: str, files: Sequence[PartitionFile]) -> str:
    """A SELECT of the rows of ``table`` in ``files``; a column that a file does not have is null in its rows."""

    def columns(names: Sequence[str]) -> str:
        return ", ".join(f'"{f.name}"' if f.name in names else f'NULL::{_sql_type(f.type)} AS "{f.name}"' for f in TABLES[table])

    parts = [
        f"SELECT {columns(names)} FROM read_parquet([{listed(alike)}], hive_partitioning = false)"
        for names, alike in _by_columns(files).items()
    ] or [f"SELECT {columns(())} WHERE false"]
    return " UNION ALL ".join(parts)


def table_view(table: str, files: Sequence[PartitionFile]) -> str:
    """``CREATE VIEW`` of ``table`` over ``files``."""
    return f'CREATE OR REPLACE VIEW "{table}" AS {table_rows(table, files)}'


EMBEDDINGS = "CREATE OR REPLACE VIEW embeddings AS " + " UNION ALL ".join(
    f"SELECT '{s}' AS signal, {', '.join(VECTORS_INDEX.names)} FROM \"{s}\"" for s in SIGNALS
)

_SIDE = ("caption", "licence", "source", "width", "height", "extra")


def _side(role: str) -> str:
    """The columns of one picture of a pair, named after its role."""
    return ", ".join(f"{role}.{c} AS {role}_{c}" for c in _SIDE)


PAIRS_WIDE = f"""CREATE OR REPLACE VIEW pairs_wide AS
SELECT p.*, query.path AS query_path, target.path AS target_path, {_side("query")}, {_side("target")}, query.shard AS shard,
  d.status AS description_status, d.reason AS description_reason, i.status AS instruction_status, i.reason AS instruction_reason,
  d.text AS description, i.texts AS texts, t.pair_id IS NOT NULL AS is_triplet, t.split AS split
FROM pairs p
LEFT JOIN images query ON query.image_id = p.query_id
LEFT JOIN images target ON target.image_id = p.target_id
LEFT JOIN descriptions d ON d.pair_id = p.pair_id
LEFT JOIN instructions i ON i.pair_id = p.pair_id
LEFT JOIN triplets t ON t.pair_id = p.pair_id"""
"""Every pair and what became of it."""

TRIPLETS_WIDE = f"""CREATE OR REPLACE VIEW triplets_wide AS
SELECT t.*, query.shard AS shard, {_side("query")}, {_side("target")},
  p.clip_image_score, p.dino_image_score, p.caption_score,
  d.text AS description, d.prompt_version AS description_prompt, d.parser_version AS description_parser,
  d.status AS description_status, d.request_key AS description_request,
  d.tokens_in AS description_tokens_in, d.tokens_out AS description_tokens_out,
  i.prompt_version AS instruction_prompt, i.parser_version AS instruction_parser, i.status AS instruction_status,
  i.request_key AS instruction_request, i.tokens_in AS instruction_tokens_in, i.tokens_out AS instruction_tokens_out
FROM triplets t
LEFT JOIN images query ON query.image_id = t.query_id
LEFT JOIN images target ON target.image_id = t.target_id
LEFT JOIN pairs p ON p.pair_id = t.pair_id
LEFT JOIN descriptions d ON d.pair_id = t.pair_id
LEFT JOIN instructions i ON i.pair_id = t.pair_id"""
"""The lineage of a triplet in one row: captions, scores, licences, models, prompt versions, statuses."""


def table_views(files: Files) -> list[str]:
    """``CREATE VIEW`` of each table in ``files``, then what its columns say; one without files is empty."""
    return [*(table_view(t, list(files[t].values())) for t in TABLES if t in files), *_comments(files)]


def joined_views() -> list[str]:
    """``CREATE VIEW`` of what is made of the tables' views."""
    return [EMBEDDINGS, PAIRS_WIDE, TRIPLETS_WIDE]


def _comments(files: Files) -> list[str]:
    """What each column says, where clients show it and ``duckdb_columns()`` lists it."""
    return [
        f'COMMENT ON COLUMN "{t}"."{c}" IS {sql_literal(column_comment(t, c))}'
        for t in TABLES
        if t in files
        for c in TABLES[t].names
    ]
