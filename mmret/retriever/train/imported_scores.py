"""Scores that somebody brings from a model that is not loaded here: read, checked, and kept in table ``teacher_scores``.

``mmret teach --recipe NAME --scores FILE`` brings them, and recipes with ``teacher: scores/NAME`` learn from them. Their version is
a digest of what was brought, so that other scores train their students again, and the same ones do not. Cost: reading the file,
some 5 us a row; memory, its columns. Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from mmret.errors import UserError
from mmret.hashing import digest_table, pair_id
from mmret.ingest.tables.columnar import ARROW_SUFFIXES, PARQUET_SUFFIXES, Columnar
from mmret.ingest.tables.json_files import json_encoding, json_lines
from mmret.ingest.tables.records import Note, Record
from mmret.ingest.tables.separated_files import headed, read_separated
from mmret.ingest.tables.text_files import UNREADABLE, plain_suffix, read_head
from mmret.lake import Facts, Lake
from mmret.schemas import TEACHER_SCORES
from mmret.settings.recipe_links import scores_partition

COLUMNS = ("query_id", "text", "candidate_id", "score")
_KEY = list(COLUMNS[:3])
_LINES, _SEPARATED = (".jsonl", ".ndjson"), (".csv", ".tsv")
_BLOCK = 65_536  # rows as Python objects at once
_ROW = "row"  # of the file


class Imported(NamedTuple):
    """What was brought: ``model``, the digest of the scores; how many rows were ``kept``; ``repeated`` ones said the same again;
    ``unknown`` ones name a picture that the lake does not hold, with an ``example``; ``changed``: whether the lake had others.
    ``remarks``: what else was noticed of the file, one sentence each."""

    model: str
    kept: int
    repeated: int
    unknown: int
    example: str
    changed: bool
    remarks: tuple[str, ...]


def wanted_scores(lake: Lake, partition: str) -> str:
    """What to do where that partition is missing, in words."""
    name = partition.removeprefix("scores.")
    return (
        f"scores '{name}', which nobody has brought: `mmret teach --lake {lake.address} --recipe {name} --scores FILE` does, FILE "
        f"having columns {', '.join(COLUMNS)}"
    )


def import_scores(lake: Lake, name: str, file: Path) -> Imported:
    """Make the scores in ``file`` (Parquet, Arrow, CSV, TSV or JSON lines with :data:`COLUMNS`) those called ``name``, instead of
    what had that name before.

    Raises UserError, and changes nothing, where the file cannot be read, a row has no id, text or finite score, two rows score the
    same question differently, or no row is about pictures of the lake; the message names the row.

    >>> import_scores(lake, "my-cross-encoder", Path("scores.parquet")).kept
    """
    remarks: list[str] = []
    rows = _read(file, lambda _, path, said: remarks.append(f"{path}: {said}"))
    again = rows.filter(pl.struct(_KEY).is_duplicated())
    if len(again):
        _refuse_contradictions(file, again)
    distinct = rows.unique(_KEY, keep="first", maintain_order=True)
    images = pl.from_arrow(lake.read("images", columns=["image_id"]))["image_id"].cast(pl.String)
    is_known = {side: pl.col(side).is_in(images.implode()) for side in ("query_id", "candidate_id")}
    known = distinct.filter(*is_known.values())
    example = ""
    if len(known) < len(distinct):
        first = distinct.filter(~pl.all_horizontal(*is_known.values())).head(1).with_columns(no_query=~is_known["query_id"])
        gone = first["query_id" if first["no_query"][0] else "candidate_id"][0]
        example = f"row {first[_ROW][0]:,} has {gone}"
    if not len(known):
        raise UserError(
            f"{file}: no row is about pictures of {lake.address} ({example or 'it has no row'}): ids are image_id of images"
        )
    kept = known.sort(_KEY).select(COLUMNS)
    model = digest_table(kept.to_arrow().cast(pa.schema([TEACHER_SCORES.field(column) for column in COLUMNS])))
    facts, partition = lake.facts("teacher_scores", scores_partition(name)), scores_partition(name)
    # a picture that has been forgotten since took rows with it
    changed = facts is None or facts.inputs != model or facts.rows != len(kept)
    if changed:
        lake.write("teacher_scores", partition, _table(name, model, kept), model, file=file.name)
    return Imported(model, len(kept), len(rows) - len(distinct), len(distinct) - len(known), example, changed, tuple(remarks))


def imported_facts(lake: Lake, name: str) -> Facts:
    """Facts of the scores ``name``: ``inputs`` is their version. Raises UserError where there are none."""
    facts = lake.facts("teacher_scores", scores_partition(name))
    if facts is None:
        raise UserError(f"there are no {wanted_scores(lake, scores_partition(name))}")
    return facts


def _table(name: str, model: str, rows: pl.DataFrame) -> pa.Table:
    pairs = [pair_id(*row) for row in rows.select("query_id", "candidate_id").iter_rows()]
    said = {"teacher": f"scores/{name}", "model": model}
    columns = rows.with_columns(
        *(pl.lit(value).alias(column) for column, value in said.items()), pair_id=pl.Series(pairs, dtype=pl.String)
    )
    return columns.select(TEACHER_SCORES.names).to_arrow().cast(TEACHER_SCORES)


def _read(file: Path, note: Note) -> pl.DataFrame:
    """The file's rows, checked, with the number of each."""
    blocks = [pl.DataFrame(schema={**dict.fromkeys(_KEY, pl.String), "score": pl.Float32, _ROW: pl.Int64})]
    block: list[tuple[Any, ...]] = []

    def close() -> None:
        blocks.append(pl.DataFrame(block, schema=blocks[0].schema, orient="row"))
        block.clear()

    for number, record in _records(file, note):
        block.append((*_checked(record, f"{file}, row {number:,}"), number))
        if len(block) == _BLOCK:
            close()
    close()
    return pl.concat(blocks)


def _records(file: Path, note: Note) -> Iterator[Record]:
    suffix = plain_suffix(file)
    try:
        if suffix in _LINES:
            yield from json_lines(file, json_encoding(read_head(file)))
        elif suffix in _SEPARATED:
            yield from read_separated(file, *headed(file), note)
        elif suffix in (*PARQUET_SUFFIXES, *ARROW_SUFFIXES):
            yield from Columnar(file).records()
        else:
            kinds = ", ".join((*PARQUET_SUFFIXES, *_SEPARATED, *_LINES))
            raise UserError(f"{file} is not read as scores by its suffix: write one of {kinds} with columns {', '.join(COLUMNS)}")
    except (*UNREADABLE, ValueError) as error:
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None


def _checked(record: dict[str, Any] | str, where: str) -> tuple[str, str, str, float]:
    if isinstance(record, str):
        raise UserError(f"{where}: {record}")
    if missing := [column for column in COLUMNS if column not in record]:
        raise UserError(f"{where}: no column {', '.join(missing)}; it has {', '.join(map(str, record)) or 'none'}")
    for column in _KEY:
        if not isinstance(record[column], str) or not record[column].strip():
            raise UserError(f"{where}: {column} is {_shown(record[column])}, and has to be a text")
    try:
        score = math.nan if isinstance(record["score"], bool) else float(record["score"])
    except (TypeError, ValueError):
        score = math.nan
    with np.errstate(over="ignore"):
        if not np.isfinite(np.float32(score)):
            raise UserError(f"{where}: score is {_shown(record['score'])}, and has to be a finite number")
    return record["query_id"], record["text"], record["candidate_id"], score


def _shown(value: Any) -> str:
    return "empty" if value is None or value == "" else repr(value)[:60]


def _refuse_contradictions(file: Path, repeated: pl.DataFrame) -> None:
    said = repeated.group_by(_KEY, maintain_order=True).agg(pl.col("score").n_unique().alias("scores"), pl.col("score", _ROW))
    if len(others := said.filter(pl.col("scores") > 1)):
        scores, numbers = others["score"][0].to_list(), others[_ROW][0].to_list()
        at = next(n for n, score in enumerate(scores) if score != scores[0])
        raise UserError(
            f"{file}: rows {numbers[0]:,} and {numbers[at]:,} score the same question, {scores[0]:g} and {scores[at]:g}: "
            "leave one out"
        )
