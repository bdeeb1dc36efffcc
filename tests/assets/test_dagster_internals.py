"""The history that `mmret run` writes is one that any Dagster reads, and writing it starts no process."""

import gc
import sqlite3
import subprocess

import dagster as dg
import psutil
import pytest

from assets.dagster_internals import VERSION
from assets.dagster_internals.event_log import PersistentSqliteEventLogStorage, open_instance
from assets.dagster_internals.run_storage import PersistentSqliteRunStorage


@dg.op
def say(context: dg.OpExecutionContext) -> None:
    context.log.info("said")


@dg.job
def talk() -> None:
    say()


@pytest.fixture
def home(tmp_path):
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return tmp_path


def test_each_run_is_whole_to_a_dagster_that_knows_nothing_of_us(home):
    with open_instance(str(home)) as instance:
        assert isinstance(instance.event_log_storage, PersistentSqliteEventLogStorage)
        runs = [talk.execute_in_process(instance=instance).run_id for _ in range(7)]  # more than connections are kept
    with dg.DagsterInstance.from_config(str(home)) as plain:
        for run in runs:
            events = [e.dagster_event_type for e in plain.all_logs(run) if e.is_dagster_event]
            assert events.count(dg.DagsterEventType.STEP_SUCCESS) == events.count(dg.DagsterEventType.RUN_SUCCESS) == 1
            assert any(e.user_message == "said" for e in plain.all_logs(run))
    assert not list(home.rglob("*.new"))


def test_runs_are_read_and_written_over_one_connection_and_a_ui_beside_it_sees_and_changes_them(home, monkeypatch):
    with open_instance(str(home)) as instance, dg.DagsterInstance.from_config(str(home)) as ui:
        assert isinstance(instance.run_storage, PersistentSqliteRunStorage)
        first = talk.execute_in_process(instance=instance).run_id
        opened = []
        connect = sqlite3.connect
        monkeypatch.setattr(
            sqlite3, "connect", lambda path, *more, **options: opened.append(path) or connect(path, *more, **options)
        )
        second = talk.execute_in_process(instance=instance).run_id
        assert not [path for path in opened if str(path).endswith("runs.db")]
        monkeypatch.undo()
        assert {run.run_id for run in ui.get_runs()} == {first, second}
        assert ui.get_run_by_id(second).status == dg.DagsterRunStatus.SUCCESS
        ui.add_run_tags(first, {"seen": "by the UI"})
        assert instance.get_run_by_id(first).tags["seen"] == "by the UI"
        ui.delete_run(first)
        assert instance.get_run_by_id(first) is None


def test_a_block_of_the_runs_that_fails_leaves_nothing_behind(home):
    with open_instance(str(home)) as instance:
        run = talk.execute_in_process(instance=instance).run_id
        with pytest.raises(KeyboardInterrupt, match="^$"):
            with instance.run_storage.connect() as connection:
                connection.exec_driver_sql("DELETE FROM runs")
                raise KeyboardInterrupt
        with dg.DagsterInstance.from_config(str(home)) as ui:
            assert ui.has_run(run) and instance.has_run(run)


def test_an_instance_that_was_closed_holds_no_file_of_its_home_open(home):
    open_files = psutil.Process().open_files
    with open_instance(str(home)) as instance:
        talk.execute_in_process(instance=instance)
        assert [f.path for f in open_files() if f.path.startswith(str(home / "history" / "runs"))]
    gc.collect()
    assert not [f.path for f in open_files() if f.path.startswith(str(home / "history" / "runs"))]


def test_a_run_starts_no_process(home, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **_: started.append(args))
    with open_instance(str(home)) as instance:
        assert talk.execute_in_process(instance=instance).success
    assert not started


def test_a_home_that_says_where_its_logs_go_keeps_its_word(home):
    where = home / "elsewhere"
    (home / "dagster.yaml").write_text(f"""compute_logs:
  module: dagster._core.storage.local_compute_log_manager
  class: LocalComputeLogManager
  config: {{base_dir: {where}}}
""")
    with open_instance(str(home)) as instance:
        assert type(instance.compute_log_manager).__name__ == "LocalComputeLogManager"


def test_the_fence_was_written_against_the_dagster_that_is_installed():
    """A new version may have moved what assets/dagster_internals/ imports: look there first, then raise VERSION."""
    assert dg.__version__ == VERSION, (
        f"Dagster {dg.__version__} is installed; assets/dagster_internals/ was written against {VERSION}: check each import of "
        "dagster._core and dagster._serdes in it, run tests/assets, then set VERSION"
    )


def test_an_event_that_cannot_be_written_is_an_error_and_no_words_on_the_terminal(home, monkeypatch, capfd):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with open_instance(str(home)) as instance:
        monkeypatch.setattr(instance.event_log_storage, "store_event", full)
        with pytest.raises(OSError, match="No space left"):
            talk.execute_in_process(instance=instance, run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}})
    assert not capfd.readouterr().err
