"""Which rows of a lake a mixture trains on: decisions, licences, signals and the split are heeded for every task, what was trained
on can be listed again however the lake changes, and a mixture that cannot be is one sentence."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mmret.curation.decisions import DecisionLog
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.as_of import open_as_of
from mmret.retriever.opted_out_since import opted_out_since
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.data_state import checkpoint_rows, checkpoint_task_rows, record_data_state
from mmret.retriever.train.rows import MIXTURE_COLUMNS, training_rows
from mmret.retriever.train.stage import TrainingJob, nothing_to_train_on, train_recipe
from mmret.schemas import CORPUS_MANIFEST, IMAGES_INDEX, NEIGHBOURS, TASKS
from mmret.settings import EvaluateSettings, LicenceSettings, Recipe, load_profile
from mmret.stages import STAGES
from mmret.tasks import MADE_TASKS
from tests.mine.lakes import filled
from tests.retriever.mixtures import ALL, made_rows

FREE, ALIKE = "CC0-1.0", "CC BY-SA 4.0"
KEEP = (LicenceSettings(), EvaluateSettings())
MIXED = Recipe(tasks=ALL, batch_size=6)


@pytest.fixture
def lake(triplets, tmp_path) -> Lake:
    """Triplets and rows of tasks of which every second is share-alike, as is every third picture."""
    lake = Lake(tmp_path / "lake")
    for name, table, notes in (("triplets", triplets, {"train": 36}), ("tasks", made_rows(triplets), {})):
        place = table.schema.get_field_index("licence")
        column = pa.array([(FREE, ALIKE)[n % 2] for n in range(len(table))], pa.string())
        lake.write(name, "shard-00000", table.set_column(place, table.schema.field(place), column), "x", **notes)
    ids = sorted({i for r in triplets.to_pylist() for i in (r["query_id"], r["target_id"], *r["hard_negatives"])})
    columns = {"image_id": ids, "licence": [ALIKE if n % 3 == 0 else FREE for n in range(len(ids))]}
    lake.write("images", "shard-00000", filled(IMAGES_INDEX, columns), "x")
    return lake


def rows_of(lake: Lake, recipe: Recipe = MIXED, licences: LicenceSettings = KEEP[0]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    table = training_rows(lake, recipe, licences, KEEP[1])
    assert table.schema.equals(MIXTURE_COLUMNS)
    for row in table.to_pylist():
        found.setdefault(row["task"], []).append(row)
    return found


def test_a_mixture_has_the_rows_of_its_tasks_and_no_others(lake):
    found, made = rows_of(lake), lake.read("tasks").to_pylist()
    assert found.keys() == set(ALL) and len(found["composed"]) == 40
    for task in MADE_TASKS:
        ids = {row["task_id"]: row["negative_captions"] for row in made if row["task"] == task}
        assert {row["task_id"]: row["negative_captions"] for row in found[task]} == ids
    assert rows_of(lake, Recipe(tasks={"text_to_text": 1})).keys() == {"text_to_text"}


def test_decisions_are_heeded_where_a_pair_was_decided_on_and_rows_of_no_pair_stay(lake):
    ids = lake.read("triplets")["pair_id"].to_pylist()
    DecisionLog(lake, "ann").add(ids[:3], "rejected")
    DecisionLog(lake, "ann").add(ids[3:5], "accepted")
    every = rows_of(lake)
    for rule, expected in (("without_rejected", ids[3:]), ("only_accepted", ids[3:5])):
        found = rows_of(lake, MIXED.model_copy(update={"decisions": rule}))
        for task in ("composed", "image_text_to_image_text"):
            assert sorted(row["pair_id"] for row in found[task]) == sorted(expected)
        assert all(len(found[task]) == len(every[task]) for task in ("text_to_image", "image_to_image"))


def test_licences_part_rows_and_hard_negatives_of_every_task_with_the_captions_beside_them(lake):
    apart = LicenceSettings(share_alike="apart")
    licence = dict(zip(*(lake.read("images")[c].to_pylist() for c in ("image_id", "licence")), strict=True))
    made = {row["task_id"]: row for row in lake.read("tasks").to_pylist()}
    fewer = 0
    for name, text in (("main", FREE), ("share_alike", ALIKE)):
        found = rows_of(lake, MIXED.model_copy(update={"licence_set": name}), apart)
        ids = {row["task_id"] for task in MADE_TASKS for row in found[task]}
        assert ids == {i for i, row in made.items() if row["licence"] == text}
        for row in (row for task in MADE_TASKS for row in found[task]):
            whole = made[row["task_id"]]
            pairs = list(zip(whole["hard_negatives"], whole["negative_captions"], strict=True))
            kept = [(i, caption) for i, caption in pairs if licence[i] in (FREE, text)]
            assert list(zip(row["hard_negatives"], row["negative_captions"], strict=True)) == kept
            fewer += len(pairs) - len(kept)
    assert fewer > 5


def test_a_recipe_of_fewer_signals_has_the_negatives_that_these_found(lake):
    first = next(row for row in lake.read("tasks").to_pylist() if len(row["hard_negatives"]) > 1)
    found = {"query_id": first["query_id"], "target_id": first["hard_negatives"][1], "signal": "caption", "above_band": False}
    lake.write("neighbours", "shard-00000", filled(NEIGHBOURS, {k: [v] for k, v in found.items()}), "x")
    kept = [
        (row["hard_negatives"], row["negative_captions"])
        for task, rows in rows_of(lake, MIXED.model_copy(update={"signals": ("caption",)})).items()
        for row in rows
        if task != "composed" and row["query_id"] == first["query_id"] and row["hard_negatives"]
    ]
    assert kept and all(pair == ([first["hard_negatives"][1]], [first["negative_captions"][1]]) for pair in kept)


def test_what_a_mixture_was_trained_on_can_be_listed_again_after_the_lake_has_changed(lake):
    recipe = MIXED.model_copy(update={"pairs": 7})

    def trains(job: TrainingJob):
        job.folder.mkdir(parents=True)
        data = TrainingSet(job.rows(), job.recipe)
        return {"step": 1, "loss": 0.5, "pairs": 6, "seconds": 1.5, "tasks": {t: {"rows": len(data.of[t])} for t in data.tasks}}

    facts = train_recipe(TrainingJob(lake, "r", recipe, *KEEP), "inputs", trains)
    expected = TrainingSet(training_rows(lake, recipe, *KEEP), recipe)
    lake.write("tasks", "shard-00000", lake.read("tasks").slice(0, 3), "y")
    rows = checkpoint_task_rows(lake, "r")
    for task in MADE_TASKS:
        ids = rows.filter(pc.equal(rows["task"], task))["task_id"].to_pylist()
        assert sorted(int(i[:16], 16) for i in ids) == sorted(expected.of[task].keys.tolist())
        assert facts.notes["tasks"][task]["rows"] == len(ids) == 7
    assert len(checkpoint_rows(lake, "r")) == 7
    assert len(open_as_of(lake, facts.notes["state"]).read("tasks")) > 3
    assert '"tasks": {"shard-00000"' in (lake.root / "checkpoints" / "r" / "data.state").read_text().replace("\n", "").replace(
        "  ", ""
    )


@pytest.mark.parametrize("tasks", [ALL, {"image_to_image": 1.0}], ids=["mixture", "without composed"])
def test_a_picture_of_any_task_s_rows_is_counted_when_it_opts_out(lake, tasks):
    def trains(job: TrainingJob):
        job.folder.mkdir(parents=True)
        return {"step": 1, "loss": 0.5, "pairs": 6, "seconds": 1.5}

    row = {"task_id": "f" * 32, "task": "image_to_image", "query_id": "asks", "target_id": "answers", "texts": [], "split": "train"}
    row |= {"hard_negatives": ["near"], "negative_captions": [""], "signals": ["caption"], "licence": FREE}
    lake.write("tasks", "shard-00001", pa.Table.from_pylist([row], TASKS), "x")
    train_recipe(TrainingJob(lake, "r", MIXED.model_copy(update={"tasks": tasks}), *KEEP), "inputs", trains)
    assert opted_out_since(lake, "r") == 0
    out = {"image_id": ["asks", "answers", "near", "stranger"], "reason": ["opted_out"] * 4}
    lake.write("corpus_manifest", "shard-00000", filled(CORPUS_MANIFEST, out), "x")
    assert opted_out_since(lake, "r") == 3


def test_a_recipe_of_composed_queries_alone_was_trained_on_no_other_rows(lake):
    facts = train_recipe(
        TrainingJob(lake, "r", Recipe(), *KEEP),
        "inputs",
        lambda job: job.folder.mkdir(parents=True) or {"step": 1, "loss": 0.5, "pairs": 6, "seconds": 1.5},
    )
    assert facts.rows == 1 and checkpoint_task_rows(lake, "r").num_rows == 0 and len(checkpoint_rows(lake, "r")) == 36
    train_recipe(
        TrainingJob(lake, "s", Recipe(tasks={"text_to_text": 1}), *KEEP),
        "inputs",
        lambda job: job.folder.mkdir(parents=True) or {"step": 1, "loss": 0.5, "pairs": 6, "seconds": 1.5},
    )
    assert checkpoint_rows(lake, "s").num_rows == 0 < checkpoint_task_rows(lake, "s").num_rows


def test_a_state_of_before_there_were_tasks_is_one_sentence(lake, monkeypatch):
    from mmret.lake import history

    monkeypatch.setattr(history, "LINEAGE_TABLES", tuple(t for t in history.LINEAGE_TABLES if t != "tasks"))
    state = record_data_state(lake, Recipe())
    assert len(TrainingJob(lake, "r", Recipe(as_of=state), *KEEP).rows()) == 40
    with pytest.raises(UserError, match="tasks is not kept with this state"):
        TrainingJob(lake, "r", MIXED.model_copy(update={"as_of": state}), *KEEP).rows()


def test_a_lake_without_any_row_of_a_mixture_trains_nothing_and_says_so(lake):
    assert nothing_to_train_on(lake, MIXED) is None and nothing_to_train_on(lake, Recipe(tasks={"text_to_text": 1})) is None
    lake.write("tasks", "shard-00000", lake.read("tasks").slice(0, 0), "y")
    assert nothing_to_train_on(lake, MIXED) is None, "there are triplets"
    assert nothing_to_train_on(lake, Recipe(tasks={"text_to_text": 1})) == "no training rows of text_to_text"
    lake.write("triplets", "shard-00000", lake.read("triplets"), "y", train=0)
    assert nothing_to_train_on(lake, Recipe()) == "no training triplets"


# -- settings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings, said", [
    ({"tasks": {"text_to_imag": 1}}, "tasks has text_to_imag, and there are composed, text_to_image, image_to_text"),
    ({"tasks": {}}, "tasks is {}: give weights by task"),
    ({"tasks": ["composed"]}, "give weights by task, such as {composed: 0.6, text_to_image: 0.4}"),
    ({"tasks": {"composed": 0}}, "tasks gives composed the weight 0: a weight is a number above 0"),
    ({"tasks": {"composed": 1, "text_to_text": "x"}}, "tasks gives text_to_text the weight 'x'"),
    ({"tasks": {"composed": float("nan")}}, "tasks gives composed the weight nan"),
    ({"tasks": {"composed": True}}, "tasks gives composed the weight True"),
    ({"tasks": {"text_to_text": 1}, "pair_source": "naive"}, "naive pairs are of task composed alone: leave text_to_text out"),
    ({"tasks": {"image_to_image": 1}, "trainable": "text"}, "image_to_image trains nothing where trainable is 'text'"),
    ({"task_batches": "both"}, "recipes.demo.task_batches: Input should be 'one' or 'mixed'"),
])  # fmt: skip
def test_a_mixture_that_cannot_be_is_one_sentence(settings, said):
    with pytest.raises(UserError, match="settings that do not fit") as error:
        load_profile("demo", {f"recipes.demo.{name}": value for name, value in settings.items()})
    assert said in str(error.value) and str(error.value).count("\n") == 1


def test_weights_are_shares_in_one_order_and_one_task_is_itself():
    assert list(Recipe(tasks={"text_to_image": 1, "composed": 3}).shares().items()) == [("composed", 0.75), ("text_to_image", 0.25)]
    assert Recipe(tasks={"composed": 7}) == Recipe() and Recipe(tasks={"composed": 7}).decisive() == Recipe().decisive()
    again = Recipe.model_validate_json(MIXED.model_dump_json())
    assert again == MIXED and again.decisive() == MIXED.decisive()


def test_a_mixture_reads_table_tasks_and_composed_alone_does_not():
    profile = load_profile("demo")
    reads = {name: {read.table for read in STAGES["checkpoints"].conditional_reads(profile, name)} for name in profile.recipes}
    assert reads == {"demo": set(), "universal": {"tasks"}, "reranker": {"checkpoints"}}
