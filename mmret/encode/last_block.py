"""The last block of a tower, computed for the one token that is pooled: of CLIP's towers, and of DINOv2.

The stock models of ``transformers`` read a single token of the last block's output: the class token of a picture, the end token of
a text. Nothing reads the others, so of that block their queries, their output product and their MLP need not be computed: ten
twelfths of its products, a quarter of a tower of three blocks and 7 % of one of twelve, forward and backward. The features are
those of the stock model up to rounding (some 1e-7 in float32).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import create_causal_mask


def one_token(block: nn.Module, hidden: Tensor, place: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
    """Output (n, width) of ``block``, a CLIPEncoderLayer, for one token of each row of ``hidden`` (n, tokens, width).

    ``place`` (n,) int64: which token; None: the first. ``seen`` (n, tokens) bool: the tokens that it attends to; None: all.
    """
    attention, normed = block.self_attn, block.layer_norm1(hidden)
    mixed = _attended(attention, _at(normed, place), normed, attention.dropout * block.training, seen)
    token = _at(hidden, place)[:, 0] + attention.out_proj(mixed)
    return token + block.mlp(block.layer_norm2(token))


def picture_token(vision_model: nn.Module, pixels: Tensor) -> Tensor:
    """``pooler_output`` (n, width) of a CLIPVisionModel for ``pixels`` (n, 3, h, w)."""
    *lower, last = vision_model.encoder.layers
    hidden = vision_model.pre_layrnorm(vision_model.embeddings(pixels))
    for block in lower:
        hidden = block(hidden, None)
    return vision_model.post_layernorm(one_token(last, hidden))


def text_token(text_model: nn.Module, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """``pooler_output`` (n, width) of a CLIPTextModel for ``ids`` (n, tokens). ``mask`` (n, tokens): 0 where it is padding, which
    may be left out where padding is behind the end token: a text attends to what is before it.

    As in the stock model the end token is the first of its id, or, in the oldest configurations, whose id of it is wrong, the
    largest id of a row.
    """
    *lower, last = text_model.encoder.layers
    hidden = text_model.embeddings(input_ids=ids)
    causal = create_causal_mask(config=text_model.config, inputs_embeds=hidden, attention_mask=mask, past_key_values=None)
    for block in lower:
        hidden = block(hidden, causal, is_causal=True)
    numbers = ids.int()
    end = (numbers if text_model.eos_token_id == 2 else (numbers == text_model.eos_token_id).int()).argmax(dim=-1)
    seen = torch.arange(ids.shape[1], device=ids.device) <= end[:, None]
    return text_model.final_layer_norm(one_token(last, hidden, end, seen if mask is None else seen & mask.bool()))


def dino_token(model: nn.Module, pixels: Tensor) -> Tensor:
    """``pooler_output`` (n, width) of a Dinov2Model without stochastic depth for ``pixels`` (n, 3, h, w)."""
    *lower, last = model.encoder.layer
    hidden = model.embeddings(pixels)
    for block in lower:
        hidden = block(hidden)
    attention, normed = last.attention, last.norm1(hidden)
    mixed = _attended(attention, normed[:, :1], normed, attention.attention_dropout * last.training)
    token = hidden[:, 0] + last.layer_scale1(attention.o_proj(mixed))
    return model.layernorm(token + last.layer_scale2(last.mlp(last.norm2(token))))


def _at(hidden: Tensor, place: Tensor | None) -> Tensor:
    """(n, 1, width): the token of each row at ``place``."""
    return hidden[:, :1] if place is None else hidden.gather(1, place[:, None, None].expand(-1, 1, hidden.shape[2]))


def _attended(attention: nn.Module, token: Tensor, every: Tensor, dropout: float, seen: Tensor | None = None) -> Tensor:
    """(n, width): what ``token`` (n, 1, width) finds among ``every`` (n, tokens, width), all heads beside each other."""

    def heads(x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], -1, attention.head_dim).transpose(1, 2)

    mixed = scaled_dot_product_attention(
        heads(attention.q_proj(token)),
        heads(attention.k_proj(every)),
        heads(attention.v_proj(every)),
        attn_mask=None if seen is None else seen[:, None, None, :],
        dropout_p=dropout,
    )
    return mixed.transpose(1, 2).flatten(1)
