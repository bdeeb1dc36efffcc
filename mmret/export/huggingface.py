"""Hugging Face datasets: Parquet with the pictures inside, which ``datasets.load_dataset(folder)`` opens as it is.

Configuration ``triplets`` (the default) has the columns of table ``triplets`` and, unless asked otherwise, the query and target
pictures in every row; ``images`` has every picture named by a triplet once, hard negatives too. Sets that the licence settings keep
apart are configurations of their own (``triplets_share_alike``). ``README.md`` is the data card. Memory is one row group.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmret import progress
from mmret.curation.licences import MAIN
from mmret.export.folder import ExportFolder, whole_folder
from mmret.export.megapairs import set_folder
from mmret.export.pictures import BATCH, batches, mean_bytes, pictures, suffix
from mmret.export.rows import ExportSettings, Piece, Plan, plan, triplets
from mmret.lake import Lake
from mmret.schemas import TRIPLETS
from mmret.settings import Profile

GROUP_BYTES = 32 * 2**20
"""About how many bytes of pictures a row group has."""

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", IMAGE),
        ("path", pa.string()),
        ("caption", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("licence", pa.string()),
        ("source", pa.string()),
    ]
)
ROWS = {"once": TRIPLETS, "rows": pa.schema([pa.field("query_image", IMAGE), pa.field("target_image", IMAGE), *TRIPLETS])}


def export_huggingface(lake: Lake, profile: Profile, out: Path, settings: ExportSettings | None = None) -> Plan:
    """Write the data set and its card to ``out``; returns what was written. Raises UserError as :func:`plan` does.

    ``profile``: the settings that the lake is run with, for the card.

    >>> export_huggingface(lake, resolve(lake)[0], Path("triplets"), ExportSettings(pictures="once"))
    """
    from mmret.export.data_card import ExportFacts, write_data_card

    settings = settings or ExportSettings()
    export_plan = plan(lake, settings, "huggingface 1")
    mean = mean_bytes(lake)
    per_row = {"rows": 2 * mean, "once": 64}[settings.pictures] + 512
    with whole_folder(out, export_plan.identity) as work:
        pieces = export_plan.pieces(max(1, settings.file_bytes // per_row))
        for at, piece in enumerate(pieces):
            work.file(
                triplet_file(piece),
                lambda path, p=piece: write_rows(path, ROWS[settings.pictures], _triplets(lake, export_plan, p)),
            )
            progress.advance("export", at + 1, len(pieces))
        for name in export_plan.sets():
            _images(lake, work, name, export_plan.images[name], max(1, settings.file_bytes // (mean + 512)))
        facts = ExportFacts("huggingface", export_plan, configurations(export_plan, work.folder))
        write_data_card(lake, profile, work.folder / "README.md", facts)
    return export_plan


def triplet_file(piece: Piece) -> str:
    return f"{set_folder(piece.set)}triplets/{piece.split}-{piece.shard}-{piece.number:05d}.parquet"


def configurations(export_plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """``configs`` of the card: the files of every data set and split; a split without rows has no files and is left out."""
    found: list[dict[str, Any]] = []
    for name in export_plan.sets():
        ending, inside = ("", "") if name == MAIN else (f"_{name}", f"{name}/")
        files = [
            {"split": s, "path": f"{inside}triplets/{s}-*.parquet"}
            for s in export_plan.settings.splits
            if export_plan.count(name, s)
        ]
        if files:
            found.append({"config_name": f"triplets{ending}", "data_files": files, **({"default": True} if not found else {})})
        if any((folder / inside / "images").glob("*.parquet")):
            files = [{"split": "corpus", "path": f"{inside}images/*.parquet"}]
            found.append({"config_name": f"images{ending}", "data_files": files})
    return found


def _triplets(lake: Lake, export_plan: Plan, piece: Piece) -> Iterator[pa.Table]:
    rows = triplets(lake, piece.shard, export_plan.settings)[piece.set, piece.split].slice(piece.start, piece.rows)
    if export_plan.settings.pictures == "once":
        yield rows
        return
    for start in range(0, rows.num_rows, BATCH // 2):
        some = rows.slice(start, BATCH // 2)
        found = pictures(lake, some["query_id"].to_pylist() + some["target_id"].to_pylist())
        columns = [pa.array([picture_value(found[i]) for i in some[c].to_pylist()], IMAGE) for c in ("query_id", "target_id")]
        yield pa.Table.from_arrays([*columns, *some.columns], schema=ROWS["rows"])


def _images(lake: Lake, work: ExportFolder, name: str, ids: pa.Array, per_file: int) -> None:
    def tables(some: pa.Array) -> Iterator[pa.Table]:
        for rows in batches(lake, some):
            yield pa.Table.from_pylist([{**row, "image": picture_value(row)} for row in rows], schema=IMAGES)

    for number, start in enumerate(range(0, len(ids), per_file)):
        work.file(
            f"{set_folder(name)}images/images-{number:05d}.parquet",
            lambda path, some=ids.slice(start, per_file): write_rows(path, IMAGES, tables(some)),
        )
        progress.advance("export pictures", min(start + per_file, len(ids)), len(ids))


def picture_value(row: dict[str, Any]) -> dict[str, Any]:
    return {"bytes": row["data"], "path": f"{row['image_id']}.{suffix(row['format'])}"}


def write_rows(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Row groups of about ``GROUP_BYTES``, with the features that `datasets` reads from the file's metadata."""
    features = {f.name: _feature(f.type) for f in schema}
    described = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    held: list[pa.Table] = []
    with pq.ParquetWriter(path, described, compression="zstd", write_page_index=True) as writer:
        for table in tables:
            held.append(table.replace_schema_metadata(described.metadata))
            if sum(t.nbytes for t in held) >= GROUP_BYTES:
                writer.write_table(pa.concat_tables(held))
                held = []
        if held:
            writer.write_table(pa.concat_tables(held))


def _feature(type_: pa.DataType) -> dict[str, Any]:
    if type_ == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(type_):
        return {"feature": _feature(type_.value_type), "_type": "List"}
    return {"dtype": str(type_), "_type": "Value"}
