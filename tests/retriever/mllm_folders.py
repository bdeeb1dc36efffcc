"""Tiny multimodal LLMs with random weights, saved as the stock files the real loading path reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

CONTEXT = 400
"""Positions of the tiny models; a text of more tokens has to be cut."""
SENTENCES = [
    "a thing that is different in way",
    "is times longer has dots",
    "find a picture",
    "make it green",
    "0 1 2 3 4 5 6 7 8 9",
    "Retrieve the target image that best meets the criteria",
    "[INST] <instruct> <query>",
]
HEAD = 16
"""Width of an attention head of the tiny models; vLLM's on a CPU takes none below 64."""


def language(head: int) -> dict[str, Any]:
    return {
        "hidden_size": 2 * head,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.2,
    }


def rope(head: int, **more: Any) -> dict[str, Any]:
    sections = [head // 8, 3 * head // 16, 3 * head // 16]
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections, **more}


def tokenizer(special: list[str], bos: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE over :data:`SENTENCES`; ``special`` tokens are never split, the first of them pads."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        SENTENCES * 3, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    if bos:
        raw.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, raw.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=special[0], eos_token=special[1], bos_token=bos, extra_special_tokens=special[2:]
    )


def llava_next(folder: Path, head: int = HEAD) -> Path:
    """CLIP tower of 16 px in patches of 8: a 512-px square becomes 32 x 32, so 4 + 16 patches and 4 line ends."""
    words = tokenizer(["<pad>", "</s>", "<s>", "<image>"], bos="<s>")
    torch.manual_seed(3)
    model = LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            text_config=MistralConfig(vocab_size=len(words), **language(head)).to_dict(),
            vision_config=CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=16,
                patch_size=8,
                initializer_factor=5.0,
            ).to_dict(),
            image_token_id=words.convert_tokens_to_ids("<image>"),
            image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
        )
    )
    pictures = LlavaNextImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]]
    )
    model.save_pretrained(folder)
    LlavaNextProcessor(
        pictures, words, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    ).save_pretrained(folder)
    return folder


def publish_names(folder: Path) -> Path:
    """Name the weights of a :func:`llava_next` as those of published ones are."""
    weights = load_file(folder / "model.safetensors")
    old = {name.replace("vision_tower.", "vision_tower.vision_model."): weight for name, weight in weights.items()}
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


QWEN_TOKENS = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|im_start|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]


def _qwen_ids(words: PreTrainedTokenizerFast) -> dict[str, int]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {name: words.convert_tokens_to_ids(token) for name, token in names.items()}


def qwen2_vl(folder: Path, head: int = HEAD) -> Path:
    """Patches of 14 merged two by two, at most 56 x 56 pixels: four tokens a picture."""
    words = tokenizer(QWEN_TOKENS)
    torch.manual_seed(4)
    model = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            text_config={
                **language(head),
                "vocab_size": len(words),
                "rope_parameters": rope(head),
            },
            vision_config={
                "depth": 1,
                "embed_dim": 16,
                "hidden_size": 2 * head,
                "num_heads": 2,
                "mlp_ratio": 2,
                "initializer_range": 0.2,
            },
            **_qwen_ids(words),
        )
    )
    model.save_pretrained(folder)
    Qwen2VLProcessor(Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56), words, Qwen2VLVideoProcessor()).save_pretrained(
        folder
    )
    return folder


def qwen2_vl_of(
    folder: Path,
    language: dict[str, Any],
    vision: dict[str, Any],
    side: int,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> Path:
    """A Qwen2-VL of the given shape with random weights, for benches; a picture of side x side pixels keeps its size.

    ``dtype`` None: float32. ``device``: where the weights are drawn, of billions in a second on a GPU."""
    words = tokenizer(QWEN_TOKENS)
    half = language["hidden_size"] // language["num_attention_heads"] // 2
    sections = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]
    turning = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    config = Qwen2VLConfig(
        text_config={"vocab_size": len(words), "max_position_embeddings": 4096, "rope_parameters": turning} | language,
        vision_config={**vision, "hidden_size": language["hidden_size"]},
        **_qwen_ids(words),
    )
    with torch.device(device):
        model = Qwen2VLForConditionalGeneration(config)
    model.to(dtype or torch.float32).save_pretrained(folder)
    pictures = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=side * side)
    Qwen2VLProcessor(pictures, words, Qwen2VLVideoProcessor()).save_pretrained(folder)
    return folder


def _qwen3_vision(head: int) -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "out_hidden_size": 2 * head,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
        "initializer_range": 0.2,
    }


def qwen3_vl(folder: Path, head: int = HEAD) -> Path:
    """Patches of 16 merged two by two, at most 64 x 64 pixels: four tokens a picture; features of one deeper layer."""
    words = tokenizer(QWEN_TOKENS)
    torch.manual_seed(5)
    model = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config={
                **language(head),
                "vocab_size": len(words),
                "head_dim": head,
                "rope_parameters": rope(head, mrope_interleaved=True),
            },
            vision_config=_qwen3_vision(head),
            **_qwen_ids(words),
        )
    )
    model.save_pretrained(folder)
    pictures = Qwen2VLImageProcessor(min_pixels=32 * 32, max_pixels=64 * 64, patch_size=16)
    Qwen3VLProcessor(pictures, words, Qwen3VLVideoProcessor()).save_pretrained(folder)
    return folder


def qwen2_5_vl(folder: Path, head: int = HEAD) -> Path:
    """As :func:`qwen2_vl`, with attention in windows."""
    words = tokenizer(QWEN_TOKENS)
    torch.manual_seed(6)
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={**language(head), "vocab_size": len(words), "rope_parameters": rope(head)},
            vision_config={
                "depth": 2,
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_heads": 2,
                "out_hidden_size": 2 * head,
                "window_size": 28,
                "fullatt_block_indexes": [1],
                "initializer_range": 0.2,
            },
            **_qwen_ids(words),
        )
    )
    model.save_pretrained(folder)
    pictures = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56)
    Qwen2_5_VLProcessor(pictures, words, Qwen2VLVideoProcessor()).save_pretrained(folder)
    return folder


def qwen3_vl_moe(folder: Path, head: int = HEAD) -> Path:
    """As :func:`qwen3_vl`, with two of four experts for each token."""
    words = tokenizer(QWEN_TOKENS)
    torch.manual_seed(7)
    model = Qwen3VLMoeForConditionalGeneration(
        Qwen3VLMoeConfig(
            text_config={
                **language(head),
                "vocab_size": len(words),
                "head_dim": head,
                "moe_intermediate_size": 24,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "rope_parameters": rope(head, mrope_interleaved=True),
            },
            vision_config=_qwen3_vision(head),
            **_qwen_ids(words),
        )
    )
    model.save_pretrained(folder)
    pictures = Qwen2VLImageProcessor(min_pixels=32 * 32, max_pixels=64 * 64, patch_size=16)
    Qwen3VLProcessor(pictures, words, Qwen3VLVideoProcessor()).save_pretrained(folder)
    return folder


FOLDERS = {"llava_next": llava_next, "qwen2_vl": qwen2_vl, "qwen3_vl": qwen3_vl}
EVERY_FAMILY = {**FOLDERS, "qwen2_5_vl": qwen2_5_vl, "qwen3_vl_moe": qwen3_vl_moe}


def with_answers(folder: Path) -> Path:
    """The model in ``folder`` with tokens for yes and no, by which a reranker answers, and room for two pictures."""
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.add_tokens(["yes", "no"])
    torch.manual_seed(5)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    model.config.get_text_config().max_position_embeddings = 4 * CONTEXT
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
