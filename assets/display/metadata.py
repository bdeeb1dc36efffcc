"""The metadata of assets in the UI: versions and schema, and of each materialisation rows, column lineage, preview and histograms.

Dagster takes plain Python numbers only. Costs one read of a few rows, and of the score columns.
"""

from typing import Any

import dagster as dg
import pyarrow as pa

from assets.display.lineage import column_lineage
from mmret.lake import Facts, Lake
from mmret.schemas import SIGNALS, TABLES, column_comment
from mmret.stage_declaration import Stage

HISTOGRAMS = {"pairs": [f"{signal}_score" for signal in SIGNALS]}
_BINS, _BAR = 20, 24
_CHARTS_EVERY = 8
_PREVIEW_ROWS, _CELL = 5, 60
_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", **dict.fromkeys("\n\r\v\f\x85\u2028\u2029", " "), **{c: f"\\{c}" for c in "\\|`[!*_"}}
)


def column_schema(table: str, words: bool = True) -> dg.TableSchema:
    """The Arrow schema of ``table`` as the UI draws it; with ``words`` also what each column says."""
    return dg.TableSchema(
        columns=[dg.TableColumn(f.name, str(f.type), column_comment(table, f.name) if words else None) for f in TABLES[table]]
    )


def tags(stage: Stage) -> dict[str, str]:
    """What the UI can filter assets by: what a stage needs, its partitions, and what a unit of its work costs on two cores."""
    found = {"mmret/needs": stage.needs, "mmret/partitions": stage.partitions}
    if stage.cost is not None:
        milliseconds = f"{1000 * stage.cost.seconds:.5f}".rstrip("0").rstrip(".")
        found["mmret/cost"] = f"{milliseconds}ms-per-{stage.cost.unit.replace(' ', '-')}"
    return found


def histogram(scores: pa.Table) -> str:
    """How the scores of each column are spread, as a Markdown table of counts with bars; NaN and null are left out."""
    import numpy as np

    columns = {name: np.asarray(scores[name].drop_null(), dtype=np.float64) for name in scores.schema.names}
    columns = {name: values[np.isfinite(values)] for name, values in columns.items()}
    held = [values for values in columns.values() if len(values)]
    if not held:
        return "no scores"
    edges = np.linspace(min(v.min() for v in held), max(v.max() for v in held) + 1e-9, _BINS + 1)
    counts = {name: np.histogram(values, edges)[0] for name, values in columns.items()}
    lines = ["| from | " + " | ".join(counts) + " |", "|---" * (len(counts) + 1) + "|"]
    for i in range(_BINS):
        cells = (f"`{'█' * round(_BAR * n[i] / max(n.max(), 1)):<{_BAR}}` {n[i]:,}" for n in counts.values())
        lines.append(f"| {edges[i]:.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


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


def has_charts(lake: Lake, shard: str) -> bool:
    """Whether charts of a shard are made for the UI: of the first shard and every eighth after it. A chart costs some 0.2 s of one
    core and 25 kB of history; `mmret quality --pictures` draws any shard's, `mmret bands --plot` the lake's."""
    return lake.shards().index(shard) % _CHARTS_EVERY == 0


def describe(lake: Lake, table: str, partition: str, facts: Facts, computed: int) -> dict[str, Any]:
    """Metadata of one materialised partition; ``computed`` is how many rows were worked on this time."""
    notes = {
        k: v if isinstance(v, (int, float, str, bool)) else dg.MetadataValue.json(v)
        for k, v in facts.notes.items()
        if v is not None
    }
    if table in HISTOGRAMS:
        notes["scores"] = dg.MetadataValue.md(histogram(lake.read(table, partition, columns=HISTOGRAMS[table])))
    if lineage := column_lineage(table):
        notes["dagster/column_lineage"] = lineage
    return {
        "dagster/partition_row_count": facts.rows,
        "rows_computed": computed,
        "dagster/column_schema": column_schema(table, words=False),  # the UI has the words from the asset's definition
        "preview": dg.MetadataValue.md(preview(lake.head(table, partition, _PREVIEW_ROWS))),
        "path": dg.MetadataValue.path(lake.storage.shown(lake.key(table, partition))),
        "digest": facts.digest,
        **notes,
    }
