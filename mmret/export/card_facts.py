"""Everything a card says of a lake, asked of its tables: nothing in a card is typed in by hand.

Cost: some twenty aggregates in DuckDB; a million triplets take a few seconds.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from mmret.annotate.quality.coverage import lake_coverage
from mmret.curation.decisions import latest_decisions
from mmret.curation.licences import Licence, read_licence, triplet_licences
from mmret.errors import UserError
from mmret.lake import Facts, Lake
from mmret.schemas import SIGNALS, TABLES
from mmret.settings import Profile

SCORE_BINS = 100


@dataclass
class LakeFacts:
    """Counts and distributions of a lake; ``ask`` runs SQL over its views."""

    lake: Lake
    profile: Profile
    counts: dict[str, int]
    splits: dict[str, int]
    sources: list[dict[str, Any]]
    rejects: dict[str, int]
    image_licences: dict[Licence, int]
    triplet_licences: dict[Licence, int]
    annotators: list[dict[str, Any]]
    encoders: dict[str, str]
    bands: dict[str, list[float]]
    decisions: dict[str, int]
    leaks: dict[str, int]
    evaluations: list[dict[str, Any]]
    scores: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    words: list[tuple[int, int]] = field(default_factory=list)
    sides: list[tuple[int, int]] = field(default_factory=list)
    changes: dict[str, Any] | None = None
    """What the pairs change (:func:`mmret.annotate.quality.coverage.coverage`)."""
    duplicate_groups: int = 0
    picture_scores: list[dict[str, Any]] = field(default_factory=list)
    """Per scorer: how many pictures, and the lowest, the tenth in a hundred, the middle, the ninetieth and the highest score."""
    texts: int = 0
    queries: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    """Rows of table ``tasks`` by kind of query, in their order."""


def gather_facts(lake: Lake, profile: Profile) -> LakeFacts:
    """Ask the lake, run with ``profile``. Raises UserError where it has no tables."""
    from mmret.warehouse import connect

    connection = connect(lake, getattr(lake, "state", None))

    def ask(sql: str) -> list[dict[str, Any]]:
        found = connection.execute(sql)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def pairs(sql: str) -> list[tuple[Any, Any]]:
        return [tuple(row.values()) for row in ask(sql)]

    bands = [f.notes["bands"] for f in _facts(lake, "candidates") if f.notes.get("bands")]
    decided = latest_decisions(lake)["decision"].value_counts().to_pylist()
    facts = LakeFacts(
        lake,
        profile,
        counts={t: sum(f.rows for f in _facts(lake, t)) for t in TABLES},
        splits=dict(pairs("SELECT split, count(*) FROM triplets GROUP BY ALL ORDER BY split DESC")),
        sources=[
            {**row, "root": source_label(row["root"])}
            for row in ask(
                "SELECT root, count(*) images, min(caption_words) shortest, median(caption_words) median, max(caption_words) "
                "longest FROM images GROUP BY root ORDER BY images DESC"
            )
        ],
        rejects=dict(pairs("SELECT reason, count(*) FROM rejects GROUP BY ALL ORDER BY 2 DESC, 1")),
        image_licences=_by_licence(pairs("SELECT licence, count(*) FROM images GROUP BY ALL"), lambda text: (read_licence(text),)),
        triplet_licences=_by_licence(pairs("SELECT licence, count(*) FROM triplets GROUP BY ALL"), triplet_licences),
        annotators=ask(
            "SELECT d.model AS description_model, d.prompt_version AS description_prompt, i.model AS instruction_model, "
            "i.prompt_version AS instruction_prompt, count(*) AS triplets FROM triplets t JOIN descriptions d USING (pair_id) "
            "JOIN instructions i USING (pair_id) GROUP BY ALL ORDER BY triplets DESC, 1, 2, 3, 4"
        ),
        encoders={s: ", ".join(m for m, _ in pairs(f"SELECT model, count(*) FROM {s} GROUP BY ALL ORDER BY 1")) for s in SIGNALS},
        bands=bands[-1] if bands else {},
        decisions={row["values"]: row["counts"] for row in decided},
        leaks=dict(pairs("SELECT benchmark, count(DISTINCT image_id) FROM leaks GROUP BY ALL ORDER BY 1")),
        evaluations=_latest_evaluations(lake),
        changes=_changes(lake),
    )
    for signal in SIGNALS:
        facts.scores[signal] = pairs(
            f"SELECT floor(p.{signal}_score * {SCORE_BINS}) / {SCORE_BINS} AS low, count(*) FROM triplets t JOIN pairs p "
            f"USING (pair_id) WHERE list_contains(t.signals, '{signal}') AND p.{signal}_score IS NOT NULL GROUP BY ALL ORDER BY 1"
        )
    facts.words = pairs(
        "SELECT len(string_split(trim(text), ' ')) AS words, count(*) "
        "FROM (SELECT unnest(texts) AS text FROM triplets) GROUP BY ALL ORDER BY 1"
    )
    facts.sides = pairs("SELECT greatest(width, height) AS side, count(*) FROM images GROUP BY ALL ORDER BY 1")
    for shard in _facts(lake, "tasks"):
        facts.tasks.update(shard.notes.get("tasks") or {})
    facts.duplicate_groups = pairs("SELECT count(DISTINCT group_id), 0 FROM duplicates")[0][0]
    facts.picture_scores = ask(
        "SELECT scorer, count(*) AS pictures, quantile_cont(value, [0, 0.1, 0.5, 0.9, 1]) AS spread FROM scores "
        "GROUP BY scorer ORDER BY scorer"
    )
    facts.texts, facts.queries = pairs("SELECT coalesce(sum(len(texts)), 0)::BIGINT, count(DISTINCT query_id) FROM triplets")[0]
    return facts


def source_label(root: str) -> str:
    """What a card calls a source: a folder's or file's own name, never where it lies on someone's disk."""
    return root if root.startswith("shapes:") or "://" in root else Path(root).name


def _by_licence(counts: list[tuple[str | None, int]], read: Any) -> dict[Licence, int]:
    total: dict[Licence, int] = {}
    for text, n in counts:
        for licence in read(text):
            total[licence] = total.get(licence, 0) + n
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0].name)))


def _facts(lake: Lake, table: str) -> list[Facts]:
    """The facts of every partition; none where an earlier state of the lake has no versions of ``table``."""
    try:
        return [facts for p in lake.partitions(table) if (facts := lake.facts(table, p))]
    except UserError:
        return []


def _changes(lake: Lake) -> dict[str, Any] | None:
    """What the pairs change; None where an earlier state of the lake has no pairs."""
    return lake_coverage(lake) if _facts(lake, "pairs") else None


def _latest_evaluations(lake: Lake) -> list[dict[str, Any]]:
    """Rows of ``evaluations``, the last of each recipe, benchmark and metric; an earlier state of a lake has none."""
    if not _facts(lake, "evaluations"):
        return []
    rows = pl.from_arrow(lake.read("evaluations")).unique(["recipe", "benchmark", "metric"], keep="last", maintain_order=True)
    return rows.to_dicts()


def settings_rows(profile: Profile, configuration: dict[str, Any]) -> list[tuple[str, str]]:
    """Settings of mining, annotation and the held-out slice as ``(dotted name, value)``; overrides of the lake among them."""
    shown = {
        "mine": profile.mine.model_dump(mode="json", exclude={"tile", "device"}),
        "evaluate.held_out": profile.evaluate.held_out,
        "annotate": profile.annotate.model_dump(mode="json", exclude={"vision", "language_model"}),
    }
    flat: list[tuple[str, str]] = []
    for name, value in shown.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        flat += [(f"{name}.{key}".rstrip("."), json.dumps(part, ensure_ascii=False)) for key, part in parts]
    done = {name for name, _ in flat}
    flat += [
        (name, json.dumps(value, ensure_ascii=False))
        for name, value in configuration.get("overrides", {}).items()
        if name not in done
    ]
    return flat
