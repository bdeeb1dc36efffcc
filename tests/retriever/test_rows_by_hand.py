"""What a recipe trains on, worked out by hand: which rows of a lake, which negatives are left to them, what is recorded of a run,
how a seed draws; what a held-out slice is made of; what a naive pair is."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmret.curation.decisions import DecisionLog
from mmret.errors import UserError
from mmret.hashing import draws, fingerprint, hash64, pair_draws, pair_id, uniform
from mmret.lake import Lake
from mmret.retriever.train.data import Batch, TrainingSet
from mmret.retriever.train.gradcache import Part, cached_backward, rng_state, set_rng_state
from mmret.retriever.train.held_out import HeldOut
from mmret.retriever.train.loop import finished_run, run_identity
from mmret.retriever.train.loss import ROWS, info_nce, masks
from mmret.retriever.train.naive_pairs import COMMON, _CaptionIndex
from mmret.retriever.train.parallel import Group
from mmret.retriever.train.rows import COLUMNS, training_rows
from mmret.retriever.train.stage import TrainingJob, train_recipe
from mmret.schemas import IMAGES_INDEX
from mmret.settings import EvaluateSettings, LicenceSettings, Recipe
from tests.mine.lakes import filled

KEEP = (LicenceSettings(), EvaluateSettings())
FREE, ALIKE = "CC0-1.0", "CC BY-SA 4.0"


@pytest.fixture
def lake(triplets, tmp_path) -> Lake:
    """Triplets whose every second row is under a share-alike licence, as is every third of the pictures."""
    made = Lake(tmp_path / "lake")
    licences = pa.array([(FREE, ALIKE)[n % 2] for n in range(len(triplets))], pa.string())
    place = triplets.schema.get_field_index("licence")
    made.write("triplets", "shard-00000", triplets.set_column(place, triplets.schema.field(place), licences), "x", train=36)
    ids = sorted({i for r in triplets.to_pylist() for i in (r["query_id"], r["target_id"], *r["hard_negatives"])})
    columns = {"image_id": ids, "licence": [ALIKE if n % 3 == 0 else FREE for n in range(len(ids))], "caption": ids, "path": ids}
    made.write("images", "shard-00000", filled(IMAGES_INDEX, columns), "x")
    return made


def by_pair(rows: pa.Table) -> dict[str, list[str]]:
    return dict(zip(rows["pair_id"].to_pylist(), rows["hard_negatives"].to_pylist(), strict=True))


def test_a_recipe_trains_on_the_rows_of_its_licence_set_with_negatives_of_that_set(lake):
    table, apart = lake.read("triplets").to_pylist(), LicenceSettings(share_alike="apart")
    licence = dict(zip(*(lake.read("images")[c].to_pylist() for c in ("image_id", "licence")), strict=True))
    for name, text in (("main", FREE), ("share_alike", ALIKE)):
        rows = training_rows(lake, Recipe(licence_set=name), apart, EvaluateSettings())
        assert rows.column_names == COLUMNS
        allowed = {FREE, text}
        expected = {
            r["pair_id"]: [r["hard_negatives"][0], *(i for i in r["hard_negatives"][1:] if licence[i] in allowed)]
            for r in table
            if r["licence"] == text
        }
        assert by_pair(rows) == expected
    assert training_rows(lake, Recipe(licence_set="unknown"), apart, EvaluateSettings()).num_rows == 0
    assert by_pair(training_rows(lake, Recipe(), *KEEP)) == {r["pair_id"]: r["hard_negatives"] for r in table}


def test_a_recipe_heeds_decisions_where_it_says_so(lake):
    ids = lake.read("triplets")["pair_id"].to_pylist()
    DecisionLog(lake, "ann").add(ids[:3], "rejected")
    DecisionLog(lake, "ann").add(ids[3:5], "accepted")
    for rule, expected in (("ignore", ids), ("without_rejected", ids[3:]), ("only_accepted", ids[3:5])):
        assert training_rows(lake, Recipe(decisions=rule), *KEEP)["pair_id"].to_pylist() == expected


def test_a_lake_without_training_triplets_records_no_checkpoint_and_trains_nothing(triplets, tmp_path):
    lake = Lake(tmp_path)
    lake.write("triplets", "shard-00000", triplets, "x", train=0, test=40)

    def trains(_):
        raise AssertionError("trained")

    facts = train_recipe(TrainingJob(lake, "r", Recipe(), *KEEP), "inputs", trains)
    assert facts.rows == 0 and facts.notes["reason"] == "no training triplets" and facts.inputs == "inputs"


def test_what_is_recorded_of_a_run_is_what_it_returned_and_what_it_was_made_from(lake):
    seen = []

    def trains(job: TrainingJob):
        seen.append(job.recipe.as_of)
        job.folder.mkdir(parents=True)
        return {"step": 7, "loss": 0.5, "pairs": 42, "seconds": 1.5, "triplets": 36, "notes": ["said"]}

    licences = LicenceSettings(share_alike="apart")
    job = TrainingJob(lake, "r", Recipe(steps=7), licences, EvaluateSettings())
    facts = train_recipe(job, "inputs", trains)
    (row,) = lake.read("checkpoints", "r").to_pylist()
    assert (row["recipe"], row["folder"], row["step"], row["loss"], row["pairs"], row["seconds"]) == (
        "r", "checkpoints/r", 7, 0.5, 42, 1.5
    )  # fmt: skip
    assert (
        LicenceSettings.model_validate(facts.notes["licences"]) == licences
        and facts.notes["triplets"] == 36
        and facts.notes["notes"] == ["said"]
    )
    assert seen == [facts.notes["state"]], "every process trains on the recorded state"
    assert Recipe.model_validate_json(row["settings"]).as_of == facts.notes["state"]


def test_a_finished_run_is_that_of_its_identity(tmp_path):
    assert finished_run(tmp_path) is None
    (tmp_path / "recipe.json").write_text('{"identity": "a", "facts": {"step": 3}}')
    assert finished_run(tmp_path) == finished_run(tmp_path, "a") == {"step": 3} and finished_run(tmp_path, "b") is None


def test_a_run_from_an_adapter_is_another_one_where_the_model_below_it_changes(triplets, tmp_path):
    def identity(base: str) -> str:
        return run_identity(Recipe(kind="mllm", base=base), triplets, tmp_path / base, None, None)

    for name in ("model", "adapter"):
        (tmp_path / name).mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "../model"}')
    before = identity("adapter"), identity("model")
    assert before == (identity("adapter"), identity("model"))
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other weights")
    assert before[0] != identity("adapter") and before[1] != identity("model")


# -- draws -----------------------------------------------------------------------------------------------------------------


def test_the_seed_draws_order_texts_and_negatives(triplets):
    first, again, other = (TrainingSet(triplets, Recipe(batch_size=36, mined_negatives=1, seed=s)) for s in (0, 0, 1))
    orders = [data.of["composed"].order(3) for data in (first, again, other)]
    assert np.array_equal(orders[0], orders[1]) and not np.array_equal(orders[0], orders[2])
    assert sorted(orders[0]) == list(range(36))

    def shown(data: TrainingSet) -> tuple[dict, set]:
        batch = data.batch(2)
        return dict(zip(zip(batch.queries, batch.targets, strict=True), batch.texts, strict=True)), set(batch.candidates[72:])

    assert shown(first) == shown(again)
    assert shown(first)[0] != shown(other)[0], "texts"
    texts = [t for step in range(30) for t in first.batch(step).texts]
    counts = {t: texts.count(t) for t in set(texts)}
    assert counts["make it green"] > counts["a red square left of a blue circle"] > counts["with a darker tone"], "1, 1/2, 1/3"


def test_each_row_brings_its_own_mined_negatives_at_most_as_many_as_asked_for(triplets):
    for most in (0, 1, 2):
        data = TrainingSet(triplets, Recipe(batch_size=36, mined_negatives=most))
        listed = {
            (t["query_id"], t["target_id"]): [i for i in t["hard_negatives"][1:] if i != t["target_id"]]
            for t in triplets.to_pylist()
        }
        batch = data.batch(0)
        at = 72
        for query, target in zip(batch.queries, batch.targets, strict=True):
            own = listed[data.images[int(query)].as_py(), data.images[int(target)].as_py()]
            mine = [data.images[int(i)].as_py() for i in batch.candidates[at : at + min(most, len(own))]]
            assert len(mine) == len(set(mine)) == min(most, len(own)) and set(mine) <= set(own)
            at += len(mine)
        assert at == len(batch.candidates)


def test_numbers_drawn_stay_what_they_were_so_that_lakes_keep_their_pairs_splits_and_batches():
    """Another number would choose other pairs (whose texts are paid for), hold out other queries and train in another order."""
    keys = np.array([0, 1, 2**63], np.uint64)
    assert hash64("query") == 8871998247342532611 and uniform("held-out", "a") == pytest.approx(0.37494649527391877, abs=1e-15)
    assert pair_id("a", "b") == "6783a31eabf68ccc0660f935c0826282" and fingerprint("pairs", {"k": 20}) == "7445a98c9e90db17"
    assert draws(keys, 0, "text", 1).tolist() == [17854216212274910440, 13518021215539689776, 18176965796579036009]
    assert pair_draws(keys, keys[::-1], np.uint64(7)).tolist() == [9098656213007624980, 4277054828538873003, 16208070875856625546]


def test_draws_of_other_seeds_salts_and_orders_are_others():
    keys = np.array([0, 1, 2**63], np.uint64)
    found = [draws(keys, *salt).tolist() for salt in ((0,), (1,), ("order",), ("order", 1), (1, 2), (2, 1))]
    assert len({n for row in found for n in row}) == 18 and pair_id("a", "b") != pair_id("b", "a")
    one, other = np.array([1, 2], np.uint64), np.array([2, 1], np.uint64)
    assert len({*pair_draws(one, other, np.uint64(0)).tolist(), *pair_draws(one, other, np.uint64(1)).tolist()}) == 4
    assert 0 <= uniform("a", "b") < 1 and uniform("a", "b") != uniform("ab") != uniform("b", "a")
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint([{"a": 1}, {"b": 2}])


def test_a_batch_says_where_its_rows_are_among_the_distinct_ones():
    batch = Batch(np.array([3, 1]), ["b", "a"], np.array([1, 3, 7]))
    assert batch.targets.tolist() == [1, 3]
    distinct, query, candidate = batch.images()
    assert (distinct.tolist(), query.tolist(), candidate.tolist()) == ([1, 3, 7], [1, 0], [0, 1, 2])
    assert batch.distinct_texts()[0] == ["a", "b"] and batch.distinct_texts()[1].tolist() == [1, 0]


# -- loss, gradients ---------------------------------------------------------------------------------------------------------


def test_a_lower_temperature_sharpens_and_the_loss_is_a_mean():
    queries = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    positives, ignored = masks(np.arange(3), np.arange(3))
    warm, cold = (float(info_nce(queries, queries, positives, ignored, t)) for t in (1.0, 0.05))
    assert cold < warm
    assert float(info_nce(torch.cat([queries] * 2), queries, positives.repeat(2, 1), ignored.repeat(2, 1), 1.0)) == pytest.approx(
        warm
    )
    assert float(info_nce(queries, queries, positives, None, 1.0)) == pytest.approx(warm)


@pytest.mark.parametrize("count", [ROWS - 1, ROWS, ROWS + 1, 2 * ROWS, 2 * ROWS + 1])
def test_blocks_of_queries_give_the_loss_of_the_whole_wherever_they_end(count, monkeypatch):
    queries = torch.nn.functional.normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    positives, ignored = masks(np.arange(count) % 50, np.arange(count) % 50)
    in_blocks = float(info_nce(queries, queries, positives, ignored, 0.1))
    monkeypatch.setattr("mmret.retriever.train.loss.ROWS", 10**6)
    assert in_blocks == pytest.approx(float(info_nce(queries, queries, positives, ignored, 0.1)), rel=1e-6)


def test_without_masking_nothing_is_ignored_and_several_positives_stay():
    positives, ignored = masks(np.array([5, 6, 5]), np.array([5, 6, 5, 6]), False, np.array([0, 0, 1]))
    assert not ignored.any() and positives.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]
    _, ignored = masks(np.array([5, 6, 5]), np.array([5, 6, 5, 6]), True, np.array([0, 0, 1]))
    assert ignored.int().tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 0, 0, 0]]


def test_a_gradient_adds_to_what_is_there_and_the_loss_returned_has_none():
    weight = torch.ones(2, requires_grad=True)
    for chunks in ([torch.ones(1, 2)], [torch.ones(1, 2), torch.ones(1, 2)]):
        weight.grad = None
        part = Part(lambda rows: rows * weight, chunks)
        losses = [cached_backward([part], lambda f: f.sum()) for _ in range(2)]
        assert not losses[0].requires_grad and weight.grad.tolist() == [2.0 * len(chunks)] * 2


def test_a_generators_state_comes_back():
    state = rng_state()
    first = torch.rand(2)
    set_rng_state(state)
    assert torch.equal(torch.rand(2), first)


def test_a_group_of_one_does_nothing():
    group, tensor = Group(), torch.ones(2)
    group.sum([tensor])
    assert group.first and tensor.tolist() == [1, 1] and group.all_values(3) == [3] and group.gather_rows(tensor, 9) is tensor
    assert not Group(1, 2).first and group.share(5) == slice(0, 5)


# -- held-out slice, naive pairs ------------------------------------------------------------------------------------------------


def test_a_held_out_slice_is_of_split_test_with_a_text_by_hash_and_its_gallery_is_all_their_pictures(triplets, load):
    held = HeldOut(triplets, Recipe(held_out_queries=2), load)
    test = [r for r in triplets.to_pylist() if r["split"] == "test"]
    chosen = sorted(test, key=lambda r: uniform("held out", r["pair_id"]))[:2]
    ids = held.pictures.images.to_pylist()
    assert ids == sorted({i for r in chosen for i in (r["query_id"], r["target_id"], *r["hard_negatives"])})
    assert [ids[q] for q in held.query] == [r["query_id"] for r in chosen] and [ids[t] for t in held.target] == [
        r["target_id"] for r in chosen
    ]
    place = triplets.schema.get_field_index("texts")
    silent = triplets.set_column(
        place, triplets.schema.field(place), pa.array([[]] * len(triplets), triplets.schema.field(place).type)
    )
    assert len(HeldOut(silent, Recipe(), load)) == 0


def test_a_held_out_slice_is_measured_without_dropout_in_blocks_and_the_model_trains_on(triplets, load):
    modes = []

    class Model:
        training = True

        def eval(self):
            self.training = False

        def train(self, mode=True):
            self.training = mode

    class Embedder:
        model = Model()

        def encode(self, images, texts=None):
            modes.append((self.model.training, len(images)))
            return np.eye(64, dtype=np.float32)[[hash64(str(bytes(i)[:200])) % 64 for i in images]]

    held = HeldOut(triplets, Recipe(held_out_queries=4), load)
    found = held.measure(Embedder(), block=3)
    assert set(found) == {"recall_1", "recall_5", "recall_10"} and Embedder.model.training
    assert not any(training for training, _ in modes) and max(n for _, n in modes) == 3
    assert sum(n for _, n in modes) == len(held.pictures) + len(held)
    Embedder.model.training = False
    held.measure(Embedder())
    assert not Embedder.model.training


def index(captions: list[str], train: list[bool] | None = None) -> _CaptionIndex:
    return _CaptionIndex(captions, np.array(train or [True] * len(captions)))


def test_a_word_pairs_images_where_two_have_it_and_no_more_than_half_of_all():
    found = index(["a red hat", "a red cat", "A dog!", "a bird", "one bird"])
    assert set(found.images_by_word) == {"red", "bird"} and COMMON == 0.5
    assert found.words == [["red"], ["red"], [], ["bird"], ["bird"]]
    assert set(index(["red", "red hat", "hat red", "x"]).images_by_word) == {"hat"}, "three of four is more than half"
    assert set(index(["red", "red hat", "y", "x"]).images_by_word) == {"red"}, "two of four is half"


def test_naive_pairs_begin_at_images_of_split_train_end_elsewhere_and_come_in_the_order_drawn():
    captions = [f"{word} {n}" for n, word in enumerate(["red", "blue", "green"] * 6)]
    found = index(captions, [n % 2 == 0 for n in range(18)])
    pairs = found.draw_pairs(200, 0, 0)
    queries, targets = np.divmod(pairs, 18)
    assert set(queries) == set(range(0, 18, 2)) and (queries != targets).all() and (queries % 3 == targets % 3).all()
    assert len(set(pairs.tolist())) == len(pairs) and not (np.diff(pairs) > 0).all()
    assert set(found.draw_pairs(50, 0, 0).tolist()) <= set(pairs.tolist())
    assert not np.array_equal(found.draw_pairs(200, 0, 1), pairs) and not np.array_equal(found.draw_pairs(200, 1, 0), pairs)
    assert len(index(captions, [False] * 18).draw_pairs(9, 0, 0)) == 0
    twins = index(["red hat", "red hat", "x"])
    assert len(twins.draw_pairs(99, 0, 0)) == 0, "captions that are one and the same are no pair"


def test_a_batch_smaller_than_the_processes_that_share_it_is_refused(triplets, tmp_path, clip_folder, load):
    from mmret.retriever.train.loop import train

    class Three(Group):
        def all_values(self, value):
            return [value] * self.size

    with pytest.raises(UserError, match="3 processes cannot share a batch of 2"):
        train(Recipe(batch_size=2), triplets, load, clip_folder, tmp_path / "out", group=Three(0, 3))
