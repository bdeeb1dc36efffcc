"""docs/rescaling.md is true: each change of its table computes as many partitions of each stage as it says, and no other."""

import shlex

import pytest

from bench.rescaling import STAGES, change, documented, run
from mmret.freshness.survey import survey
from mmret.ingest.seal import seal
from mmret.lake.configuration import resolve
from mmret.settings import parse_override
from mmret.stages import names_of

FIRST, TABLE = documented()
SETTINGS = {
    arguments: shlex.split(arguments)[1::2]
    for arguments in TABLE
    if set(shlex.split(arguments)[::2]) == {"--set"} and "corpus." not in arguments
}


def test_the_table_has_a_row_for_growing_shrinking_shard_size_band_prompt_and_model():
    assert len(TABLE) >= 7 and all(row.keys() == set(STAGES) for row in TABLE.values())
    for part in ("--images", "corpus.images", "--shard-size", "mine.bands", "annotate.", "towers.seed"):
        assert any(part in arguments for arguments in TABLE), part


@pytest.mark.parametrize("arguments", SETTINGS)
def test_a_changed_setting_makes_stale_what_the_table_says(lake, arguments):
    """On a lake of two shards instead of four, and without computing: what follows from a stale partition counts with it."""
    settings = resolve(lake, overrides=dict(map(parse_override, SETTINGS[arguments])))[0]
    touched = dict.fromkeys(STAGES, 0)
    for status in survey(lake, settings):
        touched[status.table] += status.state != "current"
    shards = len(lake.shards())
    assert {t: n * 4 // shards if t in names_of("shard") else n for t, n in touched.items()} == TABLE[arguments]


@pytest.mark.parametrize(
    ("arguments", "choice"),
    [
        ('--images "shapes:250?seed=3"', {"sources": ["shapes:230?seed=3"]}),
        ("--set corpus.images=150", {"overrides": {"corpus.images": 150}}),
        ("--shard-size 500", {"shard_size": 500}),
    ],
)
def test_a_corpus_that_grows_or_shrinks_makes_stale_what_the_table_says(lake, arguments, choice):
    """The same without computing: one shard more or one shard cut short, of two instead of four."""
    before = len(lake.shards())
    settings = resolve(lake, **choice)[0]
    for shard, rows in seal(lake, settings.corpus, settings.ingest):
        lake.write("corpus_manifest", shard, rows, inputs="")
    touched = dict.fromkeys(STAGES, 0)
    for status in survey(lake, settings):
        touched[status.table] += status.state != "current"
    shards = len(lake.shards())
    scaled = {t: 4 + shards - before if t in names_of("shard") and n == shards else n for t, n in touched.items()}
    assert scaled == TABLE[arguments]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_change_computes_what_the_table_says(tmp_path):
    run(tmp_path / "lake", FIRST)
    found = {arguments: change(tmp_path / "lake", tmp_path, arguments)[0] for arguments in TABLE}
    assert found == TABLE
