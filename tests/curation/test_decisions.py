"""Decisions are added, never changed: the last one on a pair counts, sessions do not overwrite each other, and what heeds them
is computed again exactly when other pairs are left out."""

import os
import shutil

import pyarrow.compute as pc
import pytest

from mmret.curation import decisions
from mmret.curation.decisions import DecisionLog, apply_decisions, decisions_fingerprint, latest_decisions
from mmret.errors import UserError
from mmret.freshness import fingerprints
from mmret.lake import Lake
from mmret.lake.configuration import resolve


def said(lake: Lake) -> dict[str, str]:
    rows = latest_decisions(lake)
    return dict(zip(rows["pair_id"].to_pylist(), rows["decision"].to_pylist(), strict=True))


def test_the_last_decision_counts_and_every_row_is_kept(tmp_path):
    lake = Lake(tmp_path)
    one, two = DecisionLog(lake, "ann"), DecisionLog(lake, "bob")
    one.add(["a", "b"], "rejected", "blurred")
    two.add(["a"], "accepted")
    one.add(["b"], "withdrawn")
    two.add(["c"], "rejected")
    assert said(lake) == {"a": "accepted", "c": "rejected"}
    rows = lake.read("decisions")
    assert rows.num_rows == 5 and sorted(set(rows["reviewer"].to_pylist())) == ["ann", "bob"]
    assert said(Lake(tmp_path)) == {"a": "accepted", "c": "rejected"}
    with pytest.raises(UserError, match="accepted, rejected"):
        one.add(["a"], "maybe")


def test_the_latest_decision_counts_whichever_session_began_first(tmp_path):
    lake = Lake(tmp_path)
    old, new = DecisionLog(lake, "ann"), DecisionLog(lake, "bob")
    new.add(["a", "b"], "accepted")
    old.add(["a"], "rejected")
    old.add(["b"], "withdrawn")
    new.add(["c"], "rejected")
    old.add(["c"], "accepted", "sharp enough")
    old.add([], "rejected")
    assert said(lake) == {"a": "rejected", "c": "accepted"}
    row = latest_decisions(lake, ["c", "nobody's"]).to_pylist()
    assert [(r["pair_id"], r["note"], r["reviewer"]) for r in row] == [("c", "sharp enough", "ann")]


def test_fingerprints_of_decisions_change_with_the_pairs_that_a_rule_heeds_alone(tmp_path):
    lake = Lake(tmp_path)
    log = DecisionLog(lake, "ann")
    rules = ("ignore", "without_rejected", "only_accepted")
    nothing = [decisions_fingerprint(lake, rule) for rule in rules]
    assert nothing[:2] == [None, None] and nothing[2] is not None, "to accept nothing leaves nothing"
    log.add(["a"], "accepted")
    one = [decisions_fingerprint(lake, rule) for rule in rules]
    assert one[:2] == [None, None] and one[2] not in (None, nothing[2])
    log.add(["b"], "rejected")
    two = [decisions_fingerprint(lake, rule) for rule in rules]
    assert two[0] is None and two[1] is not None and two[2] == one[2]
    log.add(["b"], "rejected", "said again")
    assert [decisions_fingerprint(lake, rule) for rule in rules] == two


def test_a_clock_set_back_does_not_reorder_a_session(tmp_path, monkeypatch):
    lake, log = Lake(tmp_path), None
    hours = iter([12, 11, 10])

    class Clock(decisions.datetime):
        @classmethod
        def now(cls, tz=None):
            return decisions.datetime.__base__(2026, 1, 1, next(hours, 9), tzinfo=tz)

    log = DecisionLog(lake, "ann")
    monkeypatch.setattr(decisions, "datetime", Clock)
    for decision in ("accepted", "rejected"):
        log.add(["a"], decision)
    assert said(lake) == {"a": "rejected"}


def test_a_crash_while_writing_loses_only_the_decision_at_hand(tmp_path, monkeypatch):
    lake = Lake(tmp_path)
    log = DecisionLog(lake, "ann")
    log.add(["a"], "rejected")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            log.add(["b"], "rejected")
    assert said(lake) == {"a": "rejected"}
    log.add(["c"], "accepted")
    assert said(lake) == {"a": "rejected", "c": "accepted"}


def test_a_long_session_is_rolled_over(tmp_path, monkeypatch):
    monkeypatch.setattr(decisions, "ROWS_PER_FILE", 3)
    lake = Lake(tmp_path)
    log = DecisionLog(lake, "ann")
    for i in range(8):
        log.add([f"p{i}"], "accepted")
    assert len(lake.partitions("decisions")) == 3 and len(said(lake)) == 8


def test_heeding_leaves_out_what_was_rejected_or_not_accepted(small_lake, tmp_path):
    shutil.copytree(small_lake[0], tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    triplets = lake.read("triplets")
    ids = triplets["pair_id"].to_pylist()
    log = DecisionLog(lake, "ann")
    log.add(ids[:3], "rejected")
    log.add(ids[3:5], "accepted")
    assert apply_decisions(lake, triplets, "ignore").num_rows == len(ids)
    assert apply_decisions(lake, triplets, "without_rejected")["pair_id"].to_pylist() == ids[3:]
    assert apply_decisions(lake, triplets, "only_accepted")["pair_id"].to_pylist() == ids[3:5]


def test_a_recipe_is_stale_exactly_when_other_pairs_are_left_out(small_lake, tmp_path):
    shutil.copytree(small_lake[0], tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    plain = resolve(lake)[0]
    heeding = resolve(lake, overrides={"recipes.demo.decisions": "without_rejected"})[0]
    ids = lake.read("triplets")["pair_id"].to_pylist()
    before = [fingerprints.fingerprint_now(lake, p, "checkpoints", "demo") for p in (plain, heeding)]
    assert fingerprints.current_facts(lake, plain, "checkpoints", "demo")
    log = DecisionLog(lake, "ann")
    log.add(ids[:1], "rejected")
    log.add(ids[1:2], "accepted")
    assert fingerprints.fingerprint_now(lake, plain, "checkpoints", "demo") == before[0]
    assert fingerprints.fingerprint_now(lake, heeding, "checkpoints", "demo") != before[1]
    log.add(ids[:1], "withdrawn")
    assert fingerprints.fingerprint_now(lake, heeding, "checkpoints", "demo") == before[1]
    assert decisions_fingerprint(lake, "only_accepted") != decisions_fingerprint(lake, "without_rejected")


def test_a_recipe_that_heeds_trains_on_what_is_left(small_lake, tmp_path, monkeypatch):
    from mmret.retriever.train import stage as recipes

    shutil.copytree(small_lake[0], tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    profile = resolve(lake, overrides={"recipes.demo.decisions": "without_rejected"})[0]
    gone = lake.read("triplets")["pair_id"].to_pylist()[:4]
    DecisionLog(lake, "ann").add(gone, "rejected")
    seen = {}

    def train(recipe, triplets, *_):
        seen["ids"] = triplets["pair_id"]
        return {"step": 1, "loss": 0.0, "pairs": 1, "seconds": 0.0}

    monkeypatch.setattr(recipes, "train", train)
    recipes.train_recipe(recipes.TrainingJob.of(lake, profile, "demo"), "x")
    assert len(seen["ids"]) == lake.read("triplets").num_rows - 4
    assert not pc.any(pc.is_in(seen["ids"], lake.read("decisions")["pair_id"].combine_chunks())).as_py()
