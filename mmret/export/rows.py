"""Which triplets an export writes: one function that every format reads, and the settings that choose.

An export is divided twice: by split, and by licence where the settings keep some terms apart (:mod:`mmret.curation.licences`); each
such set lies in a folder of its own with its own pictures, so that it can be passed on or left behind alone. Cost: a shard's
triplets at a time, plus 34 bytes for every distinct picture.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from mmret.curation.decisions import apply_decisions, decisions_fingerprint
from mmret.curation.licences import MAIN, licence_sets
from mmret.curation.opted_out import without_opted_out
from mmret.errors import UserError
from mmret.hashing import fingerprint
from mmret.lake import Lake
from mmret.settings import LicenceSettings, Settings

Split = Literal["train", "test"]


class ExportSettings(Settings):
    splits: tuple[Split, ...] = Field(("train", "test"), min_length=1)
    decisions: Literal["ignore", "without_rejected", "only_accepted"] = "ignore"
    licences: LicenceSettings = LicenceSettings()
    pictures: Literal["rows", "once"] = Field(
        "rows", description="huggingface: query and target pictures in every row, or each picture only once, in 'images'"
    )
    negatives: int = Field(3, ge=0, description="webdataset: mined negatives whose pictures are in a sample (paper: 3)")
    file_bytes: int = Field(400 * 2**20, ge=1, description="files are rolled over at about this size")


def triplets(lake: Lake, shard: str, settings: ExportSettings) -> dict[tuple[str, str], pa.Table]:
    """Triplets of one shard to export, in the table's order and with its columns, by (set, split).

    Set ``main`` is always there for every split; the others are licence terms that the settings keep apart.
    """
    rows = without_opted_out(apply_decisions(lake, lake.read("triplets", shard), settings.decisions), lake)
    images = None if settings.licences.keeps_all() else lake.read("images", columns=["image_id", "licence"])
    sets = {MAIN: rows} if images is None else licence_sets(rows, settings.licences, images).sets
    return {(name, split): part.filter(pc.equal(part["split"], split)) for name, part in sets.items() for split in settings.splits}


@dataclass(frozen=True)
class Piece:
    """One file to write: rows ``start`` to ``start + rows`` of what a shard has for a set and split; ``number`` from 0."""

    set: str
    split: str
    shard: str
    start: int
    rows: int
    number: int


@dataclass
class Plan:
    """What an export will write. ``images``: distinct ids per set, sorted; ``left_out``: triplets by reason."""

    settings: ExportSettings
    identity: str
    rows: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    images: dict[str, pa.Array] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def sets(self) -> list[str]:
        return sorted(self.images, key=lambda name: (name != MAIN, name))

    def count(self, name: str, split: str) -> int:
        return sum(self.rows.get((name, split), Counter()).values())

    def pieces(self, rows_per_file: int) -> list[Piece]:
        """Files of at most ``rows_per_file`` triplets, none across shards, in the order of the tables."""
        found = []
        for (name, split), shards in self.rows.items():
            number = 0
            for shard, rows in shards.items():
                for start in range(0, rows, rows_per_file):
                    found.append(Piece(name, split, shard, start, min(rows_per_file, rows - start), number))
                    number += 1
        return found


def plan(lake: Lake, settings: ExportSettings, format_: str) -> Plan:
    """Count what there is to export. Raises UserError where there is nothing; ``identity`` changes when any row would."""
    shards = lake.partitions("triplets")
    if not shards:
        raise UserError(f"{lake.address} has no triplets yet: run `mmret run --lake {lake.address}` first")
    digests = [(t, p, lake.facts(t, p).digest) for t in ("triplets", "images") for p in lake.partitions(t)]
    export_plan = Plan(
        settings, fingerprint(format_, settings.model_dump(), digests, decisions_fingerprint(lake, settings.decisions))
    )
    images: dict[str, list[pa.Array]] = {MAIN: []}
    total = 0
    for shard in shards:
        facts = lake.facts("triplets", shard)
        total += facts.rows if facts else 0
        for (name, split), rows in triplets(lake, shard, settings).items():
            if rows.num_rows or name == MAIN:
                export_plan.rows.setdefault((name, split), Counter())[shard] += rows.num_rows
                images.setdefault(name, []).append(_image_ids(rows))
        images = {name: [pc.unique(pa.chunked_array(parts, pa.string()))] for name, parts in images.items()}
    export_plan.images = {name: parts[0].take(pc.array_sort_indices(parts[0])) for name, parts in images.items()}
    written = sum(export_plan.count(*key) for key in export_plan.rows)
    if not written:
        raise UserError(f"nothing to export: of {total:,} triplets none is left after split, licences and decisions")
    export_plan.left_out = _left_out(lake, settings, total, written)
    return export_plan


def _image_ids(rows: pa.Table) -> pa.Array:
    columns = [rows["query_id"], rows["target_id"], pc.list_flatten(rows["hard_negatives"])]
    return pc.unique(pa.chunked_array([c for column in columns for c in column.chunks], pa.string()))


def _left_out(lake: Lake, settings: ExportSettings, total: int, written: int) -> dict[str, int]:
    splits = lake.read("triplets", columns=["pair_id", "split"])
    wanted = splits.filter(pc.is_in(splits["split"], pa.array(settings.splits)))
    decided = apply_decisions(lake, wanted, settings.decisions).num_rows
    counts = {"other split": total - wanted.num_rows, "decision": wanted.num_rows - decided, "licence": decided - written}
    return {reason: n for reason, n in counts.items() if n}
