"""Partitions of empty tables, written as the stages would that computed them from what is there now."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from mmret.freshness.fingerprints import inputs_of
from mmret.freshness.survey import survey
from mmret.lake import Lake
from mmret.lake.inputs import record_inputs
from mmret.schemas import TABLES
from mmret.settings import load_profile
from mmret.stages import FINGERPRINTED_STAGES, STAGES
from tests.mine.lakes import filled

SHARDS = ["shard-00000", "shard-00001", "shard-00002"]
LINKED = {SHARDS[0]: SHARDS[:2], SHARDS[1]: SHARDS[:2], SHARDS[2]: SHARDS[2:]}
PROFILE = load_profile("demo")


def compute(lake: Lake, table: str, partition: str, rows: pa.Table | None = None) -> None:
    """Write a partition as a stage would that was computed from what is there now."""
    inputs = inputs_of(lake, PROFILE, table, partition)
    record_inputs(lake, inputs)
    notes = {"linked_shards": LINKED[partition]} if table in ("neighbours", "pairs") else {}
    for written in STAGES[table].tables:
        lake.write(written, partition, TABLES[written].empty_table() if rows is None else rows, inputs.fingerprint, **notes)


def seal(lake: Lake, shard: str) -> None:
    lake.write("corpus_manifest", shard, TABLES["corpus_manifest"].empty_table(), "x")


def images(licence: str) -> pa.Table:
    return filled(TABLES["images"], {"image_id": ["a"], "caption": ["a cat"], "licence": [licence]})


def triplets(rows: int) -> pa.Table:
    return filled(TABLES["triplets"], {"pair_id": [f"{n:032x}" for n in range(rows)]})


def current_lake(root: Path) -> Lake:
    """Every stage of three shards, current; the pairs of the first two point to each other's images, the third's to its own."""
    lake = Lake(root)
    for shard in SHARDS:
        seal(lake, shard)
    for name, stage in FINGERPRINTED_STAGES.items():
        for partition in {"shard": SHARDS, "whole": ["all"], "recipe": ["demo"]}[stage.partitions]:
            compute(lake, name, partition)
    assert {s.state for s in survey(lake, PROFILE)} == {"current"}
    return lake
