"""Fetches triplets a page at a time; filters become SQL with bound values, so that text is never executed as SQL.

The rows of a page are found first, with only the columns that the filters need; then those rows are joined with captions, scores
and decisions. Cost: without a filter the first page of a million triplets reads one row group.
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from mmret.curation.licences import triplet_licences
from mmret.schemas import SIGNALS
from mmret.settings import Settings, Signal
from mmret.web.tables import Tables

PAGE = 20
Order = Literal["table", "clip_image", "-clip_image", "dino_image", "-dino_image", "caption", "-caption"]


class Filters(Settings):
    """Which triplets to show. ``pair_ids``: only those that a free SQL query returned, in its order."""

    shard: str | None = None
    split: Literal["train", "test"] | None = None
    signal: Signal | None = Field(None, description="that found the pair")
    scores: dict[Signal, tuple[float, float]] = Field({}, description="least and most, both included")
    text: str = Field("", description="contained in an instruction or in a caption of either picture, upper or lower case")
    decision: Literal["undecided", "accepted", "rejected"] | None = None
    licences: tuple[str, ...] | None = Field(None, description="texts of the licence column; '' where none is given")
    order: Order = "table"
    pair_ids: tuple[str, ...] | None = None

    def empty(self) -> bool:
        return self == Filters()


def _query(filters: Filters) -> tuple[str, str, dict[str, Any]]:
    """``FROM ... WHERE ...``, ``ORDER BY ...`` and the values."""
    joins, where, values = ["triplets_by_shard t"], [], {}
    if filters.scores or filters.order != "table":
        joins.append("JOIN pairs_by_shard p ON p.shard = t.shard AND p.pair_id = t.pair_id")
    for name in ("shard", "split"):
        if value := getattr(filters, name):
            where.append(f"t.{name} = ${name}")
            values[name] = value
    if filters.licences is not None:
        where.append("coalesce(t.licence, '') IN (SELECT unnest($licences))")
        values["licences"] = list(filters.licences)
    if filters.signal:
        where.append("list_contains(t.signals, $signal)")
        values["signal"] = filters.signal
    for signal, (low, high) in filters.scores.items():
        where.append(f"p.{signal}_score BETWEEN ${signal}_low AND ${signal}_high")
        values |= {f"{signal}_low": low, f"{signal}_high": high}
    if filters.text:
        values["text"] = filters.text
        captioned = "(SELECT image_id FROM images WHERE contains(lower(caption), lower($text)))"
        where.append(
            f"(contains(lower(array_to_string(t.texts, chr(10))), lower($text)) OR t.query_id IN {captioned} "
            f"OR t.target_id IN {captioned})"
        )
    if filters.decision == "undecided":
        where.append("t.pair_id NOT IN (SELECT pair_id FROM decided)")
    elif filters.decision:
        where.append("t.pair_id IN (SELECT pair_id FROM decided WHERE decision = $decision)")
        values["decision"] = filters.decision
    if filters.pair_ids is not None:
        joins.append("JOIN chosen c ON c.pair_id = t.pair_id")
    signal = filters.order.lstrip("-")
    order = "ORDER BY c.place" if filters.pair_ids is not None and filters.order == "table" else ""
    if filters.order != "table":
        order = f"ORDER BY p.{signal}_score {'DESC' if filters.order.startswith('-') else 'ASC'} NULLS LAST, t.pair_id"
    return "FROM " + " ".join(joins) + (" WHERE " + " AND ".join(where) if where else ""), order, values


def _relations(tables: Tables, filters: Filters) -> dict[str, pa.Table]:
    relations = {"decided": tables.decisions()} if filters.decision else {}
    if filters.pair_ids is not None:
        ids = pa.array(filters.pair_ids, pa.string())
        relations["chosen"] = pa.table({"pair_id": ids, "place": pa.array(range(len(ids)), pa.int64())})
    return relations


def count(tables: Tables, filters: Filters) -> int:
    """How many triplets the filters leave."""
    where, _, values = _query(filters)
    return tables.rows(f"SELECT count(*) AS n {where}", values, **_relations(tables, filters))[0]["n"]


def page(tables: Tables, filters: Filters, number: int = 0, size: int = PAGE) -> list[dict[str, Any]]:
    """Rows of page ``number`` (from 0): the columns of ``triplets``, ``shard``, the scores, both captions and ``decision``."""
    where, order, values = _query(filters)
    values |= {"size": size, "start": number * size}
    # where rows are sorted or sifted, only their ids are carried through it
    columns = "t.*" if filters.empty() else "t.shard, t.pair_id"
    found = tables.rows(f"SELECT {columns} {where} {order} LIMIT $size OFFSET $start", values, **_relations(tables, filters))
    if found and not filters.empty():
        rows = {r["pair_id"]: r for r in tables.rows(f"SELECT * FROM triplets_by_shard WHERE {_at(found)}")}
        found = [rows[r["pair_id"]] for r in found]
    return _with_details(tables, found) if found else []


def by_id(tables: Tables, pair_id: str) -> dict[str, Any] | None:
    """One triplet as :func:`page` gives it, None where there is none of this id."""
    found = tables.rows("SELECT * FROM triplets_by_shard WHERE pair_id = $id", {"id": pair_id})
    return _with_details(tables, found[:1])[0] if found else None


def _with_details(tables: Tables, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    scores = {
        r["pair_id"]: r
        for r in tables.rows(f"SELECT pair_id, {', '.join(f'{s}_score' for s in SIGNALS)} FROM pairs_by_shard WHERE {_at(rows)}")
    }
    images = images_of(tables, [r[role] for r in rows for role in ("query_id", "target_id")])
    decided = decisions_of(tables, [r["pair_id"] for r in rows])
    return [
        {
            **r,
            **{f"{s}_score": scores.get(r["pair_id"], {}).get(f"{s}_score") for s in SIGNALS},
            "query_caption": images.get(r["query_id"], {}).get("caption"),
            "target_caption": images.get(r["target_id"], {}).get("caption"),
            "decision": decided.get(r["pair_id"]),
        }
        for r in rows
    ]


def _at(rows: list[dict[str, Any]]) -> str:
    """SQL condition for the rows of these pairs in a table that has a view by shard."""
    return f"{in_list('shard', sorted({r['shard'] for r in rows}))} AND {in_list('pair_id', [r['pair_id'] for r in rows])}"


def images_of(tables: Tables, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Rows of table ``images`` by id."""
    return {r["image_id"]: r for r in tables.rows(f"SELECT * FROM images WHERE {in_list('image_id', ids)}")} if ids else {}


def decisions_of(tables: Tables, pair_ids: list[str]) -> dict[str, str]:
    """The latest decision on each pair of ``pair_ids`` that has one."""
    import pyarrow.compute as pc

    decided = tables.decisions()
    rows = decided.filter(pc.is_in(decided["pair_id"], pa.array(pair_ids, pa.string())))
    return dict(zip(rows["pair_id"].to_pylist(), rows["decision"].to_pylist(), strict=True))


def in_list(column: str, ids: list[str]) -> str:
    """``column IN (...)`` for ids or shard names (letters, digits, hyphens), written out so that DuckDB can prune files."""
    plain = [i for i in dict.fromkeys(ids) if i.replace("-", "").replace("_", "").isalnum()]
    return f"{column} IN ({', '.join(repr(i) for i in plain)})" if plain else "false"


def choices(tables: Tables) -> dict[str, Any]:
    """The values that the filters can be set to: ``shards``, ``licences`` (name to its texts in the tables and its number of
    triplets, largest first) and ``scores`` (minimum and maximum of each)."""
    ranges = tables.rows(
        "SELECT " + ", ".join(f"min({s}_score) AS {s}_low, max({s}_score) AS {s}_high" for s in SIGNALS) + " FROM pairs"
    )[0]
    licences: dict[str, tuple[tuple[str, ...], int]] = {}
    for row in tables.rows("SELECT coalesce(licence, '') AS text, count(*) AS n FROM triplets GROUP BY ALL ORDER BY n DESC, 1"):
        for licence in triplet_licences(row["text"]):
            texts, n = licences.get(licence.name, ((), 0))
            licences[licence.name] = ((*texts, row["text"]), n + row["n"])
    return {
        "shards": tables.lake.partitions("triplets"),
        "licences": dict(sorted(licences.items(), key=lambda item: (-item[1][1], item[0]))),
        "scores": {s: (ranges[f"{s}_low"], ranges[f"{s}_high"]) for s in SIGNALS if ranges[f"{s}_low"] is not None},
    }
