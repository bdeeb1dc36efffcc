"""`mmret run` without computing: which stages it launches for which partitions, and what it makes of runs that fail."""

from types import SimpleNamespace

import dagster as dg
import pytest

from assets.runner.cause import causes_of
from assets.runner.run import Outcome, Runner
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.lease import exclusive
from mmret.stages import RUNS
from tests.freshness.empty_tables import PROFILE, SHARDS, current_lake

FIRST, SECOND, THIRD = SHARDS


class Fake(Runner):
    """Launches nothing: ``launched`` has what would be."""

    def __init__(self, lake: Lake, profile=PROFILE):
        self.lake, self.profile, self.outcome = lake, profile, Outcome()
        self.launched, self.told, self.verified, self.added = [], [], 0, []
        self.on_stage = lambda *about: self.told.append(about)
        self.instance = SimpleNamespace(
            add_dynamic_partitions=lambda name, keys: self.added.append((name, keys)), get_dynamic_partitions=lambda name: []
        )

    def launch(self, tables, partition, config=None):
        self.configs = [*getattr(self, "configs", []), config]
        self.launched.append((tuple(tables), partition))
        self.outcome.rows_computed[tables[0]] = 0 if tables[0] == "corpus_manifest" else 1

    def verify(self):
        self.verified += 1


@pytest.fixture
def lake(tmp_path, monkeypatch) -> Lake:
    """Every stage of three shards, current, of empty tables: as few images as these are let pass."""
    monkeypatch.setattr("assets.runner.run.check_enough", lambda lake: None)
    return current_lake(tmp_path / "lake")


def test_where_all_is_current_the_sources_are_listed_and_nothing_else_is_done(lake):
    runner = Fake(lake)
    outcome = runner.run()
    assert runner.launched == [(("corpus_manifest",), None)] and not runner.verified and outcome.total > 0
    assert runner.added == [("corpus_shards", SHARDS), ("recipes", list(PROFILE.recipes))]


def test_a_stale_stage_is_launched_with_those_behind_it_in_its_run(lake):
    for shard in (SECOND, THIRD):
        lake.path("descriptions", shard).unlink()
    runner = Fake(lake)
    runner.run()
    texts = ("descriptions", "instructions", "triplets", "tasks")
    assert runner.launched[1:] == [(texts, SECOND), (texts, THIRD)] and runner.verified == 1
    assert [(told[1], told[2], told[3]) for told in runner.told if told[0] == list(texts)] == [(SECOND, 0, 2), (THIRD, 1, 2)]
    assert runner.told[0] == (["corpus_manifest"], None, 0, 1) and runner.told[-1] == (["checks"], None, 0, 1)


def test_too_few_images_stop_a_run_once_they_are_in_and_only_where_there_is_work(lake, monkeypatch):
    def refuse(lake):
        raise UserError("too few")

    monkeypatch.setattr("assets.runner.run.check_enough", refuse)
    Fake(lake).run()
    lake.path("images", FIRST).unlink()
    runner = Fake(lake)
    with pytest.raises(UserError, match="too few"):
        runner.run()
    assert [tables for tables, _ in runner.launched] == [("corpus_manifest",), ("images",)]


def test_what_is_gone_from_the_sources_is_forgotten_where_a_person_says_so(lake):
    for said in (False, True):
        runner = Fake(lake)
        runner.run(forget_missing=said)
        assert runner.configs == [{"corpus_manifest": {"forget_missing": said}}]


def test_a_table_without_partitions_comes_before_what_reads_it(lake):
    lake.path("leaks", "all").unlink()
    runner = Fake(lake)
    runner.run()
    whole_run = ("pairs", "descriptions", "instructions", "triplets", "tasks")
    assert runner.launched[1:] == [(("leaks",), None), *((whole_run, shard) for shard in SHARDS)]


def test_a_run_that_ends_early_goes_so_far_and_checks_nothing(lake):
    for table in ("images", "clip_image", "pairs"):
        lake.path(table, FIRST).unlink()
    runner = Fake(lake)
    runner.run(until="dino_image")
    assert {tables for tables, _ in runner.launched[1:]} >= {("images",)} and not runner.verified
    launched = {table for tables, _ in runner.launched for table in tables}
    assert "candidates" not in launched and "pairs" not in launched
    nearly = Fake(lake)
    nearly.run(until="instructions")
    assert "instructions" in {t for tables, _ in nearly.launched for t in tables}
    assert "triplets" not in {t for tables, _ in nearly.launched for t in tables}


def test_only_recipes_of_the_setting_train_are_trained(lake):
    lake.path("checkpoints", "demo").unlink()
    demo = PROFILE.recipes["demo"]
    profile = PROFILE.model_copy(update={"recipes": {"demo": demo, "spare": demo}, "train": ("spare",)})
    runner = Fake(lake, profile)
    runner.run()
    assert [key for tables, key in runner.launched if "checkpoints" in tables] == ["spare"]
    assert runner._partitions("towers") == [None] and runner._partitions("pairs") == SHARDS
    assert runner.stale(RUNS[0], FIRST) == []


def failed(message: str, name: str, cause: object = None) -> SimpleNamespace:
    error = SimpleNamespace(message=message, cls_name=name, cause=cause, stack=["a\n", "b\n", "c\n", "d\n"])
    return SimpleNamespace(is_step_failure=True, step_key="pairs", step_failure_data=SimpleNamespace(error=error))


def test_the_cause_is_told_in_the_words_of_the_error_behind_it():
    inner = failed("mmret.errors.UserError: set mine.k\n", "UserError").step_failure_data.error
    outer = failed("Failure", "Failure", inner)
    quiet = SimpleNamespace(is_step_failure=False)
    assert list(map(str, causes_of([quiet, outer]))) == ["pairs failed: set mine.k"]
    (other,) = causes_of([failed("KeyError: 'x'\n", "KeyError")])
    assert str(other) == "pairs failed: KeyError: 'x'\nb\nc\nd\n" and other.reason == "KeyError: 'x'"
    assert causes_of([quiet]) == []


def test_runs_that_a_killed_process_left_are_failed_and_no_others(lake):
    def made(tags: dict, status: dg.DagsterRunStatus, **more) -> str:
        return instance.create_run_for_job(job, tags=tags, status=status, **more).run_id

    job = dg.define_asset_job("j").resolve(asset_graph=dg.Definitions([dg.asset(name="a")(lambda: None)]).resolve_asset_graph())
    with dg.DagsterInstance.ephemeral() as instance, exclusive(lake) as lease:
        own = {"mmret/lake": str(lake.root)}
        started, starting = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING
        left = [made(own | {"mmret/lease": "of before"}, status) for status in (started, starting)]
        kept = [
            made(own | {"mmret/lease": lease.id}, started),
            made({"mmret/lake": "/another"}, started),
            made(own | {"mmret/lease": "of before"}, dg.DagsterRunStatus.SUCCESS),
            made(own | {"mmret/lease": "of before"}, started, parent_run_id=left[0], root_run_id=left[0]),
        ]
        runner = Fake(lake)
        runner.instance, runner.lease = instance, lease
        runner._fail_abandoned_runs()
        assert {instance.get_run_by_id(i).status for i in left} == {dg.DagsterRunStatus.FAILURE}
        assert dg.DagsterRunStatus.FAILURE not in {instance.get_run_by_id(i).status for i in kept}


def test_what_failed_and_what_warned_is_told_apart():
    def evaluation(name: str, passed: bool, severity: dg.AssetCheckSeverity, partition: str | None = None) -> SimpleNamespace:
        return SimpleNamespace(
            asset_key=dg.AssetKey("pairs"), check_name=name, passed=passed, severity=severity, partition=partition
        )

    error, warn = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
    found = [evaluation("a", True, error), evaluation("b", False, error), evaluation("c", False, warn), evaluation("d", True, warn)]
    found += [evaluation("a", False, error, "shard-00000"), evaluation("c", False, warn, "shard-00000")]  # for the UI
    runner = object.__new__(Runner)
    runner.outcome, runner._how = Outcome(), dict
    result = SimpleNamespace(get_asset_check_evaluations=lambda: found)
    runner.checks = SimpleNamespace(execute_in_process=lambda **_: result)
    runner.verify()
    assert runner.outcome.checks == {"pairs: a": True, "pairs: b": False, "pairs: c": True, "pairs: d": True}
    assert runner.outcome.warnings == ["pairs: c"]
