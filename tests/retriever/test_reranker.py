"""Invariants: a reranker of either kind scores a pair the same whatever stands beside it and in whatever chunks; before training
one over CLIP's towers orders as its retriever does; an MLLM's score is the difference of two logits of its own head; what is saved
scores as before; a row's pairs are its target, its own hard negatives and other rows' targets, none of them right as well."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

import mmret
from mmret.errors import UserError
from mmret.retriever.models.clip import ClipRetriever
from mmret.retriever.models.clip_reranker import ClipReranker
from mmret.retriever.models.kinds import is_reranker
from mmret.retriever.models.mllm import MllmRetriever
from mmret.retriever.models.mllm_reranker import MllmReranker
from mmret.retriever.models.rerank_prompts import rerank_prompt_of
from mmret.retriever.train.data import Batch, TrainingSet
from mmret.retriever.train.pairs import Pairs, listwise_loss
from mmret.retriever.train.reranker import RerankerUnderTraining
from mmret.settings import RerankerSettings
from tests.retriever.mllm_folders import FOLDERS, with_answers
from tests.retriever.runs import small

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = ["make it green", "the same but larger"]


@pytest.fixture(scope="module")
def clip_reranker(clip_folder):
    reranker = ClipReranker.begin(clip_folder, RerankerSettings(grid=2, heads=2), seed=1)
    torch.nn.init.normal_(reranker.model.head.weight, std=0.3, generator=torch.Generator().manual_seed(2))
    return reranker


@pytest.fixture(scope="module", params=["clip", *FOLDERS])
def reranker(request, clip_reranker, tmp_path_factory):
    if request.param == "clip":
        return clip_reranker
    return MllmReranker.load(with_answers(FOLDERS[request.param](tmp_path_factory.mktemp(request.param))), "cpu", "float32")


@pytest.fixture(scope="module")
def own_shape(tmp_path_factory):
    return MllmReranker.load(with_answers(FOLDERS["qwen3_vl"](tmp_path_factory.mktemp("own_shape"))), "cpu", "float32")


def test_a_pair_scores_the_same_whatever_stands_beside_it(reranker, pictures):
    shown = list(pictures.values())
    queries = [(shown[0], TEXTS[0])] * 3 + [(shown[1], TEXTS[1]), (None, TEXTS[0]), shown[2]]
    candidates = [shown[3], shown[4], shown[3], shown[3], shown[5], (shown[6], TEXTS[1])]
    scores = reranker.score(queries, candidates)
    assert scores.shape == (6,) and scores.dtype == np.float32 and scores[0] == pytest.approx(scores[2], rel=1e-4)
    alone = np.concatenate([reranker.score([q], [c]) for q, c in zip(queries, candidates, strict=True)])
    np.testing.assert_allclose(scores, alone, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(reranker.score(queries, candidates, batch_size=2), alone, rtol=1e-3, atol=1e-4)
    assert len({round(float(s), 4) for s in scores}) >= 5  # every part is read


def test_before_training_it_orders_as_its_retriever_does(clip_folder, pictures):
    shown = list(pictures.values())[:8]
    fresh, retriever = ClipReranker.begin(clip_folder, RerankerSettings(heads=2), seed=1), ClipRetriever.load(clip_folder)
    query = retriever.encode([shown[0]], [TEXTS[0]])[0]
    cosines = retriever.encode(shown) @ query
    np.testing.assert_allclose(fresh.score([(shown[0], TEXTS[0])] * 8, shown), 20 * cosines, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        fresh.score([(None, TEXTS[0])] * 8, shown), 20 * retriever.encode(shown) @ retriever.encode(texts=[TEXTS[0]])[0], atol=1e-4
    )


def test_tokens_that_are_kept_hold_no_more_memory_than_they_count(clip_folder, pictures):
    reranker, shown = ClipReranker.begin(clip_folder, RerankerSettings(grid=2, heads=2), seed=1), list(pictures.values())
    first = reranker.score([(shown[0], TEXTS[0])] * 9, shown[1:10])
    kept = list(reranker._kept.values())
    assert len(kept) == 10 and all(row.untyped_storage().nbytes() == row.nbytes for row in kept)
    np.testing.assert_array_equal(reranker.score([(shown[0], TEXTS[0])] * 9, shown[1:10]), first)


def test_what_is_saved_scores_as_before_and_is_told_from_a_retriever(clip_reranker, pictures, tmp_path):
    shown = list(pictures.values())
    clip_reranker.save(tmp_path)
    again = mmret.Reranker.load(tmp_path)
    queries, candidates = [(shown[0], TEXTS[0])] * 4, shown[1:5]
    np.testing.assert_allclose(again.score(queries, candidates), clip_reranker.score(queries, candidates), rtol=1e-5)
    assert is_reranker(tmp_path)
    with pytest.raises(UserError, match="holds a reranker, which embeds nothing"):
        mmret.Retriever.load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "reranker": {**config["reranker"], "layers": 3}}))
    with pytest.raises(UserError, match="cannot load a reranker"):
        mmret.Reranker.load(tmp_path)


def test_a_retriever_is_no_reranker(clip_folder):
    assert not is_reranker(clip_folder)
    with pytest.raises(UserError, match="no reranker"):
        mmret.Reranker.load(clip_folder)


def test_an_mllms_score_is_the_difference_of_two_logits_of_its_own_head(pictures, tmp_path):
    folder, shown = with_answers(FOLDERS["qwen3_vl"](tmp_path / "qwen3_vl")), list(pictures.values())
    reranker = mmret.Reranker.load(folder, "cpu", "float32")
    score = reranker.score([(shown[0], TEXTS[0])], [shown[1]])[0]
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    prompt = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note "
        'that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a search query, retrieve '
        "relevant candidates that answer the query.<Query>:<|vision_start|><|image_pad|><|vision_end|>make it green\n<Document>:"
        "<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = processor(text=[prompt], images=reranker.pictures(shown[:2]), return_tensors="pt")
    with torch.inference_mode():
        logits = model(**inputs).logits[0, -1]
    yes, no = (processor.tokenizer.get_vocab()[word] for word in ("yes", "no"))
    assert score == pytest.approx(float(logits[yes] - logits[no]), rel=1e-4, abs=1e-5)


def test_tokens_that_a_folder_of_sentence_transformers_names_are_taken(tmp_path):
    folder = with_answers(FOLDERS["qwen3_vl"](tmp_path / "qwen3_vl"))
    (folder / "1_LogitScore").mkdir()
    (folder / "1_LogitScore" / "config.json").write_text(json.dumps({"true_token_id": 9, "false_token_id": 8}))
    reranker = MllmReranker.load(folder, "cpu", "float32")
    assert (reranker.yes, reranker.no) == (9, 8)


def test_a_tokeniser_without_the_answers_is_said(tmp_path):
    with pytest.raises(UserError, match="no token 'yes'"):
        MllmReranker.load(FOLDERS["qwen3_vl"](tmp_path / "qwen3_vl"), "cpu", "float32")


def test_an_mllm_without_an_output_head_is_refused_and_no_random_one_is_made(tmp_path):
    folder = with_answers(FOLDERS["qwen2_vl"](tmp_path / "qwen2_vl"))
    weights = load_file(folder / "model.safetensors")
    weights.pop("lm_head.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack lm_head\.weight, the output head .* Take the instruct model"):
        mmret.Reranker.load(folder, "cpu")
    with pytest.raises(UserError, match=r"lack lm_head\.weight"):
        RerankerUnderTraining.load(small("reranker", lora={"rank": 4, "alpha": 8}), folder)
    assert MllmRetriever.load(folder, "cpu").dim == 32  # which asks for no logits


def test_an_output_head_that_is_the_embeddings_own_lacks_nothing(pictures, tmp_path):
    folder, shown = with_answers(FOLDERS["qwen2_vl"](tmp_path / "qwen2_vl")), list(pictures.values())
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"]):
        part["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    weights.pop("lm_head.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    first, again = (mmret.Reranker.load(folder, "cpu").score([(shown[0], TEXTS[0])], [shown[1]]) for _ in range(2))
    assert first == again


def test_pictures_keep_their_shape_where_the_prompt_has_an_area_and_are_squares_elsewhere(tmp_path):
    wide = np.zeros((64, 256, 3), np.uint8)
    own = MllmReranker.load(with_answers(FOLDERS["qwen3_vl"](tmp_path / "a")), "cpu", "float32").pictures([wide])[0]
    assert own.width > 2 * own.height and rerank_prompt_of("qwen3_vl").pixels[0] <= own.width * own.height
    assert MllmReranker.load(with_answers(FOLDERS["qwen2_vl"](tmp_path / "b")), "cpu").pictures([wide])[0].size == (512, 512)


@pytest.mark.parametrize("shape", [(2, 600), (600, 2), (1, 100_000), (100_000, 1), (500, 95_000)])
def test_a_picture_too_narrow_for_the_processor_is_made_wider(own_shape, shape):
    made = own_shape.pictures([np.zeros((*shape, 3), np.uint8)])[0]
    assert max(made.size) <= 200 * min(made.size) and made.width % 32 == made.height % 32 == 0
    assert own_shape.score([(np.zeros((*shape, 3), np.uint8), TEXTS[0])], [np.zeros((9, 9, 3), np.uint8)]).shape == (1,)


@pytest.mark.parametrize(
    "queries, candidates, said",
    [
        ([("a.png", "x")], [], "as many candidates as queries"),
        ([(None, " ")], ["a.png"], "queries, row 1"),
        ("a", ["b"], "takes lists"),
    ],
)
def test_what_cannot_be_a_pair_is_said(clip_reranker, queries, candidates, said):
    with pytest.raises(UserError, match=said):
        clip_reranker.score(queries, candidates)


# -- pairs ------------------------------------------------------------------------------------------------------------


def test_a_rows_pairs_are_its_target_its_own_negatives_and_other_targets_none_of_them_right_as_well(triplets):
    recipe = small("reranker", batch_size=12, mined_negatives=3, reranker={"in_batch": 3})
    data = TrainingSet(triplets, recipe)
    for step in range(6):
        batch = data.batch(step)
        pairs = Pairs.of(batch, recipe)
        for row in range(12):
            own = pairs.places[row][pairs.places[row] >= 0]
            found = pairs.candidates[own]
            assert (pairs.rows[own] == row).all() and found[0] == batch.targets[row] and len(set(found)) == len(found)
            explicit = set(batch.candidates[12:][batch.negative_rows == row])
            others = {batch.targets[(row + k) % 12] for k in (1, 2, 3)}
            question = (batch.queries == batch.queries[row]) & (np.array(batch.texts) == batch.texts[row])
            assert set(found[1:]) == (explicit | others) - set(batch.targets[question])
            assert batch.queries[row] in found


def test_the_target_of_another_row_with_the_same_question_makes_no_pair():
    batch = Batch(np.array([7, 7, 8]), ["a", "a", "b"], np.array([1, 2, 3, 2, 4]), negative_rows=np.array([0, 0]))
    pairs = Pairs.of(batch, small("reranker", reranker={"in_batch": 2}))
    assert sorted(pairs.candidates[pairs.rows == 0]) == [1, 3, 4]  # 2 is a target of the same question
    assert sorted(pairs.candidates[pairs.rows == 2]) == [1, 2, 3]
    both = Pairs.of(batch, small("reranker", reranker={"in_batch": 2}, several_positives=False))
    assert sorted(both.candidates[both.rows == 0]) == [1, 2, 3, 4]


def test_the_loss_is_the_mean_of_each_rows_softmax():
    scores = torch.tensor([2.0, 1.0, 0.5, 3.0, -1.0], dtype=torch.float64)
    loss = listwise_loss(scores, torch.tensor([[0, 1, 2], [3, 4, -1]]))
    by_hand = [-(2 - np.log(np.exp([2, 1, 0.5]).sum())), -(3 - np.log(np.exp([3, -1]).sum()))]
    assert float(loss) == pytest.approx(np.mean(by_hand))
