"""Comparing states: counts are exact, every cause is one that was recorded, and a state that is gone is said to be."""

import json
import time
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from mmret.cli import app
from mmret.curation.decisions import DecisionLog
from mmret.errors import UserError
from mmret.lake import Lake, history
from mmret.lake.inputs import Inputs, record_inputs
from mmret.schemas import KEYS, TABLES
from mmret.warehouse import compare as comparing
from mmret.warehouse.compare import compare, state_of

ONE, TWO = "shard-00000", "shard-00001"


def write(lake: Lake, table: str, shard: str, rows: list[dict], inputs: str = "x", **notes) -> None:
    lake.write(table, shard, pa.Table.from_pylist(rows, TABLES[table]), inputs, **notes)


def pairs(lake: Lake, shard: str, scores: dict[str, float], k: int = 10, version: str = "2") -> None:
    """Pairs computed with a setting and from pictures, as a stage would leave them."""
    images = lake.facts("images", shard)
    made = Inputs("pairs", version, {"k": k}, (("images", shard, images),))
    record_inputs(lake, made)
    write(
        lake,
        "pairs",
        shard,
        [{"pair_id": i, "caption_score": s, "signals": ["caption"]} for i, s in scores.items()],
        made.fingerprint,
    )


def picture(name: str, **more) -> dict:
    return {"image_id": name, "caption": f"a {name}", **more}


def manifest(lake: Lake, shard: str, rows: list[dict]) -> None:
    write(lake, "corpus_manifest", shard, [{"shard": shard, "position": n, "root": "/photos", **row} for n, row in enumerate(rows)])


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = Lake(tmp_path / "lake")
    manifest(lake, ONE, [{"path": "a.png"}, {"path": "b.png"}])
    write(lake, "images", ONE, [picture("a"), picture("b")])
    pairs(lake, ONE, {"p1": 0.5, "p2": 0.6, "p3": float("nan"), "p4": None})
    history.log_run(lake, "run-1", 0, {})
    return lake


def changes(lake: Lake, before: str = "run-1", after: str = "now", **more) -> dict:
    return {change.table: change for change in compare(lake, state_of(lake, before), state_of(lake, after), **more).tables}


def counts(change) -> tuple[int, int, int, int]:
    return change.added, change.gone, change.changed, change.same


def test_every_table_has_a_key_among_its_columns():
    assert KEYS.keys() == TABLES.keys()
    assert not {table: keys for table, keys in KEYS.items() if set(keys) - set(TABLES[table].names)}


def test_a_changed_setting_is_the_cause_of_the_rows_it_changed(lake):
    pairs(lake, ONE, {"p1": 0.5, "p2": 0.7, "p3": float("nan"), "p5": 0.1}, k=12)
    found = changes(lake)
    assert counts(found["pairs"]) == (1, 1, 1, 2) and found["pairs"].columns == {"caption_score": 1}
    assert found["pairs"].causes.own == {"mine.k: 10 → 12": 1} and found["pairs"].causes.upstream == {}
    changed = found["pairs"].examples["changed"]
    assert [row["key"] for row in changed] == [{"partition": ONE, "pair_id": "p2"}]
    assert {c: [round(v, 3) for v in values] for c, values in changed[0]["columns"].items()} == {"caption_score": [0.6, 0.7]}
    assert [row["pair_id"] for row in found["pairs"].examples["added"]] == ["p5"]
    assert [row["pair_id"] for row in found["pairs"].examples["gone"]] == ["p4"]
    assert counts(found["images"]) == (0, 0, 0, 2) and counts(found["triplets"]) == (0, 0, 0, 0)


def test_backwards_what_was_added_is_gone(lake):
    pairs(lake, ONE, {"p1": 0.5, "p2": 0.7, "p3": float("nan"), "p5": 0.1, "p6": 0.2})
    assert counts(changes(lake)["pairs"]) == (2, 1, 1, 2)
    assert counts(changes(lake, "now", "run-1")["pairs"]) == (1, 2, 1, 2)


def test_new_pictures_are_counted_by_their_source_and_followed_by_the_tables_that_read_them(lake):
    manifest(lake, ONE, [{"path": "a.png", "caption": "another"}, {"path": "b.png"}])
    manifest(lake, TWO, [{"path": "c.png", "root": "/more"}] * 3)
    write(lake, "images", ONE, [picture("a", licence="CC0"), picture("b")])
    write(lake, "images", TWO, [picture("c"), picture("d")])
    pairs(lake, ONE, {"p1": 0.4, "p2": 0.6, "p3": float("nan"), "p4": None}, version="3")
    found = changes(lake)
    assert counts(found["corpus_manifest"]) == (3, 0, 1, 1) and found["corpus_manifest"].columns == {"caption": 1}
    assert found["corpus_manifest"].causes.own == {"/photos: rows changed": 1, "/more: rows added": 3}
    assert counts(found["images"]) == (2, 0, 1, 1) and found["images"].causes.own["new partition"] == 1
    assert counts(found["pairs"]) == (0, 0, 1, 3)
    assert found["pairs"].causes.own == {"code version 2 → 3": 1} and found["pairs"].causes.upstream == {"images": 1}


def test_decisions_until_a_time_are_those_made_until_then(lake):
    before = datetime.now(UTC).isoformat()
    time.sleep(0.01)
    DecisionLog(lake, "ana").add(["p1", "p2"], "accepted")
    between = datetime.now(UTC).isoformat()
    time.sleep(0.01)
    DecisionLog(lake, "ben").add(["p1"], "rejected")
    found = changes(lake, before)["decisions"]
    assert counts(found) == (3, 0, 0, 0) and found.causes.own == {"ana: rows added": 2, "ben: rows added": 1}
    assert counts(changes(lake, between)["decisions"]) == (1, 0, 0, 2)
    assert counts(changes(lake, before, between)["decisions"]) == (2, 0, 0, 0)


def test_what_was_computed_again_or_is_not_recorded_says_so(lake):
    inputs = lake.facts("pairs", ONE).inputs
    write(lake, "pairs", ONE, [{"pair_id": "p1"}], inputs)
    assert changes(lake)["pairs"].causes.own == {"computed again from the same inputs": 1}
    write(lake, "pairs", ONE, [{"pair_id": "p1"}], inputs, unanswered=3)
    assert changes(lake)["pairs"].causes.own == {"requests without an answer were sent again": 1}
    (lake.root / "inputs" / f"{inputs}.json").unlink()
    write(lake, "pairs", ONE, [{"pair_id": "p1"}], "other")
    assert "not recorded" in next(iter(changes(lake)["pairs"].causes.own))


def test_counts_are_the_same_however_few_rows_are_compared_at_once(lake, monkeypatch):
    for shard in (ONE, TWO):
        write(lake, "images", shard, [picture(f"{shard}{n}") for n in range(5)])
    history.log_run(lake, "run-2", 0, {})
    for shard in (ONE, TWO):
        write(lake, "images", shard, [picture(f"{shard}{n}", licence=str(n % 2)) for n in range(1, 7)])
    at_once = changes(lake, "run-2", examples=2)["images"]
    monkeypatch.setattr(comparing, "_ROWS_AT_ONCE", 1)
    one_by_one = changes(lake, "run-2", examples=2)["images"]
    assert counts(at_once) == counts(one_by_one) == (4, 2, 8, 0)
    assert at_once.columns == one_by_one.columns == {"licence": 8}
    assert {kind: len(rows) for kind, rows in one_by_one.examples.items()} == {"added": 2, "gone": 2, "changed": 2}


def test_partitions_of_equal_content_are_not_read(lake, monkeypatch):
    write(lake, "images", ONE, [picture("a"), picture("b")], inputs="another fingerprint")
    monkeypatch.setattr(comparing, "_count", lambda *_: pytest.fail("read"))
    assert not any(change.differs for change in changes(lake).values())


def diff(lake: Lake, *arguments: str):
    done = CliRunner().invoke(app, ["diff", "--lake", str(lake.root), *arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_the_command_says_that_nothing_differs_or_what_does(lake):
    assert diff(lake, "run-1") == "no row differs between run-1 and now\n"
    assert diff(lake, "run-1", "--table", "pairs") == "no row differs between run-1 and now in pairs\n"
    pairs(lake, ONE, {"p1": 0.5, "p2": 0.75, "p3": float("nan"), "p4": None}, k=11)
    said = diff(lake, "run-1")
    assert "mine.k: 10 → 11" in said and "caption_score 1" in said and "→ 0.75" in said
    found = json.loads(diff(lake, "run-1", "--json", "--rows", "0"))["tables"]["pairs"]
    assert found == {
        "added": 0, "gone": 0, "changed": 1, "same": 3, "columns": {"caption_score": 1},
        "why": {"own": {"mine.k: 10 → 11": 1}, "upstream": {}}, "examples": {},
    }  # fmt: skip


def test_a_state_that_is_gone_or_never_was_is_one_sentence(lake, tmp_path):
    pairs(lake, ONE, {"p1": 0.5})
    (lake.root / "history" / "cleaned").write_text(json.dumps({"kept": time.time_ns()}))
    with pytest.raises(UserError, match="^run-1: versions replaced before .* have been dropped"):
        diff(lake, "run-1")
    with pytest.raises(UserError, match="^'nosuch': neither a checkpoint nor a run"):
        diff(lake, "now", "nosuch")
    with pytest.raises(UserError, match="--table nosuch: there are corpus_manifest"):
        diff(lake, "now", "--table", "nosuch")
    with pytest.raises(UserError, match="holds no lake yet"):
        diff(Lake(tmp_path / "none"), "now")


def test_tables_that_a_checkpoint_s_state_lacks_are_named(lake):
    state = history.record_state(lake, history.current_state(lake))
    write(lake, "checkpoints", "demo", [{"recipe": "demo"}], state=state)
    assert "not compared: candidates (not kept with demo), neighbours" in diff(lake, "demo")
    with pytest.raises(UserError, match="candidates is not kept with the state demo"):
        diff(lake, "demo", "--table", "candidates")
