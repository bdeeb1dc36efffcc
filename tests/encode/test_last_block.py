"""Invariants: the one token of a tower's last block has the features and the gradients of the stock model, whatever the padding,
whichever token ends a text; what no one reads is not computed."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from mmret.encode.last_block import dino_token, picture_token, text_token

TOKENS, END = 9, 40


def clip(eos: int = END) -> CLIPModel:
    shared = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "projection_dim": 8}
    text = {
        **shared,
        "vocab_size": END + 2,
        "max_position_embeddings": 16,
        "bos_token_id": 0,
        "eos_token_id": eos,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    made = CLIPModel(CLIPConfig(vision_config={**shared, "image_size": 16, "patch_size": 8}, text_config=text)).double().eval()
    return spread(made)


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """With biases and scales that are not all zero and one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def texts(pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of texts of 2 to 9 tokens that end with END, padded by ``pad``, and their mask."""
    ids = torch.randint(3, END, (8, TOKENS), generator=torch.Generator().manual_seed(1))
    ends = torch.arange(1, TOKENS)
    for row, end in enumerate(ends):
        ids[row, end] = END
        ids[row, end + 1 :] = pad
    return ids, (torch.arange(TOKENS) <= ends[:, None]).long()


def alike(model: torch.nn.Module, stock: torch.Tensor, ours: torch.Tensor) -> None:
    torch.testing.assert_close(ours, stock, atol=1e-10, rtol=1e-9)
    weight = torch.randn(stock.shape, dtype=stock.dtype, generator=torch.Generator().manual_seed(2))
    parameters = list(model.parameters())
    for one, other in zip(
        *(torch.autograd.grad((x * weight).sum(), parameters, allow_unused=True) for x in (stock, ours)), strict=True
    ):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one, atol=1e-9, rtol=1e-7)


def test_a_text_ends_at_its_first_end_token_though_it_has_a_larger_id():
    model, (ids, mask) = clip(), texts(END)
    ids[2:, 1] = END + 1
    stock = model.text_model(input_ids=ids, attention_mask=mask).pooler_output
    alike(model.text_model, stock, text_token(model.text_model, ids, mask))


@pytest.mark.parametrize("eos", [END, 2], ids=["the end token by its id", "the largest id, as in the oldest configurations"])
@pytest.mark.parametrize(("pad", "masked"), [(0, True), (END, True), (END, False)])
def test_a_text_has_the_features_and_gradients_of_the_stock_model(eos, pad, masked):
    model, (ids, mask) = clip(eos), texts(pad)
    mask = mask if masked else None
    stock = model.text_model(input_ids=ids, attention_mask=mask).pooler_output
    alike(model.text_model, stock, text_token(model.text_model, ids, mask))


def test_padding_before_a_text_is_not_seen_where_the_mask_says_so():
    model, (ids, mask) = clip(), texts(END)
    ids, mask = ids[:4], mask[:4].clone()
    mask[:, 0] = 0
    stock = model.text_model(input_ids=ids, attention_mask=mask).pooler_output
    alike(model.text_model, stock, text_token(model.text_model, ids, mask))


def test_a_picture_has_the_features_and_gradients_of_the_stock_models():
    pixels = torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    model = clip()
    alike(model.vision_model, model.vision_model(pixel_values=pixels).pooler_output, picture_token(model.vision_model, pixels))
    dino = Dinov2Model(Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, patch_size=8, image_size=16))
    dino = spread(dino).double().eval()
    alike(dino, dino(pixels).pooler_output, dino_token(dino, pixels))


def test_of_the_last_block_one_token_goes_through_the_mlp():
    model, rows = clip(), []
    model.vision_model.encoder.layers[-1].mlp.register_forward_hook(lambda _, given, __: rows.append(given[0].shape))
    model.text_model.encoder.layers[-1].mlp.register_forward_hook(lambda _, given, __: rows.append(given[0].shape))
    picture_token(model.vision_model, torch.zeros(2, 3, 16, 16, dtype=torch.float64))
    text_token(model.text_model, texts(END)[0])
    assert rows == [(2, 24), (8, 24)]
