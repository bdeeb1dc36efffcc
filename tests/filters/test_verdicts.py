"""Invariants of verdicts: once made they are not made again while nothing that they read has changed, and a check that was stopped
goes on; a recipe's rows lose what is dropped and nothing else; held-out rows lose nothing; the judge asks each question once."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from mmret.cli import app
from mmret.cli.check import examples
from mmret.errors import UserError
from mmret.filters import check as checking
from mmret.filters import verdicts as table
from mmret.filters.check import check, filtered
from mmret.filters.judge import judged
from mmret.filters.verdicts import without
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.retriever.train.data_state import checkpoint_rows
from mmret.retriever.train.stage import TrainingJob, train_recipe
from mmret.schemas import VERDICTS
from mmret.settings import Recipe
from tests.annotate.test_attempts import IDS, Scripted

FILTERS = ("consistency", "false_negatives")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def lake(small_lake, tmp_path):
    return Lake(shutil.copytree(small_lake[0], tmp_path / "lake"))


def rows(**columns: list) -> pa.Table:
    count = len(next(iter(columns.values())))
    return pa.table({"split": ["train"] * count, **columns})


def drop(pair: str, text: str | None = None, candidate: str | None = None) -> dict:
    return {"pair_id": pair, "text": text, "candidate_id": candidate}


def test_filters_that_leave_no_training_row_say_so_and_name_what_shows_why(lake, monkeypatch):
    recipe = Recipe(filters=("consistency",))
    triplets = lake.read("triplets")
    everything = triplets.select(["pair_id", "texts"]).to_pylist()
    said = pa.Table.from_pylist([drop(row["pair_id"], text) for row in everything for text in row["texts"]], SCHEMA)
    whole = table.Verdicts("consistency", "m", said.append_column("verdict", pa.array(["drop"] * len(said))), None)
    monkeypatch.setattr(checking, "check", lambda *_: ([whole], 0))
    with pytest.raises(UserError, match="nothing is left to train on.*mmret check --lake .* --filter consistency"):
        filtered(lake, recipe, triplets)


SCHEMA = pa.schema([(name, pa.string()) for name in ("pair_id", "text", "candidate_id")])


def test_rows_lose_what_is_dropped_in_their_order_and_held_out_rows_nothing():
    given = rows(
        split=["train", "train", "test", "train"],
        pair_id=["b", "a", "b2", "c"],
        texts=[["x", "y"], ["x"], ["x"], []],
        hard_negatives=[["q", "n"], ["q", "n"], ["n"], None],
        negative_captions=[["of q", "of n"], ["of q", "of n"], ["of n"], None],
    )
    said = [drop("b", "x"), drop("a", "x"), drop("b2", "x"), drop("b", candidate="n"), drop("b2", candidate="n"), drop("b", "n")]
    left, dropped = without(given, {"consistency": pa.Table.from_pylist(said, SCHEMA)})
    assert left.select(["pair_id", "texts"]).to_pylist() == [
        {"pair_id": "b", "texts": ["y"]},
        {"pair_id": "b2", "texts": ["x"]},
        {"pair_id": "c", "texts": []},
    ]
    assert left["hard_negatives"].to_pylist()[:2] == [["q"], ["n"]]
    assert left["negative_captions"].to_pylist()[:2] == [["of q"], ["of n"]]
    assert (dropped.texts, dropped.negatives, dropped.rows) == (2, 1, 1) and left.schema == given.schema
    assert without(given, {})[0] is given


def test_verdicts_are_made_once_and_a_check_that_was_stopped_goes_on(lake, monkeypatch):
    said, made = check(lake, FILTERS)
    triplets = lake.read("triplets")
    train = triplets.filter(pc.equal(triplets["split"], "train"))
    assert len(said[0].rows) == len(train["texts"].combine_chunks().flatten())
    assert made == sum(len(v.rows) for v in said) == len(lake.read("verdicts"))
    assert "only equal captions count" in said[1].note, "180 pictures are too few to learn what captions mean"

    def nobody(*_):
        raise AssertionError("judged again")

    with monkeypatch.context() as patched:
        patched.setattr(checking, "JUDGES", dict.fromkeys(FILTERS, nobody))
        again, remade = check(lake, FILTERS)
    assert remade == 0 and [v.rows for v in again] == [v.rows for v in said]
    lake.remove("verdicts", "consistency-3")
    lost, mended = check(lake, FILTERS)
    assert [v.rows for v in lost] == [v.rows for v in said] and 0 < mended < made / 4


def test_another_triplet_makes_another_version(lake):
    before, _ = check(lake, FILTERS[:1])
    shard = lake.partitions("triplets")[0]
    lake.write("triplets", shard, lake.read("triplets", shard).slice(1), "other", train=1)
    after, made = check(lake, FILTERS[:1])
    assert after[0].model != before[0].model and made == len(after[0].rows)
    assert set(lake.read("verdicts")["model"].to_pylist()) == {after[0].model}


def test_a_recipe_trains_without_what_is_dropped_says_so_and_its_exact_rows_can_be_listed(lake):
    profile, _ = resolve(lake)
    recipe = profile.recipes["demo"].model_copy(update={"filters": ("consistency",), "steps": 2, "evaluate_every": None})
    check(lake, recipe.filters)
    train = lake.read("triplets").filter(pc.equal(lake.read("triplets")["split"], "train"))
    chosen = train.slice(0, 2).to_pylist()
    for digit in table.DIGITS:  # as if the filter had found something
        own = lake.read("verdicts", f"consistency-{digit}")
        bad = {(chosen[0]["pair_id"], text) for text in chosen[0]["texts"]} | {(chosen[1]["pair_id"], chosen[1]["texts"][0])}
        said = ["drop" if key in bad else "keep" for key in zip(*(own[c].to_pylist() for c in ("pair_id", "text")), strict=True)]
        own = own.set_column(own.schema.get_field_index("verdict"), own.schema.field("verdict"), pa.array(said))
        lake.write("verdicts", f"consistency-{digit}", own, lake.facts("verdicts", f"consistency-{digit}").inputs)
    profile = profile.model_copy(update={"recipes": {**profile.recipes, "demo": recipe}})
    facts = train_recipe(TrainingJob.of(lake, profile, "demo"), "inputs")
    assert any("4 texts" in note and "1 triplets" in note for note in facts.notes["notes"]), facts.notes["notes"]
    listed = {row["pair_id"]: row["texts"] for row in checkpoint_rows(lake, "demo").to_pylist()}
    assert chosen[0]["pair_id"] not in listed and listed[chosen[1]["pair_id"]] == chosen[1]["texts"][1:]
    assert len(listed) == len(train) - 1
    left, notes = filtered(lake, recipe, train)
    assert len(left) == len(train) - 1 and notes == facts.notes["notes"][: len(notes)]


def test_the_judge_drops_what_the_model_says_is_wrong_and_keeps_what_it_does_not_answer(tmp_path):
    asked = {IDS[1]: '{"score": 1}', IDS[2]: '{"score": 5}', IDS[3]: "no idea"}
    scripted = Scripted(lambda request: asked[request.target_id])
    given = pa.table(
        {
            "pair_id": ["a" * 32, "b" * 32],
            "query_id": [IDS[0], IDS[0]],
            "target_id": [IDS[1], IDS[3]],
            "texts": [["make it blue"], ["make it red"]],
            "hard_negatives": [[IDS[0], IDS[2]], [IDS[0]]],
        }
    )
    said = judged(Lake(tmp_path), given, "m", scripted.settings, scripted)
    found = {(r["text"], r["candidate_id"]): (r["verdict"], r["reason"]) for r in said.rows.to_pylist()}
    assert found == {
        ("make it blue", None): ("drop", "the model sees something else in the target"),
        (None, IDS[2]): ("drop", "the model sees what the text asks for"),
        ("make it red", None): ("keep", "not_json"),
    }
    assert len({request.pair_id for request in scripted.asked}) == 3 and "no score for 1 of 3" in said.note
    again = Scripted(lambda request: "nobody asks")
    assert judged(Lake(tmp_path), given, "m", again.settings, again).rows == said.rows and not again.asked


def test_without_a_model_that_sees_the_judge_says_what_to_set(lake):
    with pytest.raises(UserError, match="annotate"):
        check(lake, ["judge"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"pair_source": "naive", "pairs": 9, "negatives": "query", "filters": ("consistency",)}, "filters look at mined triplets"),
        ({"tasks": {"text_to_image": 1}, "filters": ("consistency",)}, "add composed to tasks"),
        ({"negatives": "query", "filters": ("false_negatives",)}, "looks at mined hard negatives"),
        (
            {"kind": "reranker", "filters": ("false_negatives",), "retriever": "r", "reranker": {"first_hits": 3}},
            "which reranker.first_hits replaces",
        ),
    ],
)
def test_a_recipe_that_a_filter_cannot_serve_is_refused(settings, says):
    with pytest.raises(ValidationError, match=says):
        Recipe.model_validate(settings)


def test_examples_name_a_picture_without_a_caption_by_its_id(lake):
    row = lake.read("triplets").slice(0, 1).to_pylist()[0]
    images = lake.read("images")
    mute = pa.nulls(len(images), pa.string())
    said = {"pair_id": row["pair_id"], "query_id": row["query_id"], "target_id": row["target_id"], "text": "make it red"}
    said |= {"filter": "consistency", "verdict": "drop", "score": -1.0, "signals": ["clip_image"], "reason": "does not fit"}
    verdicts = table.Verdicts("consistency", "m", pa.Table.from_pylist([said], VERDICTS))
    for shard in lake.partitions("images"):
        own = lake.read("images", shard)
        own = own.set_column(own.schema.get_field_index("caption"), "caption", mute.slice(0, len(own)))
        lake.write("images", shard, own, "other")
    assert examples(lake, verdicts) == [f'{row["query_id"]} -> {row["target_id"]}: "make it red": does not fit (clip_image)']


def test_a_lake_without_triplets_is_checked_and_told_of_texts_and_negatives(tmp_path):
    told = CliRunner().invoke(app, ["check", "--lake", str(Lake(tmp_path / "new").root), *(f"--filter={name}" for name in FILTERS)])
    assert told.exit_code == 0, told.exception
    assert "consistency: 0 of 0 texts to be left out" in told.output and "false_negatives: 0 of 0 hard negatives" in told.output


def test_the_command_shows_what_is_dropped_and_refuses_what_it_does_not_know(lake):
    run = CliRunner().invoke
    told = run(app, ["check", "--lake", str(lake.root), "--filter", "consistency"])
    assert told.exit_code == 0 and "texts to be left out" in told.output and "new rows in table verdicts" in told.output
    none = run(app, ["check", "--lake", str(lake.root), "--filter", "false_negatives"])
    assert none.exit_code == 0 and "false_negatives: 0 of" in none.output, "that nothing is dropped is no fault"
    assert "0 new rows" in run(app, ["check", "--lake", str(lake.root), "--filter", "consistency"]).output
    for arguments, says in (
        (["--filter", "x"], "there are consistency"),
        ([], "nothing to check by"),
        (["--recipe", "x"], "no recipe"),
    ):
        refused = run(app, ["check", "--lake", str(lake.root), *arguments])
        assert isinstance(refused.exception, UserError) and says in str(refused.exception)
