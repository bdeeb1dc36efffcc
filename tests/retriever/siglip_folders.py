"""Tiny SigLIP and SigLIP 2 folders with random weights, saved as the stock files that published ones consist of."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

from tests.retriever.conftest import SENTENCES

LIMIT = 16


def siglip2(folder: Path) -> Path:
    """As SigLIP 2 of fixed resolution is published: a tokenizer that knows capitals, ends a text, and asks for no mask."""
    raw = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    bytes_ = [f"<0x{n:02X}>" for n in range(256)]
    raw.train_from_iterator(
        [*SENTENCES, *(s.upper() for s in SENTENCES)] * 3,
        trainers.BpeTrainer(vocab_size=600, special_tokens=[*special, *bytes_], show_progress=False),
    )
    raw.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    words = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=10**30,
        model_input_names=["input_ids"],
    )
    return _save(folder, words, len(words))


def siglip1(folder: Path) -> Path:
    """As the first SigLIP is published: a sentencepiece model, lower-cased and without signs by its tokenizer's class."""
    import sentencepiece
    from transformers import SiglipTokenizer

    folder.mkdir(exist_ok=True, parents=True)
    words = [*SENTENCES, "find a picture of something that is not here"] * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_prefix=str(folder / "spiece"),
        vocab_size=70,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=5,
    )
    (folder / "spiece.vocab").unlink()
    tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_input_names=["input_ids"])
    return _save(folder, tokenizer, len(tokenizer))


def _save(folder: Path, tokenizer, words: int) -> Path:
    torch.manual_seed(11)
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = SiglipModel(
        SiglipConfig(
            text_config={**tower, "vocab_size": words, "max_position_embeddings": LIMIT, "projection_size": 32},
            vision_config={**tower, "image_size": 32, "patch_size": 8},
        )
    )
    with torch.no_grad():  # stock biases are nothing, so a mistake about them would show nowhere
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.1)
    model.save_pretrained(folder)
    pictures = SiglipImageProcessor(size={"height": 32, "width": 32})
    SiglipProcessor(pictures, tokenizer).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "siglip"
    return folder


FOLDERS = {"siglip": siglip1, "siglip2": siglip2}
