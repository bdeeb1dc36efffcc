"""Every check of the graph can fail, holds on a sound lake, and leaves alone shards that are still to be computed again."""

import dataclasses

import dagster as dg
import pyarrow as pa
import pytest

from assets.checks import MODULES, mining
from assets.checks.by_partition import Finding
from assets.checks.sql import Check, restrict_to_current
from assets.partitions import PARTITIONS
from mmret.assemble.stage import make_tasks
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.mine import stage as mine_stage
from mmret.schemas import SIGNALS, TABLES
from mmret.score.stage import found_wanting, score_shard
from mmret.settings import QualitySettings
from mmret.stages import stage_of
from mmret.warehouse import connect
from resources.lake import LakeResource, ProfileResource
from tests.assets.damage import (
    NOBODY,
    SHARD,
    caption_written,
    doubled,
    group,
    leak,
    less,
    log_of,
    measured,
    negative,
    refuse,
    rewrite,
    same_as,
    settle,
    with_column,
    without,
)

CHECKS = {f"{c.asset}: {c.name}": c for module in MODULES for c in vars(module).values() if isinstance(c, Check)}


def find(lake: Lake, asset: str) -> dict[str, Finding]:
    """What each check of ``asset`` finds."""
    connection, profile = connect(lake), resolve(lake)[0]
    files = restrict_to_current(connection, lake, profile, asset)
    return {name: check.find(lake, connection, profile, files) for name, check in CHECKS.items() if check.asset == asset}


def failing(lake: Lake, asset: str) -> list[str]:
    """Names of the checks of ``asset`` that find what must not be; a quality beyond its limit is a warning."""
    must = {name: found for name, found in find(lake, asset).items() if found.severity == dg.AssetCheckSeverity.ERROR}
    return [name for name, found in must.items() if not found.passed]


DAMAGE = {
    "images: rows_of_corpus_manifest_are_conserved": [
        ("rejects", lambda rows: pa.Table.from_pylist([{"path": "x"}], rows.schema)),
        ("images", less),
    ],
    **{f"{s}: rows_of_images_are_conserved": [(s, less)] for s in SIGNALS},
    **{f"{s}: image_ids_are_unique": [(s, doubled)] for s in ("images", *SIGNALS)},
    "descriptions: rows_of_pairs_are_conserved": [("descriptions", less)],
    "instructions: rows_of_descriptions_are_conserved": [("instructions", less)],
    "triplets: rows_of_pairs_are_conserved": [("triplets", less)],
    **{f"{t}: pair_ids_are_unique": [(t, doubled)] for t in ("pairs", "descriptions", "instructions", "triplets")},
    "neighbours: neighbours_are_images": [("neighbours", with_column(c, NOBODY)) for c in ("query_id", "target_id")],
    "pairs: no_orphan_ids": [
        *(("pairs", with_column(c, NOBODY)) for c in ("query_id", "target_id")),
        ("pairs", with_column("hard_negatives", [NOBODY])),
    ],
    "pairs: target_is_not_a_negative": [
        ("pairs", same_as("target_id", lambda target: ["a", target], hard_negatives="target_id")),
        ("pairs", same_as("target_id", query_id="target_id")),
    ],
    "pairs: no_benchmark_picture": [lambda lake, c=c: leak(lake, c) for c in ("query_id", "target_id", "hard_negatives")],
    "triplets: triplets_are_images": [
        *(("triplets", with_column(c, NOBODY)) for c in ("query_id", "target_id")),
        ("triplets", with_column("hard_negatives", [NOBODY])),
    ],
    "triplets: triplets_are_pairs": [("triplets", with_column(c, NOBODY)) for c in ("query_id", "target_id", "pair_id")],
    "triplets: three_instructions_and_the_query_first": [
        ("triplets", with_column("texts", ["one", "two", "one"])),
        ("triplets", same_as("target_id", lambda target: [target], hard_negatives="target_id")),
    ],
    "duplicates: groups_are_of_two_or_more": [
        lambda lake: group(lake, pictures=1, members=(0,)),
        lambda lake: group(lake, pictures=3),
        lambda lake: group(lake, called=2),
        lambda lake: group(lake, members=(0, 3)),
    ],
    "tasks: no_hard_negative_is_right": [
        ("tasks", negative(picture="target_id")),
        ("tasks", negative(caption="target_caption")),
        ("tasks", negative(captions=2)),
    ],
    "tasks: every_captioned_picture_is_asked_for": [("tasks", without(task)) for task in ("text_to_image", "image_to_text")],
    "instructions: every_pair_is_a_row": [
        ("instructions", less),
        lambda lake: (rewrite(lake, "descriptions", less), settle(lake, "instructions")),
    ],
    "rejects: sources_are_mostly_taken": [lambda lake: refuse(lake, 0.2)],
    "written_captions: pictures_without_caption_are_conserved": [lambda lake: caption_written(lake, 1, lacking=True)],
    "images: written_captions_are_conserved": [lambda lake, at=at: caption_written(lake, at) for at in (0, 10_000)],
    "checkpoints: loss_is_finite": [
        lambda lake: log_of(lake, [2.0, float("nan"), 1.0]),
        lambda lake: log_of(lake, [2.0, None, 1.0]),
    ],
    "checkpoints: loss_fell": [
        lambda lake: log_of(lake, [1.0] * 30),
        lambda lake: log_of(lake, [1.0, *[9.0] * 28, 1.1]),
        lambda lake: log_of(lake, [3.0, 3.0, 3.0, *[9.0] * 24, 2.0, 3.0, 4.0]),
    ],
    "evaluations: answers_keep_when_reworded": [
        lambda lake: measured(lake, "robustness: wordings of held-out edits", "spread R@10", 40.1)
    ],
    "evaluations: targets_come_before_hard_negatives": [
        lambda lake: measured(lake, "robustness: hard negatives of held-out triplets", "before target", 40.1)
    ],
}
"""Ways in which each check's rule is broken."""

QUALITY = {
    "triplets: texts_do_not_tell_the_target": (lambda x: {"quality": {"redundancy": {"text_alone": x}}}, "max_text_alone", 1),
    "triplets: images_do_not_tell_the_target": (lambda x: {"quality": {"redundancy": {"image_alone": x}}}, "max_image_alone", 1),
    "triplets: texts_are_varied": (lambda x: {"quality": {"distinct_2": x}}, "min_distinct_2", -1),
    "triplets: texts_do_not_tell_the_source": (lambda x: {"quality": {"leakage": x}}, "max_leakage", 1),
}
"""What a shard's facts note, the limit, and in which direction it is passed."""
MOST_PAIRS = "triplets: most_pairs_have_texts"

WHOLE = {"rejects: sources_are_mostly_taken", "duplicates: groups_are_of_two_or_more"}
"""Checks that are of a table as a whole."""
ROBUSTNESS = {"evaluations: answers_keep_when_reworded", "evaluations: targets_come_before_hard_negatives"}
WARNING = {"rejects: sources_are_mostly_taken", "checkpoints: loss_fell", *ROBUSTNESS, *QUALITY, MOST_PAIRS}
GOES_ON = WARNING | {
    "triplets: rows_of_pairs_are_conserved",
    "neighbours: neighbours_are_images",
    "pairs: no_orphan_ids",
    "duplicates: groups_are_of_two_or_more",
    "instructions: every_pair_is_a_row",
    "tasks: every_captioned_picture_is_asked_for",
    "checkpoints: loss_is_finite",
}
"""Checks whose failure leaves the later stages to be computed all the same."""


def test_a_sound_lake_passes_every_check(lake):
    assert [name for asset in {check.asset for check in CHECKS.values()} for name in failing(lake, asset)] == []


def test_no_check_is_left_that_was_never_seen_failing():
    assert {*DAMAGE, *QUALITY, MOST_PAIRS} == set(CHECKS)


@pytest.mark.parametrize(("name", "way"), [(name, way) for name, ways in DAMAGE.items() for way in range(len(ways))])
def test_a_damaged_table_fails_its_check(lake, name, way):
    damage = DAMAGE[name][way]
    damage(lake) if callable(damage) else rewrite(lake, *damage)
    found = find(lake, CHECKS[name].asset)[name]
    assert not found.passed
    red = "demo" if name.startswith(("checkpoints", "evaluations")) else SHARD
    if name in WHOLE:
        assert found.partitions == set()
    elif name == "pairs: no_benchmark_picture":
        assert red in found.partitions, "the picture may be one of other shards' pairs too"
    else:
        assert found.partitions == {red}


def test_checks_that_can_tell_which_partition_fails_are_split_as_their_asset_is():
    assert {name for name, check in CHECKS.items() if check.partitions is None} == WHOLE
    for name, check in CHECKS.items():
        assert check.spec.partitions_def == (None if name in WHOLE else PARTITIONS[stage_of(check.asset).partitions]), name


def test_damage_is_what_fails_and_not_its_frame(lake):
    group(lake)
    rewrite(lake, "tasks", negative())
    assert failing(lake, "duplicates") == failing(lake, "tasks") == []


def with_scores(lake: Lake, **threshold: float) -> None:
    """Pictures have a score, with a threshold or without."""
    change = {"scores.light": {"kind": "measured", "measure": "brightness", **threshold}}
    lake.write_configuration(resolve(lake, overrides=change)[1])
    for shard in lake.shards():
        score_shard(lake, shard, resolve(lake)[0].scores, "x")


def test_a_picture_that_a_score_keeps_out_is_missing_from_no_task(lake):
    """Nor is any other picture let pass for it."""
    with_scores(lake)
    limit = lake.read("scores", SHARD)["value"].to_pylist()[0]
    with_scores(lake, minimum=limit)
    profile = resolve(lake)[0]
    settle(lake, "scores", "pairs", "descriptions", "instructions", "triplets")
    for shard in lake.shards():
        make_tasks(lake, shard, profile.evaluate, "x", lambda shards: found_wanting(lake, shards, profile.scores))
    settle(lake, "tasks")
    assert sum(lake.facts("tasks", SHARD).notes["kept_out"].values()) > 10
    assert failing(lake, "tasks") == []
    rewrite(lake, "tasks", without("text_to_image"))
    assert failing(lake, "tasks") == ["tasks: every_captioned_picture_is_asked_for"]


def test_rows_in_two_shards_are_found_in_both_and_in_no_third(lake):
    rewrite(lake, "pairs", lambda rows: pa.concat_tables([rows, lake.read("pairs", SHARD).slice(0, 1)]), "shard-00001")
    settle(lake, "pairs")
    assert find(lake, "pairs")["pairs: pair_ids_are_unique"].partitions == {SHARD, "shard-00001"}
    connection = connect(lake)
    files = restrict_to_current(connection, lake, resolve(lake)[0], "pairs")
    before = connection.execute("SELECT count(*) FROM pairs").fetchone()
    CHECKS["pairs: pair_ids_are_unique"].find(lake, connection, resolve(lake)[0], files)
    assert connection.execute("SELECT count(*) FROM pairs").fetchone() == before, "the next check sees all shards again"


def test_what_makes_no_sense_of_later_stages_stops_them_and_what_deserves_a_look_warns():
    assert {name for name, check in CHECKS.items() if not check.blocking} == GOES_ON
    assert {name for name, check in CHECKS.items() if check.warn} == WARNING
    broken = Check("pairs", "x", "y", lambda *_: [("row", 1)] * 30)
    results = [dataclasses.replace(broken, warn=warn).find(None, None, None, {}) for warn in (False, True)]
    assert [r.severity for r in results] == [dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN]
    assert not any(r.passed for r in results)
    assert results[0].rows == [["row", "1"]] * 20, "the first twenty are shown"


def test_robustness_warns_beyond_the_limits_of_the_settings_and_never_of_the_untrained_model(lake):
    spread = ("robustness: wordings of held-out edits", "spread R@10")
    for percent, recipe, limit, warns in (
        (40.0, "demo", 0.4, False),
        (99.0, "untrained", 0.4, False),
        (40.0, "demo", 0.39, True),
        (99.0, "demo", 1.0, False),
    ):
        measured(lake, *spread, percent, recipe)
        lake.write_configuration(resolve(lake, overrides={"evaluate.max_spread": limit})[1])
        found = {name for name, each in find(lake, "evaluations").items() if not each.passed}
        assert found == ({"evaluations: answers_keep_when_reworded"} if warns else set())


def test_a_tenth_refused_and_any_number_of_duplicates_are_no_reason_for_a_warning(lake):
    name = "rejects: sources_are_mostly_taken"
    for share, reason in ((0.1, "missing_file"), (0.9, "duplicate"), (0.9, "no_caption")):
        refuse(lake, share, reason)
        assert find(lake, "rejects")[name].passed


def test_a_loss_that_fell_passes_however_short_its_log(lake):
    for losses in ([1.0], [3.0, 2.0], [3.0, *[9.0] * 28, 2.9]):
        log_of(lake, losses)
        assert failing(lake, "checkpoints") == []


def quality(lake: Lake, name: str) -> Finding:
    return CHECKS[name].find(lake, None, resolve(lake)[0], {})


def with_notes(lake: Lake, notes: dict, rows: int = 8) -> None:
    table = TABLES["triplets"].empty_table()
    table = pa.concat_tables([table, pa.table({f.name: pa.nulls(rows, f.type) for f in table.schema})])
    lake.write("triplets", SHARD, table, "x", **notes)


@pytest.mark.parametrize("name", QUALITY)
def test_a_shard_beyond_the_limit_of_its_quality_warns_and_one_at_the_limit_does_not(tmp_path, name):
    noted, setting, sign = QUALITY[name]
    limit = getattr(QualitySettings(), setting)
    lake = Lake(tmp_path / "lake")
    lake.write("corpus_manifest", SHARD, TABLES["corpus_manifest"].empty_table(), "x")
    with_notes(lake, noted(limit))
    lake.write("triplets", "shard-00001", TABLES["triplets"].empty_table(), "x")
    good = quality(lake, name)
    assert good.passed and good.measured["not measured"] == 1 and not good.partitions
    with_notes(lake, noted(limit + sign * 0.01))
    bad = quality(lake, name)
    assert not bad.passed and bad.severity == dg.AssetCheckSeverity.WARN and bad.partitions == {SHARD}
    assert bad.rows == [[SHARD, str(limit + sign * 0.01)]]


def test_a_shard_of_which_many_pairs_were_left_out_warns(tmp_path):
    limit = QualitySettings().max_failed
    lake = Lake(tmp_path / "lake")
    lake.write("corpus_manifest", SHARD, TABLES["corpus_manifest"].empty_table(), "x")
    most = round(1000 * limit)
    with_notes(lake, {"left_out": {"no answer": most}}, rows=1000 - most)
    assert quality(lake, MOST_PAIRS).passed
    with_notes(lake, {"left_out": {"no answer": most, "refused": 5}}, rows=1000 - most)
    found = quality(lake, MOST_PAIRS)
    assert not found.passed and found.partitions == {SHARD} and float(found.rows[0][1]) == pytest.approx((most + 5) / 1005)
    with_notes(lake, {}, rows=0)
    assert quality(lake, MOST_PAIRS).measured["not measured"] == 1


@pytest.mark.parametrize(("recall", "passes"), [(None, True), ([0.99, 0.99], True), ([1.0, 0.5], False), ([0.5, 1.0], False)])
def test_an_index_that_misses_neighbours_of_one_signal_fails(tmp_path, monkeypatch, recall, passes):
    lake = Lake(tmp_path / "lake")
    lake.write("corpus_manifest", SHARD, TABLES["corpus_manifest"].empty_table(), "x")
    found = recall and dict(zip(("clip_image", "caption"), recall, strict=True))
    monkeypatch.setattr(mine_stage, "lake_recall", lambda *_: found)
    checked = mining.in_band_recall(lake=LakeResource(folder=str(lake.root)), profile=ProfileResource())
    assert checked.passed is passes
    if recall:
        assert checked.metadata["floor"].value == 0.95
        assert checked.metadata["clip_image"].value == recall[0]


def test_shards_that_are_still_to_be_computed_again_do_not_fail_a_run_over_others(lake):
    """Pairs of one shard are new, its triplets are not yet: nothing is wrong with the run that made them."""
    rewrite(lake, "pairs", less)
    assert failing(lake, "triplets") == []
    rewrite(lake, "triplets", with_column("target_id", "0" * 32), "shard-00001")
    assert "triplets: triplets_are_pairs" in failing(lake, "triplets")
