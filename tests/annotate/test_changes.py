"""Pins of what a change costs, on a lake: a second run and a changed parser ask nothing, a changed prompt of the instructions
leaves the descriptions as they are, and what a run notes adds up."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmret.annotate import estimate as estimating
from mmret.annotate import rows as row_module
from mmret.annotate.backends import load as backends
from mmret.annotate.stage import seconds_left
from mmret.cli.estimate import estimate_cost
from mmret.errors import UserError
from mmret.freshness import fingerprints
from mmret.lake import Lake
from mmret.settings import AnnotateSettings
from tests.annotate.annotation_run import SHARD, AnnotationRun
from tests.annotate.server import RudeServer
from tests.annotate.test_openai_server import _answer
from tests.small_runs import command, run

PAIRS = 60


def test_a_second_run_asks_nothing(annotation: AnnotationRun) -> None:
    assert annotation.run() == (2 * PAIRS, 2 * PAIRS)
    assert annotation.run() == (0, 0)


def test_a_changed_parser_asks_nothing_and_reads_every_row_again(
    annotation: AnnotationRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotation.run()
    before = annotation.tables()
    for module in (backends, row_module):
        monkeypatch.setattr(module, "parser_version", lambda uses_model: "next")
    assert annotation.run() == (0, 2 * PAIRS)
    for old, new in zip(before, annotation.tables(), strict=True):
        assert set(new["parser_version"].to_pylist()) == {"next"}
        assert old.drop_columns("parser_version") == new.drop_columns("parser_version")


def test_a_changed_prompt_of_the_instructions_leaves_the_descriptions_untouched(annotation: AnnotationRun) -> None:
    annotation.run()
    described = annotation.lake.path("descriptions", SHARD)
    before = described.stat().st_mtime_ns
    systems: list[str] = []
    with RudeServer(lambda body, number: systems.append(body["messages"][0]["content"]) or _answer(body)) as server:
        annotation.annotate(annotation.profile(server.url, demonstrations=2))
    assert len(systems) == PAIRS and all("search queries" in s for s in systems)
    assert described.stat().st_mtime_ns == before


def test_what_was_sent_is_noted_and_the_rest_is_estimated(annotation: AnnotationRun) -> None:
    empty = estimate_cost(annotation.lake, annotation.profile("http://any"))
    assert (empty["to_send"], empty["seconds"]) == (2 * PAIRS + 2 * annotation.lake.facts("pairs", "shard-00001").rows, None)
    annotation.run()
    notes = annotation.lake.facts("descriptions", SHARD).notes
    assert notes["requests_sent"] == PAIRS and notes["sent_tokens_in"] == notes["tokens_in"] == 7 * PAIRS
    assert notes["sent_per_second"] > 0 and notes["model"] == "m"
    priced = annotation.profile("http://any").model_copy()
    priced = priced.model_copy(
        update={
            "annotate": priced.annotate.model_copy(
                update={"vision": priced.annotate.vision.model_copy(update={"price_in": 1e6, "price_out": 0.0})}
            )
        }
    )
    found = estimate_cost(annotation.lake, priced)
    left = annotation.lake.facts("pairs", "shard-00001").rows
    assert [k["to_send"] for k in found["kinds"]] == [left, left]
    assert found["kinds"][0]["tokens_measured"] and found["kinds"][0]["cost"] == pytest.approx(7 * left)
    assert found["kinds"][0]["seconds"] == pytest.approx(left / notes["sent_per_second"], abs=0.1)
    annotation.lake.path("descriptions", "shard-00001").unlink()  # mined, not annotated
    pace = notes["annotation_seconds"] / PAIRS
    assert seconds_left(annotation.lake, "descriptions", SHARD) == pytest.approx(left * pace, abs=0.1)


def test_of_many_pairs_a_sample_stands_for_all(annotation: AnnotationRun, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = annotation.profile("http://any").annotate
    whole = estimating.estimate_lake(annotation.lake, settings)
    monkeypatch.setattr(estimating, "PAIRS", 100)
    some = estimating.estimate_lake(annotation.lake, settings)
    assert [e.requests for e in some] == [e.requests for e in whole]
    assert some[0].tokens_in == pytest.approx(whole[0].tokens_in, rel=0.05)


def test_without_pairs_the_estimate_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--dry-run"):
        estimating.estimate_lake(Lake(tmp_path), AnnotateSettings())


def test_partitions_of_earlier_versions_count_as_they_are(annotation: AnnotationRun) -> None:
    """No notes of unanswered rows: not a reason to compute again."""
    annotation.run()
    facts = annotation.lake.facts("descriptions", SHARD)
    notes = {k: v for k, v in facts.notes.items() if k not in ("unanswered", "retries", "annotation_seconds", "model")}
    annotation.lake.write("descriptions", SHARD, annotation.lake.read("descriptions", SHARD), facts.inputs, **notes)
    assert fingerprints.current_facts(annotation.lake, annotation.profile("http://any"), "descriptions", SHARD) is not None
    assert seconds_left(annotation.lake, "descriptions", SHARD) is None


def test_a_dry_run_stops_before_anything_is_sent(annotation: AnnotationRun) -> None:
    for table in ("descriptions", "instructions"):
        shutil.rmtree(annotation.lake.root / table)
    with RudeServer(_answer) as server:
        found = run(
            command(
                annotation.lake.root,
                "--dry-run",
                "--set",
                "annotate.backend=openai",
                "--set",
                f"annotate.vision={{model: m, price_in: 0.5, urls: ['{server.url}']}}",
            )
        )
        assert not server.bodies
    pairs = sum(annotation.lake.facts("pairs", s).rows for s in annotation.lake.shards())
    assert [(k["kind"], k["to_send"]) for k in found["kinds"]] == [("describe", pairs), ("instruct", pairs)]
    assert found["cost"] > 0 and found["seconds"] is None and not annotation.lake.partitions("descriptions")
