"""What makes a partition stale, and what does not: followed on a lake of empty tables, where only facts and notes count."""

from __future__ import annotations

import time

import pytest

from mmret.freshness.fingerprints import current_facts, inputs_of, upstream_of
from mmret.freshness.survey import RETRY_SECONDS, differences, due, new_pairs, survey
from mmret.lake import Lake
from mmret.lake.inputs import Inputs, read_inputs, record_inputs
from mmret.schemas import SIGNALS, TABLES
from mmret.settings import Recipe, load_profile
from mmret.stages import STAGES
from tests.freshness.empty_tables import PROFILE, SHARDS, compute, images, seal, triplets
from tests.mine.lakes import filled


def stale(lake: Lake) -> set[tuple[str, str]]:
    return {(s.table, s.partition) for s in survey(lake, PROFILE) if s.state == "stale"}


def rewrite_images(lake: Lake, shard: str) -> None:
    lake.write("images", shard, images("CC0-1.0"), lake.facts("images", shard).inputs)


@pytest.mark.parametrize("table", ["pairs", "descriptions", "instructions", "triplets"])
def test_rows_follow_the_images_of_every_shard_that_they_point_to_and_of_no_other(lake, table):
    """A source is removed, its duplicate takes over, and `images` says another licence: `triplets` must not keep the old one."""
    rewrite_images(lake, SHARDS[1])
    assert {p for t, p in stale(lake) if t == table} == set(SHARDS[:2])
    reasons = next(s.reasons for s in survey(lake, PROFILE) if (s.table, s.partition) == (table, SHARDS[0]))
    assert f"images: {SHARDS[1]} changed" in reasons


EDITED = {
    "caption": {"caption", "pairs", "descriptions", "instructions", "triplets", "tasks", "evaluations"},
    "licence": {"triplets", "tasks"},
    "path": {"triplets"},
    "root": {"evaluations"},
    "extra": {"evaluations"},
    "source": set(),
    "width": set(),
    "image_id": {*SIGNALS, "duplicates", "leaks", "pairs", "descriptions", "instructions", "triplets", "tasks", "evaluations"},
}
"""By column of ``images``: the stages that read it, and so are stale when it alone is edited."""


@pytest.mark.parametrize("column", EDITED)
def test_an_edited_column_makes_stale_exactly_the_stages_that_read_it(lake, column):
    before = {"image_id": ["a"], "caption": ["a cat"], "licence": ["CC0-1.0"], "width": [3], "extra": ["{}"]}
    for shard in SHARDS:
        lake.write("images", shard, filled(TABLES["images"], before), lake.facts("images", shard).inputs)
    make_current(lake)
    edited = before | {column: [4] if column == "width" else ["edited"]}
    for _ in range(2):  # and a second writing of the same rows changes nothing
        lake.write("images", SHARDS[1], filled(TABLES["images"], edited), lake.facts("images", SHARDS[1]).inputs)
        assert {table for table, _ in stale(lake)} == EDITED[column]
    make_current(lake)
    lake.write("images", SHARDS[1], filled(TABLES["images"], before), lake.facts("images", SHARDS[1]).inputs)
    assert {table for table, _ in stale(lake)} == EDITED[column], "the change back is one as well"


def make_current(lake: Lake) -> None:
    for table, partition in ((s.table, s.partition) for s in survey(lake, PROFILE)):
        if (table, partition) in stale(lake):
            compute(lake, table, partition)
    assert not stale(lake)


def test_a_file_s_time_in_the_manifest_makes_nothing_stale(lake):
    rows = filled(TABLES["corpus_manifest"], {"path": ["a.png"], "mtime_ns": [1]})
    lake.write("corpus_manifest", SHARDS[0], rows, "x")
    make_current(lake)
    lake.write("corpus_manifest", SHARDS[0], filled(TABLES["corpus_manifest"], {"path": ["a.png"], "mtime_ns": [2]}), "x")
    assert stale(lake) == set()
    lake.write("corpus_manifest", SHARDS[0], filled(TABLES["corpus_manifest"], {"path": ["b.png"], "mtime_ns": [2]}), "x")
    assert ("images", SHARDS[0]) in stale(lake)


def test_licences_make_a_checkpoint_stale_only_where_they_part_the_triplets(lake):
    rows = {"pair_id": ["a"], "licence": ["CC0-1.0"]}
    parting = load_profile("demo", {"licences.exclude": ["CC-BY-NC*"]})
    lake.write("triplets", SHARDS[0], filled(TABLES["triplets"], rows), lake.facts("triplets", SHARDS[0]).inputs)
    before = [inputs_of(lake, profile, "checkpoints", "demo").fingerprint for profile in (PROFILE, parting)]
    edited = filled(TABLES["triplets"], rows | {"licence": ["CC-BY-NC-4.0"]})
    lake.write("triplets", SHARDS[0], edited, lake.facts("triplets", SHARDS[0]).inputs)
    after = [inputs_of(lake, profile, "checkpoints", "demo").fingerprint for profile in (PROFILE, parting)]
    assert before[0] == after[0] and before[1] != after[1]


def test_a_new_shard_leaves_annotation_alone_where_no_pair_points_to_it(lake):
    seal(lake, "shard-00003")
    assert not {t for t, _ in stale(lake)} & {"pairs", "descriptions", "instructions", "triplets"}


def test_what_is_due_reads_nothing_that_is_still_to_be_computed_pinned_inputs_included(tmp_path):
    """Towers that do not follow the corpus need it all the same the first time, or they are trained on a part of it."""
    lake = Lake(tmp_path)
    for shard in SHARDS:
        seal(lake, shard)
    for together in (False, True):
        assert {w.tables for w in due(survey(lake, PROFILE), together=together)} == {("images",)}
    compute(lake, "images", SHARDS[0])
    assert {w.tables for w in due(survey(lake, PROFILE))} == {("images",)}
    for shard in SHARDS[1:]:
        compute(lake, "images", shard)
    assert {w.tables for w in due(survey(lake, PROFILE))} == {("towers",)}
    compute(lake, "towers", "all")
    seal(lake, "shard-00003")
    assert "towers" not in {t for w in due(survey(lake, PROFILE)) for t in w.tables}, "a new shard leaves them as they are"


def test_a_partition_of_before_that_does_not_say_where_it_points_is_taken_to_point_anywhere(lake):
    facts = lake.facts("pairs", SHARDS[2])
    lake.write("pairs", SHARDS[2], TABLES["pairs"].empty_table(), facts.inputs)
    assert {p for t, p in upstream_of(lake, PROFILE, "triplets", SHARDS[2]) if t == "images"} == set(SHARDS)


def test_mining_compares_a_shard_with_itself_and_earlier_ones_and_merges_what_it_and_later_ones_found(lake):
    def read(stage: str, table: str) -> list[str]:
        return [p for t, p in upstream_of(lake, PROFILE, stage, SHARDS[1]) if t == table]

    assert read("candidates", "clip_image") == SHARDS[:2] and read("neighbours", "candidates") == SHARDS[1:]


def test_a_recipe_that_goes_on_from_another_s_checkpoint_follows_it(lake):
    demo = PROFILE.recipes["demo"]
    recipes = {"demo": demo, "next": demo.model_copy(update={"base": "checkpoints/demo"})}
    profile = PROFILE.model_copy(update={"recipes": recipes})
    assert ("checkpoints", "demo") in upstream_of(lake, profile, "checkpoints", "next")
    assert ("checkpoints", "demo") not in upstream_of(lake, profile, "checkpoints", "demo")


def test_a_recipe_waits_for_its_teacher_although_that_is_written_down_later(lake):
    demo = PROFILE.recipes["demo"]
    recipes = {"student": demo.model_copy(update={"teacher": "judge"}), "judge": Recipe(kind="reranker"), "demo": demo}
    profile = PROFILE.model_copy(update={"recipes": recipes, "train": ("student", "judge", "demo")})
    student = next(s for s in survey(lake, profile) if (s.table, s.partition) == ("checkpoints", "student"))
    assert (student.state, student.waits_for) == ("missing", ("checkpoints",))
    assert [w.partition for w in due(survey(lake, profile))] == ["judge"], "measured on demo, which is current"


def test_a_partition_that_is_no_longer_read_is_named(lake):
    facts = lake.facts("pairs", SHARDS[0])
    lake.write("pairs", SHARDS[0], TABLES["pairs"].empty_table(), facts.inputs, linked_shards=SHARDS[:1])
    reasons = next(s.reasons for s in survey(lake, PROFILE) if (s.table, s.partition) == ("triplets", SHARDS[0]))
    assert f"images: {SHARDS[1]} no longer read" in reasons


def test_other_decisions_of_people_make_another_fingerprint_and_are_the_reason_told(lake):
    before, now = (Inputs("checkpoints", "1", {}, (), decisions) for decisions in ("a", "b"))
    assert len({before.fingerprint, now.fingerprint, Inputs("checkpoints", "1", {}, ()).fingerprint}) == 3
    record_inputs(lake, before)
    assert differences(read_inputs(lake, before.fingerprint), now) == ["the decisions of people changed"]


def test_requests_without_an_answer_are_stale_at_once_and_due_by_themselves_after_an_hour(lake, monkeypatch):
    inputs = lake.facts("descriptions", SHARDS[2]).inputs
    lake.write("descriptions", SHARDS[2], TABLES["descriptions"].empty_table(), inputs, unanswered=2)

    def found() -> tuple[str, set[str]]:
        statuses = survey(lake, PROFILE)
        state = next(s.state for s in statuses if (s.table, s.partition) == ("descriptions", SHARDS[2]))
        return state, {table for work in due(statuses) for table in work.tables}

    assert found() == ("stale", set())
    later = time.time() + RETRY_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    state, tables = found()
    assert state == "stale" and "descriptions" in tables


def test_a_code_version_one_higher_is_the_reason_told(lake, monkeypatch):
    import dataclasses

    raised = dataclasses.replace(STAGES["leaks"], version="7")
    monkeypatch.setitem(STAGES, "leaks", raised)
    assert current_facts(lake, PROFILE, "leaks") is None
    assert [s.reasons for s in survey(lake, PROFILE) if s.table == "leaks"] == [("code version 1 → 7",)]


def test_right_after_training_no_pair_is_new_imported_ones_included(lake):
    lake.write("triplets", "import-00000", triplets(5), "x")
    assert new_pairs(lake, "demo") == 5
    compute(lake, "checkpoints", "demo")
    assert new_pairs(lake, "demo") == 0
    lake.write("triplets", "import-00001", triplets(3), "x")
    assert new_pairs(lake, "demo") == 3


def test_a_lake_of_imports_alone_has_new_pairs(tmp_path):
    lake = Lake(tmp_path)
    lake.write("triplets", "import-00000", triplets(5), "x")
    assert new_pairs(lake, "demo") == 5


def test_a_partition_that_shrank_hides_nothing_that_others_gained(lake):
    lake.write("triplets", SHARDS[0], triplets(4), "x")
    compute(lake, "checkpoints", "demo")
    lake.write("triplets", SHARDS[0], triplets(1), "x")
    lake.write("triplets", SHARDS[1], triplets(2), "x")
    assert new_pairs(lake, "demo") == 2
