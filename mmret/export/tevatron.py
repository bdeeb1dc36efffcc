"""Tevatron's data set for multimodal retrievers: queries with the ids of their documents, and the corpus of pictures beside them.

Configuration ``queries`` has a row for each instruction of a triplet, since a query of Tevatron has one text; ``corpus`` has every
picture that one of them names, once. Both are Parquet that ``datasets`` opens, as ``tevatron.retriever.dataset`` does; sets that
the licence settings keep apart are configurations of their own. ``qrels.<split>.txt`` has the targets as TREC's tools read them.
The query's picture is stored with each of its instructions, mostly three times. Memory is one row group.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmret import progress
from mmret.curation.licences import MAIN
from mmret.export.folder import ExportFolder, whole_folder
from mmret.export.huggingface import IMAGE, picture_value, write_rows
from mmret.export.megapairs import set_folder
from mmret.export.pictures import BATCH, batches, mean_bytes, pictures
from mmret.export.rows import ExportSettings, Piece, Plan, plan, triplets
from mmret.lake import Lake
from mmret.settings import Profile

QUERIES = pa.schema(
    [
        ("query_id", pa.string()),
        ("query_text", pa.string()),
        ("query_image", IMAGE),
        ("positive_document_ids", pa.list_(pa.string())),
        ("negative_document_ids", pa.list_(pa.string())),
        ("pair_id", pa.string()),
        ("licence", pa.string()),
    ]
)
CORPUS = pa.schema(
    [("docid", pa.string()), ("image", IMAGE), ("text", pa.string())]
    + [(name, pa.string()) for name in ("path", "caption", "licence", "source")]
)
_TEXTS = 3  # instructions a triplet has, mostly
_CORPUS_SPLIT = "train"
"""The split in which Tevatron looks for a corpus unless told otherwise."""


def export_tevatron(lake: Lake, profile: Profile, out: Path, settings: ExportSettings | None = None) -> Plan:
    """Write queries, corpus, relevance files and the card to ``out``; returns what was written.

    Raises UserError as :func:`plan` does. ``profile``: the settings that the lake is run with, for the card.

    >>> export_tevatron(lake, resolve(lake)[0], Path("tevatron"))
    """
    from mmret.export.data_card import ExportFacts, write_data_card

    settings = settings or ExportSettings()
    export_plan = plan(lake, settings, "tevatron 1")
    mean = mean_bytes(lake)
    with whole_folder(out, export_plan.identity) as work:
        pieces = export_plan.pieces(max(1, settings.file_bytes // (_TEXTS * (mean + 512))))
        for at, piece in enumerate(pieces):
            name = f"{set_folder(piece.set)}queries/{piece.split}-{piece.shard}-{piece.number:05d}.parquet"
            work.file(name, lambda path, p=piece: write_rows(path, QUERIES, _queries(lake, export_plan, p)))
            progress.advance("export", at + 1, len(pieces))
        for name in export_plan.sets():
            _corpus(lake, work, name, export_plan.images[name], max(1, settings.file_bytes // (mean + 512)))
            for split in settings.splits:
                if export_plan.count(name, split):
                    work.file(
                        f"{set_folder(name)}qrels.{split}.txt",
                        lambda path, key=(name, split): _relevant(lake, export_plan, path, key),
                    )
        write_data_card(
            lake, profile, work.folder / "README.md", ExportFacts("tevatron", export_plan, _configurations(export_plan))
        )
    return export_plan


def query_id(pair_id: str, number: int) -> str:
    """The id of an instruction, ``number`` from 0, as a query."""
    return f"{pair_id}-{number}"


def _queries(lake: Lake, export_plan: Plan, piece: Piece) -> Iterator[pa.Table]:
    rows = triplets(lake, piece.shard, export_plan.settings)[piece.set, piece.split].slice(piece.start, piece.rows)
    for start in range(0, rows.num_rows, BATCH):
        some = rows.slice(start, BATCH).to_pylist()
        found = pictures(lake, [row["query_id"] for row in some])
        yield pa.Table.from_pylist([q for row in some for q in _of_triplet(row, found[row["query_id"]])], schema=QUERIES)


def _of_triplet(row: dict[str, Any], picture: dict[str, Any]) -> Iterator[dict[str, Any]]:
    shared = {
        "query_image": picture_value(picture),
        "positive_document_ids": [row["target_id"]],
        "negative_document_ids": [i for i in dict.fromkeys(row["hard_negatives"]) if i != row["target_id"]],
        "pair_id": row["pair_id"],
        "licence": row["licence"],
    }
    for number, text in enumerate(row["texts"]):
        yield {"query_id": query_id(row["pair_id"], number), "query_text": text, **shared}


def _corpus(lake: Lake, work: ExportFolder, name: str, ids: pa.Array, per_file: int) -> None:
    def tables(some: pa.Array) -> Iterator[pa.Table]:
        for rows in batches(lake, some):
            documents = [{**row, "docid": row["image_id"], "image": picture_value(row), "text": ""} for row in rows]
            yield pa.Table.from_pylist(documents, schema=CORPUS)

    for number, start in enumerate(range(0, len(ids), per_file)):
        work.file(
            f"{set_folder(name)}corpus/{_CORPUS_SPLIT}-{number:05d}.parquet",
            lambda path, some=ids.slice(start, per_file): write_rows(path, CORPUS, tables(some)),
        )
        progress.advance("export pictures", min(start + per_file, len(ids)), len(ids))


def _relevant(lake: Lake, export_plan: Plan, path: Path, key: tuple[str, str]) -> None:
    with open(path, "w", encoding="utf-8") as lines:
        for shard, count in export_plan.rows.get(key, {}).items():
            rows = triplets(lake, shard, export_plan.settings)[key] if count else None
            if rows is None:
                continue
            columns = (rows["pair_id"].to_pylist(), rows["target_id"].to_pylist(), pc.list_value_length(rows["texts"]).to_pylist())
            for pair_id, target_id, texts in zip(*columns, strict=True):
                lines.writelines(f"{query_id(pair_id, number)} 0 {target_id} 1\n" for number in range(texts))


def _configurations(export_plan: Plan) -> list[dict[str, Any]]:
    """``configs`` of the card, by whose names Tevatron asks for queries and corpus."""
    found: list[dict[str, Any]] = []
    for name in export_plan.sets():
        ending, inside = ("", "") if name == MAIN else (f"_{name}", f"{name}/")
        splits = [s for s in export_plan.settings.splits if export_plan.count(name, s)]
        if splits:
            files = [{"split": s, "path": f"{inside}queries/{s}-*.parquet"} for s in splits]
            found.append({"config_name": f"queries{ending}", "data_files": files, **({"default": True} if not found else {})})
            files = [{"split": _CORPUS_SPLIT, "path": f"{inside}corpus/*.parquet"}]
            found.append({"config_name": f"corpus{ending}", "data_files": files})
    return found
