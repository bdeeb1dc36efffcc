"""Losses, views and the tokenizer of the towers' pre-training."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from mmret.encode.augment import CAPTION_VIEWS, Views, seeded_generator, views
from mmret.errors import UserError
from mmret.towers import pretrain
from mmret.towers.clip import contrastive, retrieval_recall
from mmret.towers.dino import TEMPERATURE, nt_xent
from mmret.towers.pretrain import Plan, _optimizer, batch_rows, fit
from mmret.towers.tokenizer import EDIT_VOCABULARY, train_tokenizer


def unit(n: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)))


def test_identical_captions_are_not_each_others_negatives() -> None:
    image, text, scale = unit(4), unit(4, 1), torch.tensor(10.0)
    captions = torch.tensor([0, 1, 0, 2])
    same = captions[:, None] == captions[None]
    value = contrastive(image, text, scale, same)
    logits = scale * image @ text.T
    rows = [[0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3]]  # what each row is compared with
    expected = sum(torch.logsumexp(m[i, rows[i]], 0) - m[i, i] for m in (logits, logits.T) for i in range(4)) / 8
    assert torch.allclose(value, expected)
    assert torch.allclose(
        contrastive(image, text, scale, torch.eye(4, dtype=torch.bool)),
        (cross_entropy(logits, torch.arange(4)) + cross_entropy(logits.T, torch.arange(4))) / 2,
    )


def test_captions_all_alike_leave_a_loss_of_zero() -> None:
    assert contrastive(unit(3), unit(3, 1), torch.tensor(5.0), torch.ones(3, 3, dtype=torch.bool)) == 0


def test_nt_xent_pairs_each_view_with_the_other() -> None:
    vectors = unit(6)
    logits = vectors @ vectors.T / TEMPERATURE
    expected = 0.0
    for i in range(6):
        others = [j for j in range(6) if j != i]
        expected += (torch.logsumexp(logits[i, others], 0) - logits[i, (i + 3) % 6]) / 6
    assert torch.allclose(nt_xent(vectors), expected)


def test_recall_counts_a_row_of_the_same_caption() -> None:
    eye = torch.eye(3)
    assert retrieval_recall(eye, eye[[1, 0, 2]], ["a", "a", "b"])["image_to_text_r1"] == 100
    assert retrieval_recall(eye, eye[[1, 0, 2]], ["a", "c", "b"])["image_to_text_r1"] == 33.33


def test_towers_that_collapsed_find_nothing_and_broken_ones_are_refused() -> None:
    captions = [str(n) for n in range(12)]
    assert set(retrieval_recall(torch.ones(12, 4), torch.ones(12, 4), captions).values()) == {0.0}
    with pytest.raises(UserError, match="12 vectors of the queries are not finite"):
        retrieval_recall(torch.full((12, 4), torch.nan), torch.ones(12, 4), captions)


def test_a_view_depends_on_its_seed_only_and_no_range_is_the_picture_itself() -> None:
    pixels = torch.randint(0, 256, (5, 3, 12, 12), dtype=torch.uint8, generator=seeded_generator(0))
    assert torch.allclose(views(pixels, Views(), seeded_generator(1)), pixels.float(), atol=1e-3)
    one, two = views(pixels, CAPTION_VIEWS, seeded_generator("a", 1)), views(pixels, CAPTION_VIEWS, seeded_generator("a", 1))
    assert torch.equal(one, two) and not torch.equal(one, views(pixels, CAPTION_VIEWS, seeded_generator("a", 2)))
    assert one.min() >= 0 and one.max() <= 255


def test_every_epoch_is_a_permutation() -> None:
    rows = torch.cat([batch_rows(24, 8, step, 0, "t") for step in range(6)])
    assert sorted(rows[:24].tolist()) == sorted(rows[24:].tolist()) == list(range(24))
    assert rows[:24].tolist() != rows[24:].tolist()
    assert sorted(batch_rows(5, 8, 3, 0, "t").tolist()) == list(range(5))


def test_the_rate_warms_up_and_decays() -> None:
    plan = Plan("k", steps=100, learning_rate=1.0)
    rates = [plan.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert all(later <= sooner for sooner, later in zip(rates[9:], rates[10:], strict=False)) and 0 < rates[-1] < 0.02


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return train_tokenizer([f"woman {job}: dark skin tone" for job in ("pilot", "cook", "judge")] * 50, 900)


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_has_tokens(tokenizer: object, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in ids[:-1] or "<|" in text  # the unknown token is the end token in CLIP
    assert len(ids) > 2 or not text.strip()


def test_the_tokenizer_loads_through_the_stock_class(tokenizer: object, tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer.save_pretrained(tmp_path)
    stock = CLIPTokenizer.from_pretrained(tmp_path)
    for text in ("woman cook: dark skin tone", "Make it DARKER", "日本語 что हिंदी 🦆", ""):
        assert stock(text).input_ids == tokenizer(text).input_ids
    assert len(stock("word " * 200, truncation=True).input_ids) == 77
    assert (stock.bos_token_id, stock.eos_token_id) == (len(stock) - 2, len(stock) - 1)


def test_the_tokenizer_is_the_same_every_time() -> None:
    captions = [f"{a}{b} {b}{a}{c}" for a in "abcdefgh" for b in "stuvwxyz" for c in "mno"]  # pairs of equal frequency
    made = {train_tokenizer(order, 900).backend_tokenizer.to_str() for order in [captions] * 4 + [captions[::-1]] * 4}
    assert len(made) == 1


def test_corpus_words_are_whole_and_the_vocabulary_is_a_limit(tokenizer: object) -> None:
    assert len(tokenizer("woman pilot").input_ids) == 4
    assert len(tokenizer) <= 900
    assert sum(len(tokenizer(word).input_ids) == 3 for word in EDIT_VOCABULARY.split()) > 50
    with pytest.raises(ValueError, match="514"):
        train_tokenizer(["a"], 300)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_stops_the_training_and_nothing_is_saved(tmp_path: Path, bad: float) -> None:
    model = torch.nn.Linear(3, 3)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(UserError, match="stopped at step 1 of 5: the loss is (nan|-?inf).*lower towers.learning_rate"):
        fit(model, lambda _: model(torch.ones(2, 3)).sum() * bad, Plan("k", 5, 0.1), tmp_path / "state.pt")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not (tmp_path / "state.pt").exists()


def test_muon_trains_the_matrices_inside_the_blocks_and_is_taken_up_again_to_the_same_weights(tmp_path, monkeypatch) -> None:
    def trained(stops: tuple[int, ...], name: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 6), torch.nn.Linear(6, 2))
        rows = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))

        def loss(step: int) -> torch.Tensor:
            if step in stops and not seen.count(step):
                seen.append(step)
                raise KeyboardInterrupt
            return (model(rows * (1 + step)) - 1).square().mean()

        seen: list[int] = []
        for _ in range(1 + len(stops)):
            with contextlib.suppress(KeyboardInterrupt):
                fit(model, loss, Plan("k", 8, 0.05, 0.1), tmp_path / name, blocks=[model[1]])
        return [p.detach() for p in model.parameters()]

    def optimisers(blocks: tuple[int, ...], rate: float | None) -> list[str]:
        model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 6))
        made = _optimizer(model, [model[i] for i in blocks], Plan("k", 8, 0.05, rate))
        assert sum(p.numel() for g in made.param_groups for p in g["params"]) == sum(p.numel() for p in model.parameters())
        return [type(part).__name__ + str([tuple(p.shape) for g in part.param_groups for p in g["params"]]) for part in made.parts]

    assert optimisers((1,), 0.1) == ["AdamW[(6, 4), (6,), (6,)]", "Muon[(6, 6)]"]
    assert [o.partition("[")[0] for o in optimisers((1,), None)] == [o.partition("[")[0] for o in optimisers((), 0.1)] == ["AdamW"]
    monkeypatch.setattr(pretrain, "CHECKPOINT_SECONDS", 0.0)
    whole, resumed = trained((), "a"), trained((3, 6), "b")
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
