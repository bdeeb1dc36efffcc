"""The loop that every asset shares: what is current is not computed, the rest once, and each partition is reported by itself."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import dagster as dg
import pytest

from assets.annotation import with_time_left
from assets.display.metadata import column_schema, describe, has_charts, preview
from assets.graph import stage_asset
from assets.materialize import TRANSIENT, current_or_compute, materialize, materialize_whole
from mmret.errors import UserError
from mmret.freshness.fingerprints import fingerprint_now
from mmret.lake import Facts, Lake
from mmret.lake.inputs import read_inputs
from mmret.schemas import LEAKS, PAIRS, TABLES, TRIPLETS
from mmret.settings import Recipe
from resources.lake import LakeResource, ProfileResource
from tests.freshness.empty_tables import PROFILE, SHARDS, current_lake, seal

FIRST, SECOND, THIRD = SHARDS


@pytest.fixture
def lake(tmp_path) -> Lake:
    """Every stage of three shards, current, of empty tables."""
    return current_lake(tmp_path / "lake")


class Work:
    """A compute function that writes an empty partition and remembers what it was called with."""

    def __init__(self, table: str, rows: int | None = None, error: Exception | None = None):
        self.table, self.rows, self.error, self.calls = table, rows, error, []

    def __call__(self, lake: Lake, profile, partition: str, inputs: str) -> Facts | tuple[Facts, int]:
        self.calls.append((partition, inputs))
        assert read_inputs(lake, inputs), "what it is made from is recorded before it is made"
        if self.error:
            raise self.error
        made = lake.write(self.table, partition, TABLES[self.table].empty_table(), inputs, linked_shards=SHARDS)
        return made if self.rows is None else (made, self.rows)


def test_what_is_current_is_not_computed_and_what_is_missing_or_stale_is_once(lake):
    work = Work("pairs", rows=7)
    facts = lake.facts("pairs", FIRST)
    assert current_or_compute(lake, PROFILE, "pairs", FIRST, work) == (facts, 0) and not work.calls
    lake.path("pairs", FIRST).unlink()
    made, computed = current_or_compute(lake, PROFILE, "pairs", FIRST, work)
    assert computed == 7 and made == lake.facts("pairs", FIRST) and work.calls == [(FIRST, made.inputs)]
    assert made.inputs == fingerprint_now(lake, PROFILE, "pairs", FIRST)
    lake.write("pairs", FIRST, PAIRS.empty_table(), "of other settings")
    assert current_or_compute(lake, PROFILE, "pairs", FIRST, Work("pairs"))[1] == 0 == lake.facts("pairs", FIRST).rows
    assert current_or_compute(lake, PROFILE, "pairs", FIRST, work)[1] == 0 and len(work.calls) == 1


def test_requests_without_an_answer_are_worked_on_again(lake):
    inputs = lake.facts("descriptions", FIRST).inputs
    lake.write("descriptions", FIRST, TABLES["descriptions"].empty_table(), inputs, unanswered=1)
    work = Work("descriptions", rows=1)
    assert current_or_compute(lake, PROFILE, "descriptions", FIRST, work)[1] == 1 and len(work.calls) == 1


def test_a_step_whose_inputs_are_missing_fails_at_once_and_names_what_it_reads(lake):
    lake.path("descriptions", FIRST).unlink()
    with pytest.raises(dg.Failure, match=f"instructions of {FIRST} needs descriptions, pairs, images, which are not all") as failed:
        current_or_compute(lake, PROFILE, "instructions", FIRST, Work("instructions"))
    assert failed.value.allow_retries is False


def test_a_mistake_fails_at_once_and_what_may_pass_is_left_to_the_retries(lake):
    lake.path("pairs", FIRST).unlink()
    with pytest.raises(dg.Failure, match="set mine.k") as failed:
        current_or_compute(lake, PROFILE, "pairs", FIRST, Work("pairs", error=UserError("set mine.k")))
    assert failed.value.allow_retries is False and isinstance(failed.value.__cause__, UserError)
    with pytest.raises(TimeoutError, match="slow"):
        current_or_compute(lake, PROFILE, "pairs", FIRST, Work("pairs", error=TimeoutError("slow")))
    assert (TRANSIENT.max_retries, TRANSIENT.delay, TRANSIENT.backoff) == (2, 10, dg.Backoff.EXPONENTIAL)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as found:
        found.add_dynamic_partitions("corpus_shards", SHARDS)
        yield found


def asset_of(table: str, work: Work, loop: Callable) -> dg.AssetsDefinition:
    def body(context: dg.AssetExecutionContext, lake: LakeResource, profile: ProfileResource) -> dg.MaterializeResult:
        return loop(context, lake, profile, table, work)

    return stage_asset(table, kinds={"parquet"})(body)


def events(instance: dg.DagsterInstance, lake: Lake, asset: dg.AssetsDefinition, **how) -> list[dg.AssetMaterialization]:
    resources = {"lake": LakeResource(folder=str(lake.root)), "profile": ProfileResource()}
    done = dg.materialize([asset], resources=resources, instance=instance, **how)
    assert done.success
    return [e.materialization for e in done.get_asset_materialization_events()]


def test_a_partition_is_reported_with_its_rows_content_and_version(lake, instance):
    lake.path("pairs", SECOND).unlink()
    (event,) = events(instance, lake, asset_of("pairs", Work("pairs", rows=4), materialize), partition_key=SECOND)
    facts = lake.facts("pairs", SECOND)
    shown = {name: value.value for name, value in event.metadata.items()}
    assert event.partition == SECOND and shown["rows_computed"] == 4 and shown["dagster/partition_row_count"] == 0
    assert shown["digest"] == facts.digest == event.tags["dagster/data_version"]
    assert shown["path"] == str(lake.path("pairs", SECOND)) and shown["linked_shards"] == SHARDS
    assert shown["scores"] == "no scores" and "dagster/column_lineage" in shown


def test_of_a_range_each_partition_is_reported_and_none_has_the_version_of_another(lake, instance):
    lake.path("pairs", THIRD).unlink()
    work = Work("pairs")
    ends = {"dagster/asset_partition_range_start": FIRST, "dagster/asset_partition_range_end": THIRD}
    found = events(instance, lake, asset_of("pairs", work, materialize), tags=ends)
    assert sorted(e.partition for e in found) == SHARDS and [call[0] for call in work.calls] == [THIRD]
    digests = {lake.facts("pairs", shard).digest for shard in SHARDS}
    assert {e.metadata["digest"].value for e in found} == digests
    assert not {e.tags["dagster/data_version"] for e in found} & digests


def test_a_table_without_partitions_is_reported_as_a_whole(lake, instance):
    lake.path("leaks", "all").unlink()
    (event,) = events(instance, lake, asset_of("leaks", Work("leaks", rows=3), materialize_whole))
    shown = {name: value.value for name, value in event.metadata.items()}
    assert shown["dagster/row_count"] == 0 and shown["rows_computed"] == 3 and event.partition is None
    assert "dagster/partition_row_count" not in shown
    assert event.tags["dagster/data_version"] == lake.facts("leaks", "all").digest


def test_notes_are_shown_as_numbers_or_json_and_what_is_not_known_is_left_out(lake):
    facts = lake.write("leaks", "all", LEAKS.empty_table(), "x", ratio=0.5, name="a", flag=True, several=[1, 2], nothing=None)
    shown = describe(lake, "leaks", "all", facts, 9)
    assert (shown["ratio"], shown["name"], shown["flag"], shown["rows_computed"]) == (0.5, "a", True, 9)
    assert shown["several"].value == [1, 2] and "nothing" not in shown and "scores" not in shown
    assert [(c.name, c.type) for c in shown["dagster/column_schema"].columns] == [(f.name, str(f.type)) for f in LEAKS]
    manifest = describe(lake, "corpus_manifest", FIRST, lake.facts("corpus_manifest", FIRST), 0)
    assert "dagster/column_lineage" not in manifest, "made from no other table"
    assert column_schema("pairs").columns[0].name == PAIRS.names[0]


def test_a_preview_has_five_rows_of_escaped_and_shortened_text():
    import pyarrow as pa

    rows = [{"pair_id": f"p{n}", "texts": ["<b>", "a|b", "`x`"], "query_path": "y" * 61, "target_path": "z" * 60} for n in range(7)]
    lines = preview(
        pa.Table.from_pylist(rows, TRIPLETS).select(["pair_id", "texts", "query_path", "target_path", "licence"])
    ).split("\n")
    assert lines[:2] == ["| pair_id | texts | query_path | target_path | licence |", "|---|---|---|---|---|"] and len(lines) == 7
    assert lines[2] == f"| p0 | &lt;b> · a\\|b · \\`x\\` | {'y' * 59}… | {'z' * 60} |  |"


def test_charts_are_drawn_of_the_first_shard_and_of_every_eighth_after_it(tmp_path):
    lake = Lake(tmp_path)
    for n in range(18):
        seal(lake, f"shard-{n:05d}")
    assert [shard for shard in lake.shards() if has_charts(lake, shard)] == ["shard-00000", "shard-00008", "shard-00016"]


def test_the_time_left_is_shown_at_the_last_partition_of_a_run_alone(lake, monkeypatch):
    noted: list[tuple] = []
    context = SimpleNamespace(partition_keys=[FIRST, SECOND], add_asset_metadata=lambda *a, **named: noted.append((*a, named)))
    made, asked = dg.MaterializeResult(), []
    monkeypatch.setattr("mmret.annotate.stage.seconds_left", lambda *a: asked.append(a[1:]) or 12.5)
    assert with_time_left(context, LakeResource(folder=str(lake.root)), "instructions", made) is made
    assert noted == [({"seconds_left_for_mined_shards": 12.5}, {"partition_key": SECOND})] and asked == [("instructions", SECOND)]
    monkeypatch.setattr("mmret.annotate.stage.seconds_left", lambda *a: None)
    assert with_time_left(context, LakeResource(folder=str(lake.root)), "instructions", made) is made and len(noted) == 1


def test_a_recipe_whose_teacher_is_not_trained_says_which_recipe_to_train(lake):
    recipes = {"judge": Recipe(kind="reranker"), "student": Recipe(teacher="judge")}
    profile = PROFILE.model_copy(update={"recipes": recipes})
    with pytest.raises(dg.Failure, match=r"needs the checkpoint of judge, .* 'train=\[judge, student\]'"):
        current_or_compute(lake, profile, "checkpoints", "student", Work("checkpoints"))


def test_a_recipe_whose_teacher_is_scores_that_nobody_brought_says_how_to_bring_them(lake):
    profile = PROFILE.model_copy(update={"recipes": {"student": Recipe(teacher="scores/mine")}})
    with pytest.raises(
        dg.Failure, match=r"learns from scores 'mine', which nobody has brought: `mmret teach --lake .* --scores FILE`"
    ):
        current_or_compute(lake, profile, "checkpoints", "student", Work("checkpoints"))
