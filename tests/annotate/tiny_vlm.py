"""A Qwen2-VL of random weights as a folder that vLLM loads like any other: config, safetensors, tokenizer, processor.

What it writes means nothing. Its output layer leans towards the quotation mark and the end of the text, so that some answers end
before their limit; everything else about it is chance. About 1 MB, made in seconds.
"""

from __future__ import annotations

from pathlib import Path

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
HEAD = 64  # the smallest head that vLLM's CPU attention takes
HIDDEN = 2 * HEAD
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def tokenizer(texts: list[str]) -> object:
    """Byte-level BPE with few merges, so that an answer is many tokens and a prompt is not too many."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=800, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    made = Qwen2TokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    return made


def make(folder: Path, texts: list[str]) -> Path:
    """Write the model to ``folder``; ``texts`` are what its tokenizer is trained on. Returns ``folder``."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor, Qwen2VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    words = tokenizer(texts)
    ids = {name: words.convert_tokens_to_ids(name) for name in SPECIAL}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [8, 12, 12]},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={"depth": 1, "embed_dim": HEAD, "hidden_size": HIDDEN, "num_heads": 1, "mlp_ratio": 2, "patch_size": 14},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(config).eval()
    with torch.no_grad():  # a direction that every hidden state shares, and an output layer that reads it
        shared = torch.nn.functional.normalize(torch.randn(HIDDEN), dim=0)
        model.get_input_embeddings().weight += 0.5 * shared
        output = model.get_output_embeddings().weight
        output[words.convert_tokens_to_ids('"')] += 0.3 * shared
        output[ids["<|im_end|>"]] += 0.3 * shared
    model.save_pretrained(folder)
    pixels = {"min_pixels": 28 * 28, "max_pixels": 112 * 112}
    Qwen2VLProcessor(Qwen2VLImageProcessor(**pixels), words, Qwen2VLVideoProcessor(**pixels), chat_template=CHAT).save_pretrained(
        folder
    )
    return folder
