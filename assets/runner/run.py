"""`mmret run`: materialise what is missing or stale, stage after stage, in this process or on a cluster, recorded in Dagster.

What has to run is read from the lake itself (:mod:`mmret.freshness.fingerprints`), so a wiped Dagster history, a moved lake or a
kill at any moment changes nothing. One Dagster run per shard and group of stages (0.5 s each): finished shards stay finished in
the UI and carry their own data version. In this process they follow one another; on a cluster several are in flight
(:mod:`assets.runner.cluster_run`), while sources are listed and checks made here.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from assets.runner.launched import Launched
from mmret.errors import UserError
from mmret.freshness.last_run import dagster_home
from mmret.freshness.outcome import Outcome
from mmret.freshness.survey import Snapshot
from mmret.freshness.turns import first_stale, turns_of
from mmret.ingest.enough import check_enough
from mmret.interrupts import heard
from mmret.lake import Lake
from mmret.lake.lease import Lease
from mmret.paths import plain_link
from mmret.settings import Profile
from mmret.stages import RUNS, UNPARTITIONED, assets_of
from resources.models import shared_models

OnStage = Callable[[list[str], str | None, int, int], None]
"""Called as each launch begins with (stages, partition, number of partitions done, number of partitions)."""


def dagster_instance(lake: Lake) -> Any:
    """The instance that keeps this lake's history: ``DAGSTER_HOME`` where it is set, else ``.dagster`` in the lake's folder on
    this machine. It is made where it does not exist.

    Dagster opens its databases by an address, so a home with a question mark in its path is reached through a link.
    """
    from assets.dagster_internals.event_log import open_instance

    home = dagster_home(lake)
    if not home.is_dir() or not os.environ.get("DAGSTER_HOME"):
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "dagster.yaml").exists():
            shutil.copy(Path(__file__).parents[2] / "dagster_home" / "dagster.yaml", home / "dagster.yaml")
        os.environ["DAGSTER_HOME"] = str(home)
    if "?" in os.environ["DAGSTER_HOME"]:
        os.environ["DAGSTER_HOME"] = str(plain_link(Path(os.environ["DAGSTER_HOME"])))
    return open_instance(os.environ["DAGSTER_HOME"])


class Runner:
    """Launches runs of the assets in this process. Only the holder of the lake's lease may make one."""

    def __init__(self, lease: Lease, profile: Profile, on_stage: OnStage):
        lake = lease.lake
        os.environ["MMRET_LAKE"] = lake.address
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
        logging.getLogger("dagster").setLevel(logging.ERROR)
        from assets.definitions import defs

        self.lease, self.lake, self.profile, self.on_stage, self.outcome = lease, lake, profile, on_stage, Outcome()
        self.instance = self._open_instance()
        self.job = defs.resolve_implicit_global_asset_job_def()
        self.checks = defs.resolve_job_def("verify")
        self._jobs: dict[tuple[str, ...], Any] = {}
        self.abandoned = self._fail_abandoned_runs()

    def _open_instance(self) -> Any:
        return dagster_instance(self.lake)

    def _fail_abandoned_runs(self) -> list[str]:
        """Mark runs as failed that a killed process left unfinished, and free the places in pools that such runs still hold.

        Only the holder of the lease launches such runs, so nobody works on those of an earlier lease. A place stays taken until
        somebody frees it, and whoever needs one waits for ever, since without the UI no daemon looks.
        """
        import dagster as dg

        status, storage = dg.DagsterRunStatus, self.instance.event_log_storage
        unfinished = [status.NOT_STARTED, status.STARTING, status.STARTED, status.CANCELING]
        abandoned = [run for run in self.instance.get_runs(dg.RunsFilter(statuses=unfinished)) if self._is_abandoned(run)]
        for run in abandoned:
            self.instance.report_run_failed(run, "the process was killed; `mmret run` has taken its work up again")
        holders = set()
        pools = sorted(storage.get_concurrency_keys()) if storage.supports_global_concurrency_limits else []
        for pool in storage.get_concurrency_infos(pools).values():
            holders |= {each.run_id for each in (*pool.claimed_slots, *pool.pending_steps)}
        for run_id in holders:
            run = self.instance.get_run_by_id(run_id)
            if run is not None and self._is_abandoned(run):
                storage.free_concurrency_slots_for_run(run_id)
        return [run.run_id for run in abandoned]

    def _is_abandoned(self, run: Any) -> bool:
        """Launched under an earlier lease of this lake. A run that the UI executes again has a parent, and a process of its own."""
        home = Path(self.instance.root_directory).resolve()
        its_lake = run.tags.get("mmret/lake")
        # a lake that was moved takes its own home along
        ours = its_lake == self.lake.address or (its_lake and home == (self.lake.scratch / ".dagster").resolve())
        return bool(ours) and run.tags.get("mmret/lease") != self.lease.id and run.parent_run_id is None

    def launch(self, tables: Sequence[str], partition: str | None, config: dict[str, Any] | None = None) -> None:
        """One Dagster run; ``config`` by asset. Raises UserError with the cause where a step fails."""
        self.lease.check()
        started, tables = time.monotonic(), tuple(tables)
        done = self._execute(tables, partition, config)
        self.take_note(tables, partition, done, time.monotonic() - started)

    def _execute(self, tables: tuple[str, ...], partition: str | None, config: dict[str, Any] | None) -> Launched:
        """A run in this process."""
        import dagster as dg

        # checks look at the whole lake: they run once at the end, not with every shard
        if tables not in self._jobs:
            keys = {dg.AssetKey(t) for t in assets_of(tables)}
            self._jobs[tables] = self.job.get_subset(asset_selection=keys, asset_check_selection=set())
        with heard():
            return Launched.of(self._jobs[tables].execute_in_process(partition_key=partition, **self._how(config)))

    def take_note(self, tables: Sequence[str], partition: str | None, done: Launched, spent: float) -> None:
        """Add what a launch did to the outcome; ``spent``: seconds in all. Raises UserError where a step failed."""
        for table in tables:
            seconds = done.seconds.get(table, spent if len(tables) == 1 else 0.0)
            self.outcome.seconds[table] = self.outcome.seconds.get(table, 0.0) + seconds
        for table, computed in done.computed.items():
            self.outcome.rows_computed[table] = self.outcome.rows_computed.get(table, 0) + computed
            if computed:
                self.outcome.partitions.setdefault(table, []).append(partition or UNPARTITIONED)
        if done.failure:
            raise UserError(done.failure)

    def _how(self, config: dict[str, Any] | None = None) -> dict[str, Any]:
        return {
            "instance": self.instance,
            "raise_on_error": False,
            "tags": self._tags(),
            "run_config": {
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                "ops": {name: {"config": of} for name, of in (config or {}).items()},
            },
        }

    def _tags(self) -> dict[str, str]:
        return {
            "mmret/lake": self.lake.address,
            "mmret/lease": self.lease.id,
            "mmret/pid": str(os.getpid()),  # for people; no code asks for it
        }

    def verify(self) -> None:
        """Run every asset check over the whole lake; failures are recorded in the outcome and raise nothing."""
        import dagster as dg

        with heard():
            result = self.checks.execute_in_process(**self._how())
        for evaluation in result.get_asset_check_evaluations():
            if evaluation.partition is not None:  # recorded for the UI; the result of the whole lake says the same
                continue
            name = f"{evaluation.asset_key.path[-1]}: {evaluation.check_name}"
            warned = not evaluation.passed and evaluation.severity == dg.AssetCheckSeverity.WARN
            self.outcome.checks[name] = evaluation.passed or warned
            if warned:
                self.outcome.warnings.append(name)

    def stale(self, tables: Sequence[str], partition: str, lake: Lake | None = None) -> list[str]:
        """``tables`` from the first that is not current on, since those after it are computed from it.

        ``lake``: a snapshot, where many are asked for; else the lake as it is now.
        """
        return first_stale(lake or self.lake, self.profile, tables, partition)

    def _partitions(self, stage: str) -> list[str | None]:
        return turns_of(self.lake, self.profile, stage)

    def run(self, until: str | None = None, forget_missing: bool = False, check: bool = False) -> Outcome:
        """Bring the lake up to date; ``until``: no further than that stage, and without the checks; ``forget_missing``: take out
        pictures that are gone from their sources; ``check``: make the checks also where nothing was computed.

        Raises UserError where a stage fails, or where there are too few images for any work after the pictures are in.
        """
        from assets.partitions import register

        started = time.monotonic()
        self.on_stage(["corpus_manifest"], None, 0, 1)
        self.launch(["corpus_manifest"], None, {"corpus_manifest": {"forget_missing": forget_missing}})
        register(self.instance, self.lake.shards(), self.profile.recipes)
        groups = list(RUNS)
        if until == "corpus_manifest":
            groups = []
        elif until is not None:
            last = next(i for i, group in enumerate(groups) if until in group)
            groups = [*groups[:last], groups[last][: groups[last].index(until) + 1]]
        for group in groups:
            self._bring_up_to_date(group)
        if until is None and (check or any(self.outcome.rows_computed.values())):
            self.on_stage(["checks"], None, 0, 1)
            self.verify()
        self.outcome.total = time.monotonic() - started
        return self.outcome

    def _bring_up_to_date(self, group: Sequence[str]) -> None:
        """Launch what is stale of a group of stages, one partition after the other."""
        keys, now = self._partitions(group[0]), Snapshot(self.lake)
        first = {key: tables for key in keys if (tables := self.stale(group, key or UNPARTITIONED, now))}
        if first and "images" not in group:
            check_enough(self.lake)
        done = 0
        with shared_models():
            for key in keys if first else ():
                # candidates read all earlier shards: one of these that changes, as when a source is removed, comes first
                tables = first.get(key) or (self.stale(group, key or UNPARTITIONED) if done else [])
                if tables:
                    self.on_stage(tables, key, done, max(len(first), done + 1))
                    self.launch(tables, key)
                    done += 1
