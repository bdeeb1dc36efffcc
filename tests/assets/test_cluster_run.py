"""What a run on a cluster has to do is seen in one look at the lake for all shards, until a launch has ended."""

from concurrent.futures import Future

from assets.runner import cluster_run
from assets.runner.cluster_run import ClusterRunner
from assets.runner.launched import Launched
from assets.runner.several import Unit
from tests.freshness.empty_tables import PROFILE, SHARDS, current_lake


class Nobody:
    def ended(self, stages, partition):
        pass


def test_shards_are_looked_over_together_and_anew_once_a_launch_has_ended(tmp_path, monkeypatch):
    looks, real = [], cluster_run.Snapshot
    monkeypatch.setattr(cluster_run, "Snapshot", lambda lake: looks.append(lake) or real(lake))
    runner = object.__new__(ClusterRunner)
    runner.lake, runner.profile, runner.watcher = current_lake(tmp_path / "lake"), PROFILE, Nobody()
    runner._now, runner._begun = None, {}
    units = [Unit(0, ("pairs",), shard) for shard in SHARDS]
    assert [runner.to_do(unit) for unit in units] == [[], [], []] and len(looks) == 1
    runner.lake.remove("pairs", SHARDS[2])
    runner._begun[units[0]] = ("pairs",), 0.0
    monkeypatch.setattr(runner, "take_note", lambda *_: None)
    done = Future()
    done.set_result(Launched({}, {}))
    runner.over(units[0], ("pairs",), done)
    assert [list(runner.to_do(unit)) for unit in units] == [[], [], ["pairs"]] and len(looks) == 2
