"""Folders of tiny models with random weights, saved by the libraries themselves, so that they have the real formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SIDE = {"image_size": 32, "patch_size": 8}
CAPTIONS = [f"{size} {colour} {shape}s" for size in ("a large", "small") for colour in ("red", "blue") for shape in ("cat", "star")]
WORDS = (
    *CAPTIONS,
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    "A Red Cat, isn't it?",
)


def save(folder: Path, *parts: Any) -> Path:
    from transformers.utils import logging

    logging.disable_progress_bar()
    for part in parts:
        part.save_pretrained(folder)
    return folder


def spread(embedding: nn.Embedding) -> None:
    """Make texts differ: the usual initialisation gives all nearly one vector."""
    with torch.no_grad():
        embedding.weight.mul_(50)


def siglip_network(vocabulary: int) -> nn.Module:
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(3)
    text = {**SMALL, "vocab_size": vocabulary, "max_position_embeddings": 16, "projection_size": 32}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config={**SMALL, **SIDE})).eval()
    spread(model.text_model.embeddings.token_embedding)
    with torch.no_grad():
        for name, value in model.vision_model.named_parameters():
            if "embeddings" in name:
                value.mul_(20)
        for name, value in model.text_model.named_parameters():
            if name.endswith(("v_proj.weight", "out_proj.weight")):
                value.mul_(10)
    return model


def siglip_pictures() -> Any:
    from transformers import SiglipImageProcessor

    return SiglipImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def siglip(folder: Path) -> Path:
    """SigLIP as google/siglip-base-patch16-224 has it: a sentencepiece vocabulary, no attention mask."""
    import sentencepiece
    from transformers import SiglipProcessor, SiglipTokenizer

    folder.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text.lower() for text in WORDS] * 4), model_prefix=str(folder / "spiece"), vocab_size=64,
        hard_vocab_limit=False, bos_id=-1, pad_id=-1, eos_id=1, unk_id=2, control_symbols=["<c>"], minloglevel=2, num_threads=1,
    )  # fmt: skip
    (folder / "spiece.vocab").unlink()
    tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_input_names=["input_ids"], model_max_length=16)
    return save(folder, siglip_network(len(tokenizer)), SiglipProcessor(siglip_pictures(), tokenizer))


def siglip2(folder: Path) -> Path:
    """SigLIP 2 as google/siglip2-base-patch16-224 has it: a SiglipModel with Gemma's tokenizer, which does not lower-case."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import SiglipProcessor, TokenizersBackend

    engine = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    engine.normalizer = normalizers.Replace(" ", "▁")
    engine.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    engine.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=400, special_tokens=special))
    engine.post_processor = processors.TemplateProcessing("$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer = TokenizersBackend(
        tokenizer_object=engine, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
        model_input_names=["input_ids"], padding_side="right",
    )  # fmt: skip
    save(folder, siglip_network(len(tokenizer)), siglip_pictures(), tokenizer)
    told = folder / "tokenizer_config.json"
    wanted = {"tokenizer_class": "GemmaTokenizer", "processor_class": SiglipProcessor.__name__, "add_bos_token": False}
    told.write_text(json.dumps(json.loads(told.read_text()) | wanted | {"add_eos_token": True}))
    return folder


def towers() -> dict[str, tuple[Any, Any]]:
    """Networks of one tower, of each make another, with the image processor that they are published with, by name."""
    import transformers as t

    square, crop = {"height": 32, "width": 32}, {"shortest_edge": 40}
    vit, cut = t.ViTImageProcessor(size=square), t.BitImageProcessor(size=crop, crop_size=square)
    dinov3 = t.DINOv3ViTImageProcessor(size=square)
    registers = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
    swin = t.SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    cropped = t.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875)
    torch.manual_seed(4)
    return {
        "vit": (t.ViTModel(t.ViTConfig(**SMALL, **SIDE)), vit),
        "vit_for_classes": (t.ViTForImageClassification(t.ViTConfig(**SMALL, **SIDE)), vit),
        "masked": (t.ViTMAEModel(t.ViTMAEConfig(**SMALL, **SIDE)), vit),
        "ijepa": (t.IJepaModel(t.IJepaConfig(**SMALL, **SIDE), add_pooling_layer=False), vit),
        "registers": (t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**registers, **SIDE, num_register_tokens=4)), cut),
        "dinov3": (t.DINOv3ViTModel(t.DINOv3ViTConfig(**SMALL, **SIDE, num_register_tokens=3)), dinov3),
        "dinov3_convnext": (
            t.DINOv3ConvNextModel(t.DINOv3ConvNextConfig(hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1])),
            t.DINOv3ViTImageProcessor(size={"height": 64, "width": 64}),
        ),
        "swin": (t.SwinModel(swin), vit),
        "convnext": (t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1])), cropped),
        "siglip_vision": (t.SiglipVisionModel(t.SiglipVisionConfig(**SMALL, **SIDE)), siglip_pictures()),
        "timm": (
            t.TimmWrapperModel(
                t.TimmWrapperConfig(
                    architecture="vit_tiny_patch16_224",
                    model_args={"img_size": 32, "depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 8},
                    pretrained_cfg={"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.4] * 3, "interpolation": "bicubic"},
                )
            ),
            None,
        ),
    }  # fmt: skip


def sentence_transformer(folder: Path) -> Path:
    """BERT, mean pooling without the prompt's tokens, a dense layer and normalisation, with prompts of its own."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    words = sorted({piece for text in WORDS for piece in text.lower().replace(",", "").replace("'", " ").split()})
    torch.manual_seed(5)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = BertTokenizer({word: at for at, word in enumerate([*special, *words, "query", ":", "name", "of"])})
    model = BertModel(BertConfig(**SMALL, vocab_size=len(tokenizer), max_position_embeddings=32)).eval()
    spread(model.embeddings.word_embeddings)
    save(folder / "bert", model, tokenizer)
    parts = [Transformer(str(folder / "bert"), max_seq_length=12), Pooling(32, include_prompt=False), Dense(32, 20), Normalize()]
    whole = SentenceTransformer(modules=parts, device="cpu", prompts={"query": "query: ", "plain": ""})
    whole.save(str(folder / "model"), create_model_card=False)
    return folder / "model"
