"""Invariants of recipes with a teacher, on a lake: a checkpoint is stale when its teacher is another; only rows that are trained on
are scored; a margin takes negatives before training, as part of the run; a teacher that says nothing is an error."""

from __future__ import annotations

import io
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from mmret.annotate import candidate_judge
from mmret.annotate.candidate_judge import judge_version
from mmret.cli import app
from mmret.cli.run_summary import print_training_notes, training_notes
from mmret.errors import UserError
from mmret.freshness.fingerprints import fingerprint_now
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.retriever.train import stage
from mmret.retriever.train.imported_scores import import_scores
from mmret.retriever.train.parallel import SINGLE_PROCESS
from mmret.retriever.train.stage import TrainingJob
from mmret.retriever.train.taught_rows import taught_rows
from mmret.retriever.train.teach import coverage
from mmret.schemas import TABLES
from mmret.settings import Recipe
from mmret.stage_declaration import Reads
from mmret.stages import STAGES
from tests.annotate.test_attempts import Scripted

STAGE = STAGES["checkpoints"]
VLM = {"annotate.vision.model": "m"}


@pytest.fixture(scope="module")
def lake(small_lake, tmp_path_factory) -> Lake:
    """A copy of the small lake, for what adds to it."""
    root = tmp_path_factory.mktemp("taught") / "lake"
    shutil.copytree(small_lake[0], root, ignore=shutil.ignore_patterns(".dagster", "evaluations"))
    return Lake(root)


def profile_of(lake: Lake, student: dict, **overrides):
    """The lake's profile with a recipe `student` that is `demo` with other settings."""
    demo = resolve(lake)[0].recipes["demo"].model_dump(mode="json")
    return resolve(lake, overrides={"recipes.student": {**demo, **student}, **overrides})[0]


def scores(lake: Lake, path, of=lambda row: 1.0) -> list[dict]:
    """Made-up scores of all that the training triplets ask, written into ``path``."""
    rows = [
        {"query_id": row["query_id"], "text": text, "candidate_id": candidate, "score": of({**row, "candidate": candidate})}
        for row in lake.read("triplets").to_pylist()
        if row["split"] == "train"
        for text in row["texts"]
        for candidate in dict.fromkeys([row["target_id"], *row["hard_negatives"]])
    ]
    unique = {(r["query_id"], r["text"], r["candidate_id"]): r for r in rows}
    pq.write_table(pa.Table.from_pylist(list(unique.values())), path)
    return list(unique.values())


def test_what_a_student_depends_on_follows_its_kind_of_teacher(lake, tmp_path):
    strong = profile_of(lake, {"teacher": "demo"})
    assert STAGE.conditional_reads(strong, "student") == (Reads("checkpoints", "named", "demo"),)
    assert "judge" not in STAGE.fingerprint_settings(strong, "student")
    judged = profile_of(lake, {"teacher": "judge"}, **VLM)
    assert STAGE.conditional_reads(judged, "student") == ()
    assert STAGE.fingerprint_settings(judged, "student")["judge"] == judge_version(judged.annotate)
    other = profile_of(lake, {"teacher": "judge"}, **{"annotate.vision.model": "n"})
    assert fingerprint_now(lake, judged, "checkpoints", "student") != fingerprint_now(lake, other, "checkpoints", "student")
    assert fingerprint_now(lake, judged, "checkpoints", "demo") == fingerprint_now(lake, other, "checkpoints", "demo")


def test_other_scores_make_their_student_stale_and_the_same_ones_do_not(lake, tmp_path):
    profile = profile_of(lake, {"teacher": "scores/own"})
    assert STAGE.conditional_reads(profile, "student") == (Reads("teacher_scores", "named", "scores.own"),)
    assert fingerprint_now(lake, profile, "checkpoints", "student") is None, "nobody has brought them"
    scores(lake, tmp_path / "s.parquet")
    import_scores(lake, "own", tmp_path / "s.parquet")
    first = fingerprint_now(lake, profile, "checkpoints", "student")
    import_scores(lake, "own", tmp_path / "s.parquet")
    assert fingerprint_now(lake, profile, "checkpoints", "student") == first is not None
    scores(lake, tmp_path / "s.parquet", lambda row: 2.0)
    import_scores(lake, "own", tmp_path / "s.parquet")
    assert fingerprint_now(lake, profile, "checkpoints", "student") != first


def trained(lake: Lake, monkeypatch, profile):
    """What training is given of recipe `student`, and the facts that come back."""
    given = {}

    def train(recipe, rows, *rest):
        given.update(rows=rows, teacher=rest[-2], recipe=recipe)
        return {"notes": ["as before"], "loss": 1.0}

    monkeypatch.setattr(stage, "train", train)
    job = TrainingJob.of(lake, profile, "student")
    job = TrainingJob.from_json(json.loads(json.dumps(job.to_json())))
    return stage.train_on_lake(job), given


def test_a_margin_takes_negatives_before_training_and_a_teacher_of_no_weight_teaches_nothing(lake, tmp_path, monkeypatch):
    scores(lake, tmp_path / "s.parquet", lambda row: 0.9 if row["candidate"] == row["hard_negatives"][-1] else 0.5)
    import_scores(lake, "margin", tmp_path / "s.parquet")
    taught = {"teacher": "scores/margin", "negative_margin": -0.1}
    facts, given = trained(lake, monkeypatch, profile_of(lake, {**taught, "distillation": 0}))
    before = {row["pair_id"]: row["hard_negatives"] for row in lake.read("triplets").to_pylist()}
    after = {row["pair_id"]: row["hard_negatives"] for row in given["rows"].to_pylist() if row["split"] == "train"}
    gone = sum(len(before[pair]) - len(left) for pair, left in after.items())
    assert gone and given["teacher"] is None and all(left[0] == before[pair][0] for pair, left in after.items())
    assert facts["notes"][0] == "as before" and facts["notes"][1].startswith(f"negative_margin left {gone} of ")
    facts, both = trained(lake, monkeypatch, profile_of(lake, taught))
    assert both["rows"] == given["rows"] and both["teacher"].model == lake.facts("teacher_scores", "scores.margin").digest
    facts, alone = trained(lake, monkeypatch, profile_of(lake, {"teacher": "scores/margin"}))
    assert facts["notes"] == ["as before"] and alone["teacher"] is not None


def test_only_pairs_that_a_recipe_trains_on_are_scored_and_the_judge_is_asked_about_them_alone(lake, monkeypatch):
    asked = []
    say = lambda request: (asked.append(request), '{"score": 4}')[1]  # noqa: E731
    monkeypatch.setattr(candidate_judge, "load_candidate_judge", lambda settings: Scripted(say))
    profile = profile_of(lake, {"teacher": "judge", "pairs": 3}, **VLM)
    facts, given = trained(lake, monkeypatch, profile)
    rows = lake.read("teacher_scores", [p for p in lake.partitions("teacher_scores") if p.startswith("judge-")])
    assert len(set(rows["pair_id"].to_pylist())) == 3 and len(asked) <= len(rows) and facts["notes"] == ["as before"]
    assert set(given["teacher"].scores.tolist()) == {0.75}
    again = len(asked)
    trained(lake, monkeypatch, profile)
    assert len(asked) == again
    refuse = lambda request: "I cannot say"  # noqa: E731
    monkeypatch.setattr(candidate_judge, "load_candidate_judge", lambda settings: Scripted(refuse))
    other = profile_of(lake, {"teacher": "judge", "pairs": 3, "seed": 99}, **{"annotate.vision.model": "other"})
    with pytest.raises(UserError, match="can be used|has scored none of the"):
        trained(lake, monkeypatch, other)


def test_scores_of_other_questions_are_an_error_that_says_how_they_are_matched(lake, tmp_path, monkeypatch):
    rows = scores(lake, tmp_path / "s.parquet")
    pq.write_table(pa.Table.from_pylist([{**row, "text": row["text"] + "!"} for row in rows]), tmp_path / "s.parquet")
    import_scores(lake, "others", tmp_path / "s.parquet")
    with pytest.raises(UserError, match="scored none of the .* of a score are those of table triplets"):
        trained(lake, monkeypatch, profile_of(lake, {"teacher": "scores/others"}))


def test_a_teacher_of_a_mixture_without_composed_rows_is_a_note_as_the_task_left_out_is(lake):
    rows = TABLES["triplets"].empty_table().append_column("task", pa.nulls(0, pa.string()))
    mixture = Recipe(tasks={"composed": 1, "text_to_image": 1}, teacher="demo")
    found = taught_rows(lake, mixture, rows, lambda ids: {}, SINGLE_PROCESS, None)
    assert found.scores is None and found.notes[0].startswith("teacher 'demo' taught nothing: no triplets to train on")
    with pytest.raises(UserError, match="no triplets to train on"):
        taught_rows(lake, Recipe(teacher="demo"), rows, lambda ids: {}, SINGLE_PROCESS, None)


def test_the_command_brings_scores_and_says_what_it_left_out_and_what_they_answer(lake, tmp_path):
    rows = scores(lake, tmp_path / "s.parquet")
    some = [*rows[:5], {**rows[6], "candidate_id": "0" * 32}]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*some, rows[0]]))
    call = ["teach", "--lake", str(lake.root), "--recipe", "scores/cli", "--scores", str(tmp_path / "s.jsonl")]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert "note: 1 rows say what another one says" in done.stderr
    assert f"note: 1 rows left out: not in the lake (row 6 has {'0' * 32})" in done.stderr
    known, wanted = coverage(lake, "cli", lake.read("triplets"))
    assert known >= 5 and f"they answer {known:,} of {wanted:,} questions" in done.stdout and "scores in table" in done.stdout
    again = CliRunner().invoke(app, call)
    assert "scores already in table" in again.stdout
    bad = CliRunner().invoke(app, [*call[:4], "a/b", *call[5:]])
    assert isinstance(bad.exception, UserError) and "'a/b' is no name of scores" in str(bad.exception)


def test_a_lake_teaches_by_a_retriever_of_its_own(lake):
    done = CliRunner().invoke(app, ["teach", "--lake", str(lake.root), "--recipe", "demo"])
    assert done.exit_code == 0 and "new scores in table teacher_scores" in done.stdout, done.output
    rows = lake.read("teacher_scores", [p for p in lake.partitions("teacher_scores") if p.startswith("demo-")]).to_pylist()
    assert rows and all(-1 <= row["score"] <= 1 for row in rows)
    own = [row for row in rows if row["candidate_id"] == row["query_id"]]
    assert own and images_by_id(lake, [own[0]["query_id"]])


def test_the_summary_of_a_run_has_the_notes_of_what_it_trained_and_of_nothing_else(tmp_path):
    store = Lake(tmp_path)
    for name, notes in (
        ("student", ["negative_margin left 3 of 9 mined hard negatives out (33.3 %)"]),
        ("plain", []),
        ("old", ["x"]),
    ):
        store.write("checkpoints", name, TABLES["checkpoints"].empty_table(), "i", notes=notes)
    found = training_notes(store, ["student", "plain", "gone"])
    said = Console(file=io.StringIO(), width=120)
    print_training_notes(found, said)
    assert said.file.getvalue() == "student: negative_margin left 3 of 9 mined hard negatives out (33.3 %)\n"
