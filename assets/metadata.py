"""What a materialisation shows in the UI: rows, schema, a preview and where the file lies. Only plain Python numbers pass."""

from typing import Any

import dagster as dg
import pyarrow as pa

from mmret.lake import Facts, Lake
from mmret.schemas import TABLES

OWNERS = ["team:mmret"]
_PREVIEW_ROWS, _CELL = 5, 60
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", "\n": " ", **{c: f"\\{c}" for c in "\\|`[!*_"}})


def column_schema(table: str) -> dg.TableSchema:
    """The Arrow schema of ``table`` as the UI draws it."""
    return dg.TableSchema(columns=[dg.TableColumn(f.name, str(f.type)) for f in TABLES[table]])


def preview(rows: pa.Table) -> str:
    """The first rows as a Markdown table; captions are data, so markup in them is escaped."""
    def cell(value: Any) -> str:
        text = " · ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
        text = text if len(text) <= _CELL else text[: _CELL - 1] + "…"
        return text.translate(_ESCAPES)

    names = rows.schema.names
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(cell(row[n]) for n in names) + " |" for row in rows.slice(0, _PREVIEW_ROWS).to_pylist()]
    return "\n".join(lines)


def describe(lake: Lake, table: str, partition: str, facts: Facts, computed: int) -> dict[str, Any]:
    """Metadata of one materialised partition; ``computed`` is how many rows were worked on this time."""
    notes = {k: v if isinstance(v, (int, float, str, bool)) else dg.MetadataValue.json(v) for k, v in facts.notes.items()
             if v is not None}
    return {
        "dagster/partition_row_count": facts.rows,
        "rows_computed": computed,
        "dagster/column_schema": column_schema(table),
        "preview": dg.MetadataValue.md(preview(lake.head(table, partition, _PREVIEW_ROWS))),
        "path": dg.MetadataValue.path(str(lake.path(table, partition))),
        "digest": facts.digest,
        **notes,
    }
