"""Invariants: neighbours of a lake that grew equal those of a fresh merge; a file that the partition of before holds is not read
again; whatever else changed (k, an older file, the partition's own fingerprint) leads to a whole merge."""

from __future__ import annotations

import pyarrow as pa
import pytest

from mmret.freshness.fingerprints import current_facts, inputs_of
from mmret.lake import Lake
from mmret.lake.inputs import record_inputs
from mmret.mine.stage import mine_neighbours
from mmret.schemas import CANDIDATES, CORPUS_MANIFEST, SIGNALS
from mmret.settings import Profile, load_profile
from tests.mine.lakes import filled

FIRST = "shard-00000"
PROFILE = load_profile("demo", {"mine.k": 4})


def add_candidates(lake: Lake, at: int, shift: float = 0) -> None:
    """Shard ``at`` and its file: it speaks of the images of every shard so far, some of them near-duplicates."""
    shard = f"shard-{at:05d}"
    lake.write("corpus_manifest", shard, filled(CORPUS_MANIFEST, {"shard": [shard], "image_id": [f"{at}"]}), "x")
    rows = [
        {
            "query_shard": f"shard-{of:05d}",
            "query_id": f"{of}-{image}",
            "signal": signal,
            "target_id": f"{at}-{target}",
            "score": (score := 0.5 + (37 * image + 11 * target + 7 * at + shift) % 50 / 100),
            "above_band": score > 0.9,
        }
        for of in range(at + 1)
        for signal in SIGNALS
        for image in range(3)
        for target in range(6)
    ]
    lake.write("candidates", shard, pa.Table.from_pylist(rows, CANDIDATES), "x")


def merge(lake: Lake, profile: Profile = PROFILE, inputs: str | None = None) -> pa.Table:
    parts = inputs_of(lake, profile, "neighbours", FIRST)
    record_inputs(lake, parts)
    mine_neighbours(lake, FIRST, profile.mine, inputs or parts.fingerprint)
    return lake.read("neighbours", FIRST)


def fresh(lake: Lake, profile: Profile = PROFILE) -> pa.Table:
    lake.path("neighbours", FIRST).unlink()
    return merge(lake, profile)


@pytest.fixture
def lake(tmp_path) -> Lake:
    made = Lake(tmp_path)
    for at in range(3):
        add_candidates(made, at)
    merge(made)
    return made


@pytest.fixture
def read(monkeypatch) -> list[tuple]:
    """(table, partition) of what is read from here on."""
    seen, plain = [], Lake.read

    def noted(self, table, partitions=None, *args, **kwargs):
        seen.append((table, partitions))
        return plain(self, table, partitions, *args, **kwargs)

    monkeypatch.setattr(Lake, "read", noted)
    return seen


@pytest.mark.parametrize("new", [1, 2])
def test_growth_reads_the_new_files_and_equals_a_fresh_merge(lake, read, new):
    for at in range(3, 3 + new):
        add_candidates(lake, at)
    grown = merge(lake)
    assert read[:-1] == [("neighbours", FIRST), *(("candidates", f"shard-{at:05d}") for at in range(3, 3 + new))]
    assert current_facts(lake, PROFILE, "neighbours", FIRST)
    assert grown == fresh(lake) and any(target.startswith("3-") for target in grown["target_id"].to_pylist())


def test_a_file_that_was_recomputed_is_never_mixed_with_its_old_edges(lake, read):
    before = merge(lake)
    add_candidates(lake, 1, shift=13)
    add_candidates(lake, 3)
    read.clear()
    grown = merge(lake)
    assert read[:-1] == [("candidates", f"shard-{at:05d}") for at in range(4)]
    assert grown == fresh(lake) and grown != before


def test_the_newest_file_recomputed_replaces_its_old_edges(lake, read):
    add_candidates(lake, 2, shift=13)
    grown = merge(lake)
    assert read[:-1] == [("candidates", f"shard-{at:05d}") for at in range(3)] and grown == fresh(lake)


@pytest.mark.parametrize("before", [{"profile": load_profile("demo", {"mine.k": 2})}, {"inputs": "of another version"}])
def test_another_k_or_version_before_leads_to_a_whole_merge(lake, read, before):
    merge(lake, **before)
    add_candidates(lake, 3)
    read.clear()
    grown = merge(lake)
    assert read[:-1] == [("candidates", f"shard-{at:05d}") for at in range(4)] and grown == fresh(lake)
