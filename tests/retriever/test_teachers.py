"""Invariants of teachers besides rerankers: a retriever teaches its own cosines, each picture and text through the model once; the
judge of annotation teaches where it answers; what was brought from outside is checked and versioned by its content; each kind is
named in a recipe, and a recipe's checkpoint is stale when its teacher is another."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mmret
from mmret.annotate import candidate_judge
from mmret.annotate.protocol import Answer
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.retriever.models.kinds import query_options
from mmret.retriever.models.two_towers import TwoTowerRetriever
from mmret.retriever.train import teachers
from mmret.retriever.train.imported_scores import import_scores, scores_partition
from mmret.retriever.train.teach import read_scores, teach, teacher_scores
from mmret.schemas import IMAGES_INDEX, TABLES
from mmret.settings import AnnotateSettings
from tests.annotate.test_attempts import ENGINE, Scripted
from tests.retriever.mllm_folders import qwen2_vl

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def lake(clip_folder, tmp_path) -> Lake:
    """An empty lake with a retriever's checkpoint, `strong`."""
    (tmp_path / "lake" / "checkpoints").mkdir(parents=True)
    (tmp_path / "lake" / "checkpoints" / "strong").symlink_to(clip_folder)
    return Lake(tmp_path / "lake")


@pytest.mark.parametrize("kind", ["clip", "mllm"])
def test_a_retriever_teaches_its_own_cosines(kind, lake, triplets, pictures, load, tmp_path):
    if kind == "mllm":
        (lake.root / "checkpoints" / "strong").unlink()
        (lake.root / "checkpoints" / "strong").symlink_to(qwen2_vl(tmp_path / "qwen2_vl"))
        triplets = triplets.slice(0, 6)
    folder = lake.root / "checkpoints" / "strong"
    model, made, unscored = teach(lake, "strong", triplets, load)
    rows = lake.read("teacher_scores").to_pylist()
    assert (
        made == len(rows) > 20
        and not unscored
        and {r["model"] for r in rows} == {model}
        and {r["teacher"] for r in rows} == {"strong"}
    )
    retriever = mmret.Retriever.load(folder, "cpu")
    asked = [pictures[r["query_id"]] for r in rows], [r["text"] for r in rows]
    queries = retriever.encode(*asked, **query_options(folder))
    candidates = retriever.encode([pictures[r["candidate_id"]] for r in rows])
    np.testing.assert_allclose([r["score"] for r in rows], (queries * candidates).sum(axis=1), atol=2e-6)
    assert teach(lake, "strong", triplets, load)[:2] == (model, 0)


def test_each_picture_and_each_text_goes_through_two_towers_once(lake, triplets, load, monkeypatch):
    seen: Counter = Counter()
    read = TwoTowerRetriever.pixels

    def pixels(self, images):
        seen.update(images)
        return read(self, images)

    kind = type(mmret.Retriever.load(lake.root / "checkpoints" / "strong", "cpu"))
    spoken = kind.tokens

    def tokens(self, texts):
        seen.update(texts)
        return spoken(self, texts)

    monkeypatch.setattr(TwoTowerRetriever, "pixels", pixels)
    monkeypatch.setattr(kind, "tokens", tokens)
    teach(lake, "strong", triplets, load)
    train = [row for row in triplets.to_pylist() if row["split"] == "train"]
    shown = {i for row in train for i in (row["query_id"], row["target_id"], *row["hard_negatives"])}
    texts = {text for row in train for text in row["texts"]}
    assert set(seen.values()) == {1} and len(seen) == len(shown) + len(texts)


def test_a_teacher_of_a_zero_vector_is_refused_with_the_picture(lake, triplets, load, monkeypatch):
    monkeypatch.setattr(teachers._Kept, "__getitem__", lambda self, ids: np.zeros((len(ids), self._dim), np.float32))
    monkeypatch.setattr(
        teachers._TwoTowers, "_add_texts", lambda self, texts: self.texts.update(dict.fromkeys(texts, np.zeros(16, np.float32)))
    )
    with pytest.raises(UserError, match="the model gave the picture"):
        teach(lake, "strong", triplets, load)


@pytest.fixture
def judged(monkeypatch):
    """Lakes' judges are scripted: ``say(request)`` as in :class:`Scripted`; returns what was asked."""
    asked = []

    def install(say):
        def build(settings):
            made = Scripted(lambda request: (asked.append(request), say(request))[1])
            return made

        monkeypatch.setattr(candidate_judge, "load_candidate_judge", build)
        return asked

    return install


JUDGE = AnnotateSettings(vision=ENGINE)


def test_the_judge_teaches_what_it_answers_and_is_asked_again_only_where_it_did_not(lake, triplets, load, judged):
    targets = {row["target_id"] for row in triplets.to_pylist()}
    hard = sorted({i for row in triplets.to_pylist() for i in row["hard_negatives"]} - targets)[0]
    asked = judged(
        lambda r: Answer(error="timeout") if r.target_id == hard else '{"score": 5}' if r.target_id in targets else '{"score": 1}'
    )
    taught = teach(lake, "judge", triplets, load, judge=JUDGE)
    rows = lake.read("teacher_scores")
    assert taught.made == len(rows) and taught.unscored["timeout"] > 0 and hard not in rows["candidate_id"].to_pylist()
    assert set(rows["score"].to_pylist()) <= {0.0, 1.0} and set(rows["model"].to_pylist()) == {taught.model}
    before = len(asked)
    some = teacher_scores(lake, "judge", triplets, load, JUDGE)
    again = {r.target_id for r in asked[before:]}
    assert again == {hard}
    judged(lambda r: '{"score": 3}')
    whole = teacher_scores(lake, "judge", triplets, load, JUDGE)
    assert len(whole.keys) > len(some.keys) and whole.model != some.model, "a run that saw fewer scores is another one"
    assert teacher_scores(lake, "judge", triplets, load, JUDGE).model == whole.model


def images(lake: Lake, ids) -> None:
    rows = [{**dict.fromkeys(IMAGES_INDEX.names), "image_id": i} for i in ids]
    lake.write("images", "shard-00000", pa.Table.from_pylist(rows, TABLES["images"]), "x")


def questions(triplets) -> list[dict]:
    made = [
        {"query_id": row["query_id"], "text": text, "candidate_id": candidate, "score": n + at / 8}
        for n, row in enumerate(triplets.to_pylist())
        for text in row["texts"]
        for at, candidate in enumerate(dict.fromkeys([row["target_id"], row["query_id"], *row["hard_negatives"]]))
    ]
    return list({(row["query_id"], row["text"], row["candidate_id"]): row for row in reversed(made)}.values())[::-1]


def write(rows: list[dict], path):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import polars as pl

        pl.DataFrame(rows).write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
    return path


def test_scores_from_outside_are_the_same_whatever_file_and_order_they_come_in(lake, triplets, pictures, tmp_path):
    images(lake, pictures)
    rows = questions(triplets)
    first = import_scores(lake, "mine", write(rows, tmp_path / "scores.parquet"))
    assert first.kept == len(rows) and first.changed and not (first.unknown or first.repeated or first.remarks)
    for name in ("scores.jsonl", "scores.csv", "scores.tsv"):
        again = import_scores(lake, "mine", write([*rows[::-1], rows[0]], tmp_path / name))
        assert (again.model, again.changed, again.repeated) == (first.model, False, 1), name
    kept = lake.read("teacher_scores", scores_partition("mine"))
    assert {(r["query_id"], r["text"], r["candidate_id"], r["score"]) for r in kept.to_pylist()} == {
        tuple(r.values()) for r in rows
    }
    assert set(kept["teacher"].to_pylist()) == {"scores/mine"} and set(kept["model"].to_pylist()) == {first.model}
    scores = read_scores(lake, "scores/mine", first.model)
    assert scores.of([rows[3]["query_id"]], [rows[3]["text"]], [rows[3]["candidate_id"]]).tolist() == [rows[3]["score"]]
    rows[0]["score"] += 1
    other = import_scores(lake, "mine", write(rows, tmp_path / "scores.parquet"))
    assert other.changed and other.model != first.model and teach(lake, "scores/mine", triplets, None) == (other.model, 0, {})


def test_rows_about_pictures_that_the_lake_has_not_are_counted_with_an_example(lake, triplets, pictures, tmp_path):
    images(lake, pictures)
    rows = questions(triplets)
    rows[4]["candidate_id"] = "f" * 32
    rows[7]["query_id"] = "e" * 32
    found = import_scores(lake, "mine", write(rows, tmp_path / "scores.parquet"))
    assert (found.kept, found.unknown, found.example) == (len(rows) - 2, 2, f"row 5 has {'f' * 32}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[2].update(score=float("nan")), "row 3: score is nan, and has to be a finite number"),
        (lambda rows: rows[2].update(score=1e300), r"row 3: score is 1e\+300"),
        (lambda rows: rows[2].update(score=None), "row 3: score is empty"),
        (lambda rows: rows[2].update(text=" "), "row 3: text is ' ', and has to be a text"),
        (lambda rows: rows[2].update(query_id=""), "row 3: query_id is empty"),
        (
            lambda rows: rows.append({**rows[1], "score": 77.0}),
            "rows 2 and .* score the same question, .* and 77: leave one out",
        ),
        (lambda rows: [row.pop("candidate_id") for row in rows], "row 1: no column candidate_id; it has query_id, text, score"),
        (lambda rows: [row.update(query_id=row["query_id"][::-1]) for row in rows], "no row is about pictures"),
    ],
)
def test_a_bad_score_is_refused_with_its_row_and_what_was_there_stays(change, said, lake, triplets, pictures, tmp_path):
    images(lake, pictures)
    before = import_scores(lake, "mine", write(questions(triplets), tmp_path / "good.parquet"))
    rows = questions(triplets)
    change(rows)
    with pytest.raises(UserError, match=said):
        import_scores(lake, "mine", write(rows, tmp_path / "bad.parquet"))
    assert (
        read_scores(lake, "scores/mine", before.model).keys.size
        and lake.facts("teacher_scores", "scores.mine").inputs == before.model
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("s.txt", b"x", "is not read as scores by its suffix"),
        ("s.jsonl", b'{"query_id": 1\n', "row 1: "),
        ("s.parquet", b"no parquet", "cannot be read as Parquet"),
        ("none.csv", None, "cannot read .*none.csv"),
    ],
)
def test_a_file_that_holds_no_scores_is_refused_in_words(name, content, said, lake, pictures, tmp_path):
    images(lake, pictures)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        import_scores(lake, "mine", tmp_path / name)


def test_scores_that_nobody_has_brought_say_how_to_bring_them(lake, triplets):
    with pytest.raises(UserError, match=r"mmret teach --lake .* --recipe mine --scores FILE"):
        teach(lake, "scores/mine", triplets, None)
