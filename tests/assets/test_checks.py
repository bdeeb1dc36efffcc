"""Every check of the graph can fail, holds on a sound lake, and leaves alone shards that are still to be computed again."""

import pyarrow as pa
import pytest

from assets.checks import MODULES
from assets.checks.sql import Check, restrict_to_current
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.warehouse import connect

CHECKS = {f"{c.asset}: {c.name}": c for module in MODULES for c in vars(module).values() if isinstance(c, Check)}
SHARD = "shard-00000"


def failing(lake: Lake, asset: str) -> list[str]:
    """Names of the checks of ``asset`` that find something."""
    connection = connect(lake)
    restrict_to_current(connection, lake, resolve(lake)[0], asset)
    return [name for name, check in CHECKS.items() if check.asset == asset and list(check.violations(lake, connection))]


def rewrite(lake: Lake, table: str, change, shard: str = SHARD) -> None:
    """Damage a partition without leaving a trace in its fingerprint."""
    facts = lake.facts(table, shard)
    lake.write(table, shard, change(lake.read(table, shard)), facts.inputs, **facts.notes)


def less(rows: pa.Table) -> pa.Table:
    return rows.slice(1)


def doubled(rows: pa.Table) -> pa.Table:
    return pa.concat_tables([rows.slice(0, 1), rows.slice(0, rows.num_rows - 1)])


def with_column(name: str, value):
    def change(rows: pa.Table) -> pa.Table:
        values = [value, *rows[name].to_pylist()[1:]]
        field = rows.schema.field(name)
        return rows.set_column(rows.schema.names.index(name), field, pa.array(values, field.type))

    return change


DAMAGE = {
    "images: rows_of_corpus_manifest_are_conserved": ("rejects", lambda rows: pa.Table.from_pylist([{"path": "x"}], rows.schema)),
    **{f"{s}: rows_of_images_are_conserved": (s, less) for s in ("clip_image", "dino_image", "caption")},
    **{f"{s}: image_ids_are_unique": (s, doubled) for s in ("images", "clip_image", "dino_image", "caption")},
    "descriptions: rows_of_pairs_are_conserved": ("descriptions", less),
    "instructions: rows_of_descriptions_are_conserved": ("instructions", less),
    "triplets: rows_of_pairs_are_conserved": ("triplets", less),
    **{f"{t}: pair_ids_are_unique": (t, doubled) for t in ("pairs", "descriptions", "instructions", "triplets")},
    "neighbours: neighbours_are_images": ("neighbours", with_column("target_id", "0" * 32)),
    "triplets: triplets_are_images": ("triplets", with_column("hard_negatives", ["0" * 32])),
    "triplets: triplets_are_pairs": ("triplets", with_column("target_id", "0" * 32)),
}


def test_a_sound_lake_passes_every_check(lake):
    assert [name for asset in {check.asset for check in CHECKS.values()} for name in failing(lake, asset)] == []


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_table_fails_its_check(lake, name):
    rewrite(lake, *DAMAGE[name])
    assert name in failing(lake, CHECKS[name].asset)


def test_shards_that_are_still_to_be_computed_again_do_not_fail_a_run_over_others(lake):
    """Pairs of one shard are new, its triplets are not yet: nothing is wrong with the run that made them."""
    rewrite(lake, "pairs", less)
    assert failing(lake, "triplets") == []
    rewrite(lake, "triplets", with_column("target_id", "0" * 32), "shard-00001")
    assert "triplets: triplets_are_pairs" in failing(lake, "triplets")
