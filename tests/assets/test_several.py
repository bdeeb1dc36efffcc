"""Launches side by side: what has to end before a launch begins, and what becomes of the others where one fails."""

from concurrent.futures import Future

import pytest

from assets.runner.several import Unit, chains, in_flight, order
from mmret.stages import RUNS, STAGES
from tests.freshness.empty_tables import PROFILE

SHARDS = ["shard-00000", "shard-00001", "shard-00002"]
ENCODE = next(run for run in RUNS if "candidates" in run)
VECTORS = ("clip_image", "dino_image", "caption")


def test_a_group_is_split_where_a_stage_reads_what_another_makes_of_other_shards():
    assert chains(ENCODE, SHARDS, PROFILE) == [VECTORS, ("candidates",)]
    others = [run for run in RUNS if run != ENCODE and STAGES[run[0]].partitions == "shard"]
    assert all(chains(run, SHARDS, PROFILE) == [run] for run in others)


def test_candidates_of_a_shard_wait_for_the_vectors_of_earlier_shards_and_for_no_later_ones():
    waiting = order(ENCODE, SHARDS, PROFILE)
    vectors = [Unit(0, VECTORS, shard) for shard in SHARDS]
    for n, shard in enumerate(SHARDS):
        assert waiting[Unit(1, ("candidates",), shard)] == set(vectors[: n + 1])
    assert all(waiting[unit] == set() for unit in vectors)


def test_a_recipe_waits_for_those_that_it_learns_from():
    recipes = PROFILE.recipes | {"next": PROFILE.recipes["demo"].model_copy(update={"base": "checkpoints/demo"})}
    profile = PROFILE.model_copy(update={"recipes": recipes})
    waiting = order(RUNS[-1], ["demo", "next"], profile)
    assert {unit.partition for unit in waiting[next(u for u in waiting if u.partition == "next")]} == {"demo"}
    whole = order(("towers",), [None], PROFILE)
    assert whole == {Unit(0, ("towers",), None): set()}


class Launches:
    """Every launch ends when the test says so; ``fails``: those that then raise."""

    def __init__(self, fails=(), current=()):
        self.fails, self.current = fails, current
        self.running: list[tuple[Unit, Future]] = []
        self.begun, self.ended, self.most, self.stopped = [], [], 0, False

    def to_do(self, unit):
        return () if unit in self.current else unit.stages

    def submit(self, unit, stages):
        future = Future()
        self.begun.append(unit)
        self.running.append((unit, future))
        self.most = max(self.most, len(self.running))
        future.set_running_or_notify_cancel()
        if len(self.begun) - len(self.ended) >= 2 or unit.place:
            self.finish_first()
        return future

    def finish_first(self):
        unit, future = self.running.pop(0)
        future.set_exception(OSError(str(unit))) if unit in self.fails else future.set_result(unit)

    def over(self, unit, stages, future):
        self.ended.append(unit)
        future.result()

    def meanwhile(self):
        if self.running:
            self.finish_first()

    def stop(self):
        self.stopped = True


def test_everything_is_launched_once_in_an_order_that_holds_and_never_more_than_so_many_at_once():
    waiting, launches = order(ENCODE, SHARDS, PROFILE), Launches()
    in_flight(waiting, 2, launches)
    assert sorted(launches.begun) == sorted(waiting) and launches.most <= 2
    assert all(launches.begun.index(b) < launches.begun.index(unit) for unit, before in waiting.items() for b in before)


def test_what_is_current_is_not_launched_and_holds_nobody_up():
    waiting = order(ENCODE, SHARDS, PROFILE)
    launches = Launches(current=[unit for unit in waiting if unit.place == 0])
    in_flight(waiting, 8, launches)
    assert [unit.partition for unit in launches.begun] == SHARDS and {unit.place for unit in launches.begun} == {1}
    in_flight(waiting, 8, none := Launches(current=list(waiting)))
    assert none.begun == []


def test_where_one_fails_those_that_run_are_waited_for_no_other_is_begun_and_its_error_is_raised():
    waiting = order(ENCODE, SHARDS, PROFILE)
    first = next(iter(waiting))
    launches = Launches(fails=[first])
    with pytest.raises(OSError, match="shard-00000"):
        in_flight(waiting, 2, launches)
    assert sorted(launches.ended) == sorted(launches.begun) and len(launches.begun) <= 3 and not launches.stopped


def test_a_signal_stops_those_that_run():
    class Interrupted(Launches):
        def meanwhile(self):
            raise KeyboardInterrupt

    launches = Interrupted()
    with pytest.raises(KeyboardInterrupt, match="^$"):
        in_flight(order(ENCODE, SHARDS, PROFILE), 2, launches)
    assert launches.stopped


def test_units_that_wait_for_each_other_are_told_and_not_waited_for():
    one, two = Unit(0, ("pairs",), "a"), Unit(0, ("pairs",), "b")
    with pytest.raises(RuntimeError, match="waits for itself"):
        in_flight({one: {two}, two: {one}}, 2, Launches())
