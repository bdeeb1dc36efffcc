"""What the survey says of each partition: its state, why, what it waits for, and in which order the work is done."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest

from mmret.freshness import survey as module
from mmret.freshness.fingerprints import current_facts, fingerprint_now, inputs_of
from mmret.freshness.survey import Status, differences, due, partitions_of, survey
from mmret.lake import Facts, Lake
from mmret.lake.inputs import Inputs, linked_shards, read_inputs, record_inputs
from mmret.schemas import TABLES
from mmret.stages import RUNS, STAGES
from tests.freshness.empty_tables import PROFILE, SHARDS, compute, images, seal, triplets

FIRST, SECOND, THIRD = SHARDS


def states(lake: Lake) -> dict[tuple[str, str], Status]:
    return {(s.table, s.partition): s for s in survey(lake, PROFILE)}


def change_manifest(lake: Lake, shard: str) -> None:
    rows = pa.Table.from_pylist([{"shard": shard, "position": 0}], TABLES["corpus_manifest"])
    lake.write("corpus_manifest", shard, rows, "x")


def test_what_fits_but_reads_something_to_be_computed_again_follows_it_and_waits(lake):
    change_manifest(lake, SECOND)
    found = states(lake)
    assert found["images", SECOND] == Status("images", SECOND, "stale", (f"corpus_manifest: {SECOND} changed",))
    vectors = found["clip_image", SECOND]
    assert (vectors.state, vectors.reasons, vectors.waits_for) == ("follows", ("images is to be computed first",), ("images",))
    assert found["clip_image", FIRST].state == "current"
    mined = found["candidates", SECOND]
    assert mined.state == "follows" and mined.waits_for == (), "its vectors are of its own run and partition"
    assert set(found["candidates", THIRD].waits_for) == {"clip_image", "dino_image", "caption"}, "those of another partition"
    assert found["candidates", FIRST].state == "current"
    assert found["neighbours", FIRST].state == "follows" and found["neighbours", FIRST].waits_for == ("candidates",)


def test_work_that_waits_is_left_out_and_what_merely_follows_begins_no_work(lake):
    change_manifest(lake, SECOND)
    assert [(w.tables, w.partition, w.reasons) for w in due(survey(lake, PROFILE))] == [
        (("images",), SECOND, (f"corpus_manifest: {SECOND} changed",))
    ]
    lake.path("clip_image", SECOND).unlink()
    assert {w.tables for w in due(survey(lake, PROFILE))} == {("images",)}, "a missing one waits as well"


def test_a_run_of_stages_goes_on_behind_its_first_stale_one_and_together_over_the_shards_before(lake):
    for shard in (SECOND, THIRD):
        lake.path("dino_image", shard).unlink()
    work = {w.partition: w for w in due(survey(lake, PROFILE)) if "dino_image" in w.tables}
    assert work[SECOND].tables == ("dino_image", "candidates") and work[SECOND].reasons == ("not computed yet",)
    assert work[THIRD].tables == ("dino_image",), "candidates read the vectors of the shard before, which are not there yet"
    together = [(w.tables, w.partition) for w in due(survey(lake, PROFILE), together=True) if "dino_image" in w.tables]
    assert together == [(("dino_image", "candidates"), SECOND), (("dino_image", "candidates"), THIRD)]


def test_a_partition_never_computed_is_missing_for_what_it_reads_or_for_no_reason(tmp_path):
    lake = Lake(tmp_path)
    seal(lake, FIRST)
    found = states(lake)
    assert (found["images", FIRST].state, found["images", FIRST].reasons) == ("missing", ("not computed yet",))
    pairs = found["pairs", FIRST]
    assert pairs.state == "missing" and pairs.reasons[0] == "neighbours is to be computed first"
    assert pairs.waits_for == ("candidates", "leaks", "images", "clip_image", "dino_image", "caption")
    assert fingerprint_now(lake, PROFILE, "pairs", FIRST) is None and inputs_of(lake, PROFILE, "pairs", FIRST) is None
    assert current_facts(lake, PROFILE, "pairs", FIRST) is None


def test_a_partition_of_which_an_input_was_deleted_is_stale_and_says_so(lake):
    lake.path("images", FIRST).unlink()
    status = states(lake)["pairs", FIRST]
    assert status.state == "stale" and status.reasons[0] == "something it reads is missing"
    assert "images is to be computed first" in status.reasons and "images" in status.waits_for


def test_requests_that_rest_hold_nothing_up_unless_what_they_ask_about_changes(lake):
    inputs = lake.facts("descriptions", THIRD).inputs
    lake.write("descriptions", THIRD, TABLES["descriptions"].empty_table(), inputs, unanswered=2)
    found = states(lake)
    assert found["descriptions", THIRD].retry_later and found["descriptions", THIRD].reasons == ("2 requests got no answer",)
    assert found["instructions", THIRD].state == found["triplets", THIRD].state == found["checkpoints", "demo"].state == "current"
    assert due(survey(lake, PROFILE)) == [] and current_facts(lake, PROFILE, "descriptions", THIRD) is None
    assert current_facts(lake, PROFILE, "instructions", THIRD) == lake.facts("instructions", THIRD)
    lake.path("pairs", THIRD).unlink()
    again = states(lake)["descriptions", THIRD]
    assert not again.retry_later and again.state == "stale"


def test_requests_rest_for_an_hour_after_the_last_try(lake, monkeypatch):
    inputs = lake.facts("descriptions", THIRD).inputs
    written = lake.write("descriptions", THIRD, TABLES["descriptions"].empty_table(), inputs, unanswered=2).written / 1e9
    for seconds, rests in ((3599, True), (3601, False)):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: written + seconds)
        assert states(lake)["descriptions", THIRD].retry_later is rests
    assert module.RETRY_SECONDS == 3600


def test_what_was_asked_in_vain_as_often_as_the_settings_say_is_current(lake):
    inputs = lake.facts("descriptions", THIRD).inputs
    lake.write("descriptions", THIRD, TABLES["descriptions"].empty_table(), inputs, unanswered=2, retries=PROFILE.annotate.retries)
    assert states(lake)["descriptions", THIRD].state == "current" and current_facts(lake, PROFILE, "descriptions", THIRD)


def test_the_work_comes_stage_by_stage_and_shard_by_shard(tmp_path):
    lake = Lake(tmp_path)
    for shard in SHARDS:
        seal(lake, shard)
    order = [(s.table, s.partition) for s in survey(lake, PROFILE)]
    shards = (FIRST, SECOND, THIRD)
    assert order[:7] == [*((table, shard) for table in ("written_captions", "images") for shard in shards), ("towers", "all")]
    tables = list(dict.fromkeys(table for table, _ in order))
    assert tables == [table for run in RUNS for table in run] and tables[-2:] == ["checkpoints", "evaluations"]


def test_recipes_are_followed_that_are_or_were_trained(lake):
    demo = PROFILE.recipes["demo"]
    profile = PROFILE.model_copy(update={"recipes": {"demo": demo, "spare": demo, "next": demo}, "train": ("next",)})
    assert partitions_of(lake, profile, "checkpoints") == ["demo", "next"]
    assert partitions_of(lake, profile, "towers") == ["all"] and partitions_of(lake, profile, "pairs") == SHARDS


def inputs(**changed) -> Inputs:
    facts = Facts(3, "", "digest", {})
    parts = {"table": "pairs", "version": "2", "settings": {"k": 1, "bands": {"caption": (0.5, 0.9)}}}
    parts |= {"upstream": (("images", FIRST, facts), ("leaks", "all", facts))}
    return Inputs(**(parts | changed))


def said(lake: Lake, now: Inputs) -> list[str]:
    record_inputs(lake, inputs())
    return differences(read_inputs(lake, inputs().fingerprint), now)


def test_a_difference_is_told_by_its_name_with_the_value_before_and_now(tmp_path):
    lake, other = Lake(tmp_path), Facts(3, "", "other", {})
    bands = {"k": 2, "bands": {"caption": (0.5, 0.95)}, "seed": 1}
    assert said(lake, inputs(settings=bands)) == [
        "mine.k: 1 → 2",
        "mine.bands.caption: [0.5, 0.9] → [0.5, 0.95]",
        "mine.seed: null → 1",
    ]
    assert said(lake, inputs(version="3")) == ["code version 2 → 3"]
    assert said(lake, inputs(upstream=(("images", FIRST, other), ("leaks", "all", other)))) == [
        f"images: {FIRST} changed",
        "leaks: all changed",
    ]
    same = Facts(3, "", "digest", {})
    more = tuple(("images", s, same) for s in SHARDS)
    assert said(lake, inputs(upstream=more)) == ["images: new 2 partitions", "leaks: all no longer read"]
    assert said(lake, inputs(settings={"k": "x" * 100, "bands": {"caption": [0.5, 0.9]}})) == [f'mine.k: 1 → "{"x" * 58}…']
    assert said(lake, inputs(settings={"k": "x" * 58, "bands": {"caption": [0.5, 0.9]}})) == [f'mine.k: 1 → "{"x" * 58}"']


def test_what_cannot_be_told_is_not_made_up(tmp_path):
    assert differences(None, inputs()) == ["computed from other inputs (which ones was not recorded)"]
    assert said(Lake(tmp_path), inputs()) == ["computed from other inputs"]
    before = read_inputs(Lake(tmp_path), inputs().fingerprint)
    del before["decisions"]
    assert differences(before, inputs(decisions="a")) == ["computed from other inputs"], "of a version that kept no decisions"
    assert read_inputs(Lake(tmp_path), "0" * 16) is None
    (tmp_path / "inputs" / f"{inputs().fingerprint}.json").write_text("{half")
    assert read_inputs(Lake(tmp_path), inputs().fingerprint) is None


def test_each_part_of_what_a_partition_is_made_from_makes_another_fingerprint():
    other = Facts(3, "", "other", {})
    ways = [
        {"table": "leaks"},
        {"version": "3"},
        {"settings": {"k": 2}},
        {"upstream": (("images", FIRST, other), ("leaks", "all", other))},
        {"upstream": (("images", SECOND, Facts(3, "", "digest", {})), ("leaks", "all", Facts(3, "", "digest", {})))},
        {"decisions": "a"},
    ]
    found = [inputs().fingerprint, *(inputs(**way).fingerprint for way in ways)]
    assert len(set(found)) == len(found) and all(len(f) == 16 for f in found)
    counts_alone = Facts(99, "elsewhere", "digest", {"note": 1}, written=5)
    assert inputs(upstream=(("images", FIRST, counts_alone), ("leaks", "all", counts_alone))).fingerprint == found[0]


def test_the_parts_behind_a_fingerprint_are_kept_with_digests_and_rows(tmp_path):
    lake = Lake(tmp_path)
    record_inputs(lake, inputs(decisions="d"))
    kept = read_inputs(lake, inputs(decisions="d").fingerprint)
    assert kept == {
        "table": "pairs",
        "version": "2",
        "settings": {"k": 1, "bands": {"caption": [0.5, 0.9]}},
        "upstream": {"images": {FIRST: ["digest", 3]}, "leaks": {"all": ["digest", 3]}},
        "decisions": "d",
    }


def test_linked_shards_are_those_of_the_note_that_are_sealed_in_order(lake):
    lake.write("pairs", FIRST, TABLES["pairs"].empty_table(), "x", linked_shards=[THIRD, FIRST, "shard-00099"])
    assert linked_shards(lake, "pairs", FIRST) == [FIRST, THIRD]
    lake.write("pairs", FIRST, TABLES["pairs"].empty_table(), "x", linked_shards=[])
    assert linked_shards(lake, "pairs", FIRST) == []
    assert linked_shards(lake, "pairs", "shard-00077") == SHARDS, "nothing known of it: it may point anywhere"


def test_imports_are_read_by_training_and_by_no_shard(lake):
    lake.write("triplets", "import-00000", triplets(2), "x")
    lake.write("images", "import-00000", images("CC0-1.0"), "x")
    lake.write("corpus_manifest", "import-00000", TABLES["corpus_manifest"].empty_table(), "x")
    found = states(lake)
    assert found["checkpoints", "demo"].reasons == ("triplets: new import-00000",)
    assert ("images", "import-00000") not in found and lake.shards() == SHARDS
    assert found["leaks", "all"].state == "stale" and found["candidates", THIRD].state == "current"


@pytest.mark.parametrize("table", ["towers", "leaks"])
def test_a_table_computed_again_with_the_same_result_makes_nothing_stale(lake, table):
    facts = lake.facts(table, "all")
    lake.write(table, "all", lake.read(table, "all"), facts.inputs)
    assert {s.state for s in survey(lake, PROFILE)} == {"current"}
    compute(lake, table, "all")
    assert {s.state for s in survey(lake, PROFILE)} == {"current"} and STAGES[table].name == table
