"""The demo's CLIP: a stock ``transformers.CLIPModel`` of 0.9 M parameters, trained from scratch on image and caption.

Symmetric InfoNCE (Radford et al. 2021) with a learnt temperature; images that have the same caption are not each other's
negatives. Cost per step of 256 pictures on two cores: 0.21 s for the image tower, 0.04 to 0.08 s for the text tower. The
activation is GELU and not CLIP's QuickGELU, which is not a fused operation and takes up to three times as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from mmret.encode.augment import CAPTION_VIEWS, seeded_generator, views
from mmret.encode.last_block import picture_token, text_token
from mmret.encode.pixels import Preprocessing
from mmret.ranking import recall_at, target_ranks
from mmret.settings import TowerSettings
from mmret.towers.corpus import TowerCorpus
from mmret.towers.pretrain import batch_rows

POSITIONS = 77
"""Token positions, CLIP's own."""
MAX_LOGIT_SCALE = math.log(100)


def new_clip(settings: TowerSettings, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Untrained towers of the size in ``settings``, initialised by its seed."""
    shared = {
        "hidden_size": settings.width,
        "intermediate_size": 4 * settings.width,
        "hidden_act": "gelu",
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "projection_dim": settings.projection,
    }
    config = CLIPConfig(
        projection_dim=settings.projection,
        vision_config={**shared, "image_size": settings.image_size, "patch_size": settings.patch_size},
        text_config={
            **shared,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": POSITIONS,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )
    torch.manual_seed(settings.seed)
    return CLIPModel(config)


def image_processor(settings: TowerSettings) -> CLIPImageProcessor:
    """CLIP's own preprocessing at the towers' size."""
    side = settings.image_size
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def save_clip(model: CLIPModel, tokenizer: CLIPTokenizer, settings: TowerSettings, folder: Path) -> None:
    """Write a folder that ``CLIPModel.from_pretrained`` and ``CLIPProcessor.from_pretrained`` load."""
    pictures = image_processor(settings)
    model.save_pretrained(folder)
    CLIPProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    pictures.save_pretrained(folder)  # preprocessor_config.json: where transformers 4, upstream's version, looks


def token_table(tokenizer: CLIPTokenizer, captions: list[str]) -> tuple[Tensor, Tensor]:
    """All captions at once: (n, longest) ids, cut at 77 and padded with the end token, and (n,) lengths."""
    encoded = tokenizer(captions, truncation=True, max_length=POSITIONS, padding=True, return_tensors="pt")
    return encoded.input_ids, encoded.attention_mask.sum(dim=1)


def caption_loss(
    model: CLIPModel, corpus: TowerCorpus, tokens: tuple[Tensor, Tensor], preprocessing: Preprocessing, settings: TowerSettings
) -> Callable[[int], Tensor]:
    """The loss of a step, for :func:`mmret.towers.pretrain.fit`."""
    ids, lengths = tokens
    numbers = {caption: i for i, caption in enumerate(dict.fromkeys(corpus.captions))}
    caption_number = torch.tensor([numbers[caption] for caption in corpus.captions])

    def loss(step: int) -> Tensor:
        rows = corpus.train[batch_rows(len(corpus.train), settings.batch_size, step, settings.seed, "clip")]
        pictures = views(corpus.pixels[rows], CAPTION_VIEWS, seeded_generator(settings.seed, "clip", step))
        image = model.visual_projection(picture_token(model.vision_model, preprocessing.normalise(pictures)))
        text = model.text_projection(text_token(model.text_model, ids[rows, : int(lengths[rows].max())]))
        same = caption_number[rows]
        return contrastive(
            normalize(image), normalize(text), model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp(), same[:, None] == same[None]
        )

    return loss


def contrastive(image: Tensor, text: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Symmetric InfoNCE loss of unit vectors ``image`` and ``text`` (n, d), whose rows match one by one; a scalar.

    ``same`` (n, n) bool: pairs that have the same caption. Off the diagonal they are not counted as negatives.
    """
    logits = scale * image @ text.T
    logits = logits.masked_fill(same & ~torch.eye(len(same), dtype=torch.bool), -torch.inf)
    labels = torch.arange(len(same))
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


def retrieval_recall(image: Tensor, text: Tensor, captions: list[str]) -> dict[str, float]:
    """Recall in percent among the given rows; a row of the same caption counts as found. Ranked as every evaluation is
    (:mod:`mmret.ranking`): ties rank behind. Raises UserError where a vector is not finite: the towers are broken.
    """
    rows: dict[str, list[int]] = {}
    for row, caption in enumerate(captions):
        rows.setdefault(caption, []).append(row)
    targets, found = [rows[caption] for caption in captions], {}
    for name, queries, gallery in (("image_to_text", image, text), ("text_to_image", text, image)):
        ranks = target_ranks(queries.numpy(), gallery.numpy(), targets)
        found |= {f"{name}_r{k}": round(recall_at(ranks, (k,))[f"R@{k}"], 2) for k in (1, 5, 10)}
    return found
