"""MllmRetriever over tiny random LLaVA-NeXT, Qwen2-VL and Qwen3-VL folders, loaded as a published one is."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)

import mmret
from mmret.errors import UserError
from mmret.retriever.models.clip import ClipRetriever
from mmret.retriever.models.mllm import MllmRetriever
from mmret.retriever.models.mllm_prompts import prompt_of, prompts
from tests.retriever.mllm_folders import CONTEXT, FOLDERS

TASK = (
    "Retrieve the target image that best meets the combined criteria by using both the provided image and the "
    "image retrieval instructions: "
)
TEXTS = [
    "make it green",
    "a",
    "a thing that is different in way and is times longer, has dots; find a picture",
    "no hat",
    "{curly} braces and %s",
]
SAME = {"rtol": 0, "atol": 1e-5}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: make(tmp_path_factory.mktemp(kind)) for kind, make in FOLDERS.items()}


@pytest.fixture(scope="module")
def retrievers(folders):
    return {kind: mmret.Retriever.load(folder, "cpu") for kind, folder in folders.items()}


@pytest.fixture(params=FOLDERS)
def retriever(request, retrievers):
    return retrievers[request.param]


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(2)
    return [Image.fromarray(rng.integers(0, 255, (60, width, 3), dtype=np.uint8)) for width in (30, 60, 90, 200, 61)]


# -- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts, expected",
    [
        ({"text": "T", "image": True, "instruction": "I"}, "[INST] \n <instruct> I <query>  T \n <image> [/INST]"),
        ({"text": "T", "instruction": "I"}, "[INST] \n <instruct> I <query>  T \n [/INST]"),
        ({"image": True, "instruction": "I"}, "[INST] \n <instruct> I <query>  <image> [/INST]"),
        ({"text": "", "image": True, "instruction": "I"}, "[INST] \n <instruct> I <query>  <image> [/INST]"),
        ({"text": "T", "image": True}, "[INST]  T \n <image> [/INST]"),
        ({"text": "T"}, "[INST]  T \n [/INST]"),
        ({"image": True}, "[INST]  <image> [/INST]"),
    ],
)
def test_llava_prompts_are_upstreams_to_the_character(parts, expected):
    assert prompt_of("llava_next").fill(**parts) == expected


def test_qwen_prompts_are_one_user_turn_of_the_familys_markup():
    turn = "<|im_start|>user\n<instruct> I <query>T\n<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n"
    assert prompt_of("qwen3_vl").fill("T", True, "I") == turn
    assert prompt_of("qwen2_vl").fill("T", True, "I") == ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + turn)
    assert prompt_of("qwen3_vl").fill("T") == "<|im_start|>user\nT\n<|im_end|>\n<|im_start|>assistant\n"


def test_braces_in_a_text_are_text():
    for prompt in prompts().values():
        assert "{image} {0}" in prompt.fill("{image} {0}", True, "{text}")
        assert "{text}" in prompt.fill("a", True, "{text}")


# -- embeddings -------------------------------------------------------------------------------------------------------


def plain(model, processor, prompt, image=None):
    """One row, no padding, the whole model: the last position of the last hidden state."""
    shown = None if image is None else [image.resize((512, 512))]
    inputs = processor(text=[prompt], images=shown, return_tensors="pt")
    with torch.no_grad():
        state = model.eval()(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
    return (state / state.norm()).numpy()


def test_llava_embeddings_are_those_of_a_plain_transformers_forward(folders, retrievers, images):
    model = LlavaNextForConditionalGeneration.from_pretrained(folders["llava_next"])
    processor = LlavaNextProcessor.from_pretrained(folders["llava_next"])
    expected = {
        "composed": [
            plain(model, processor, f"[INST] \n <instruct> {TASK} <query>  {text} \n <image> [/INST]", image)
            for text, image in zip(TEXTS, images, strict=True)
        ],
        "image": [plain(model, processor, "[INST]  <image> [/INST]", image) for image in images],
        "text": [plain(model, processor, f"[INST]  {text} \n [/INST]") for text in TEXTS],
    }
    ours = retrievers["llava_next"]
    np.testing.assert_allclose(ours.encode(images, TEXTS, instruction=TASK), expected["composed"], **SAME)
    np.testing.assert_allclose(ours.encode(images=images), expected["image"], **SAME)
    np.testing.assert_allclose(ours.encode(texts=TEXTS), expected["text"], **SAME)
    apart = np.abs(np.diff(np.concatenate(list(expected.values())), axis=0)).max(axis=1)
    assert (apart > 0.01).all()  # else every row would pass for every other


def test_qwen2_embeddings_are_those_of_a_plain_transformers_forward(folders, retrievers, images):
    model = Qwen2VLForConditionalGeneration.from_pretrained(folders["qwen2_vl"])
    processor = Qwen2VLProcessor.from_pretrained(folders["qwen2_vl"])
    start = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    shown, end = "<|vision_start|><|image_pad|><|vision_end|>", "<|im_end|>\n<|im_start|>assistant\n"
    expected = [
        plain(model, processor, f"{start}<instruct> {TASK} <query>{text}\n{shown}{end}", image)
        for text, image in zip(TEXTS, images, strict=True)
    ]
    ours = retrievers["qwen2_vl"]
    np.testing.assert_allclose(ours.encode(images, TEXTS, instruction=TASK), expected, **SAME)
    np.testing.assert_allclose(
        ours.encode(texts=TEXTS), [plain(model, processor, f"{start}{text}\n{end}") for text in TEXTS], **SAME
    )


def test_qwen3_embeddings_are_those_of_a_plain_transformers_forward(folders, retrievers, images):
    model = AutoModelForImageTextToText.from_pretrained(folders["qwen3_vl"])
    processor = AutoProcessor.from_pretrained(folders["qwen3_vl"])
    shown, end = "<|vision_start|><|image_pad|><|vision_end|>", "<|im_end|>\n<|im_start|>assistant\n"
    expected = [
        plain(model, processor, f"<|im_start|>user\n<instruct> {TASK} <query>{text}\n{shown}{end}", image)
        for text, image in zip(TEXTS, images, strict=True)
    ]
    np.testing.assert_allclose(retrievers["qwen3_vl"].encode(images, TEXTS, instruction=TASK), expected, **SAME)


@pytest.mark.parametrize("with_images, with_texts", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("instruction", [None, TASK])
def test_batches_and_padding_do_not_change_a_row(retriever, images, with_images, with_texts, instruction):
    def rows(part, **more):
        return retriever.encode(
            images[part] if with_images else None, TEXTS[part] if with_texts else None, instruction=instruction, **more
        )

    together = rows(slice(None))
    assert together.dtype == np.float32 and together.shape == (5, retriever.dim)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(together, np.concatenate([rows(slice(i, i + 1)) for i in range(5)]), **SAME)
    np.testing.assert_allclose(together, rows(slice(None), batch_size=2), **SAME)


def test_padding_is_on_the_left_and_masked(retriever):
    inputs = retriever.inputs([retriever.prompt.fill(text) for text in TEXTS], None)
    mask = inputs["attention_mask"]
    assert mask[:, -1].all() and not mask[:, 0].all()
    assert (mask.diff(dim=1) >= 0).all()


def test_image_text_and_instruction_each_matter(retriever, images):
    base = retriever.encode(images[:1], TEXTS[:1], instruction=TASK)
    for other in (
        retriever.encode(images[1:2], TEXTS[:1], instruction=TASK),
        retriever.encode(images[:1], TEXTS[1:2], instruction=TASK),
        retriever.encode(images[:1], TEXTS[:1], instruction="find a picture"),
        retriever.encode(images[:1], TEXTS[:1]),
    ):
        assert np.abs(other - base).max() > 1e-3


def test_all_kinds_of_image_input_agree(retriever, images, tmp_path):
    buffer = io.BytesIO()
    images[0].save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    kinds = [images[0], buffer.getvalue(), tmp_path / "a.png", str(tmp_path / "a.png"), np.asarray(images[0])]
    rows = retriever.encode(images=kinds)
    np.testing.assert_allclose(rows, np.repeat(rows[:1], len(kinds), 0), **SAME)


# -- texts that are too long, or speak of images ----------------------------------------------------------------------


def test_long_texts_are_cut_and_counted_and_the_picture_is_whole(retriever, images):
    long = " ".join(["green"] * 900)
    before = retriever.truncated
    for shown in (images[:1], None):
        kept = retriever.cut([long], shown is not None, TASK)
        pictures = shown and retriever.pictures(shown)
        inputs = retriever.inputs([retriever.prompt.fill(kept[0], shown is not None, TASK)], pictures)
        assert CONTEXT - 4 <= inputs["input_ids"].shape[1] <= CONTEXT
        assert long.startswith(kept[0])
        end = retriever.processor.tokenizer(retriever.prompt.end, add_special_tokens=False)["input_ids"]
        assert inputs["input_ids"][0, -2:].tolist() == end[-2:]
    assert retriever.truncated == before + 2
    rows = retriever.encode(images[:2], [long, "a"])
    np.testing.assert_allclose(rows[1:], retriever.encode(images[1:2], ["a"]), **SAME)
    assert retriever.truncated == before + 3


def test_the_limit_on_a_text_is_a_choice(folders):
    retriever = MllmRetriever.load(folders["qwen2_vl"], "cpu", max_text_tokens=4)
    cut = retriever.cut(["0 1 2 3 4 5 6 7", "0 1"], False, None)
    assert len(retriever.processor.tokenizer(cut[0])["input_ids"]) == 4 and cut[1] == "0 1" and retriever.truncated == 1


def test_image_placeholders_inside_a_text_are_not_pictures(retriever, images):
    token = retriever.processor.image_token
    texts = [f"find {token} a picture", f"find {token[:4]}{token}{token[4:]} a picture"]
    rows = retriever.encode(images[:2], texts)
    np.testing.assert_allclose(rows, retriever.encode(images[:2], ["find  a picture"] * 2), **SAME)
    assert retriever.encode(texts=texts).shape == (2, retriever.dim)


def test_an_instruction_that_fills_the_context_is_refused(retriever):
    with pytest.raises(UserError, match="no room"):
        retriever.encode(texts=["a"], instruction="0 1 2 3 " * CONTEXT)


# -- loading ----------------------------------------------------------------------------------------------------------


def test_the_configuration_decides_which_retriever_is_loaded(folders, clip_folder):
    assert isinstance(mmret.Retriever.load(clip_folder, "cpu"), ClipRetriever)
    assert isinstance(mmret.Retriever.load(folders["llava_next"], "cpu"), MllmRetriever)


def test_models_that_are_no_retriever_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="type 'bert'; retrievers are of type clip, siglip, llava_next"):
        mmret.Retriever.load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither config.json"):
        mmret.Retriever.load(tmp_path / "empty")
    (tmp_path / "config.json").write_text('{"model_type": "llava_next"}')  # no weights
    with pytest.raises(UserError, match="cannot load an MLLM"):
        mmret.Retriever.load(tmp_path)


def test_a_folder_as_upstream_published_it_loads(folders, retrievers, images, tmp_path):
    """Weight names of transformers 4, a class of its own in the configuration, a processor that does not know how to
    count image tokens, and a preprocessor_config.json."""
    source = folders["llava_next"]
    old = {
        name.replace("vision_tower.", "vision_tower.vision_model."): weight
        for name, weight in load_file(source / "model.safetensors").items()
    }
    assert {
        "language_model.model.norm.weight",
        "language_model.lm_head.weight",
        "image_newline",
        "vision_tower.vision_model.embeddings.class_embedding",
    } <= set(old)
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config |= {"architectures": ["LLaVANextForEmbedding"], "auto_map": {"AutoModel": "modeling.LLaVANextForEmbedding"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = json.loads((source / "processor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor["image_processor"]))
    named = {"image_token": "<image>", "processor_class": "LlavaNextProcessor"}
    (tmp_path / "processor_config.json").write_text(json.dumps(named))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    expected = retrievers["llava_next"].encode(images, TEXTS, instruction=TASK)
    np.testing.assert_allclose(mmret.Retriever.load(tmp_path, "cpu").encode(images, TEXTS, instruction=TASK), expected, **SAME)


def test_an_adapter_is_merged_into_its_base(folders, images, tmp_path):
    peft = pytest.importorskip("peft")
    base = folders["qwen2_vl"]
    torch.manual_seed(1)
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "qkv"], init_lora_weights=False)
    adapted = peft.get_peft_model(AutoModelForImageTextToText.from_pretrained(base), settings)
    adapted.save_pretrained(tmp_path)
    retriever = mmret.Retriever.load(tmp_path, "cpu")
    with torch.no_grad():
        prompt = [retriever.prompt.fill(TEXTS[0], True, TASK)]
        inputs = AutoProcessor.from_pretrained(base)(text=prompt, images=[images[0].resize((512, 512))], return_tensors="pt")
        state = adapted.eval()(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
    row = retriever.encode(images[:1], TEXTS[:1], instruction=TASK)[0]
    np.testing.assert_allclose(row, (state / state.norm()).numpy(), **SAME)
    without = mmret.Retriever.load(base, "cpu").encode(images[:1], TEXTS[:1], instruction=TASK)[0]
    assert np.abs(row - without).max() > 1e-3


def test_precision_is_a_choice_and_by_default_the_checkpoints_own(folders, retrievers, images):
    half = mmret.Retriever.load(folders["llava_next"], "cpu", "bfloat16")
    assert half.model.dtype == torch.bfloat16 and retrievers["llava_next"].model.dtype == torch.float32
    rows = half.encode(images, TEXTS)
    assert rows.dtype == np.float32
    assert (np.sum(rows * retrievers["llava_next"].encode(images, TEXTS), axis=1) > 0.95).all()
    with pytest.raises(UserError, match="no dtype 'int8'"):
        mmret.Retriever.load(folders["llava_next"], "cpu", "int8")


# -- running ----------------------------------------------------------------------------------------------------------


def test_a_batch_that_does_not_fit_is_halved(retrievers, folders, images):
    class Small(MllmRetriever):
        def hidden(self, inputs):
            if len(inputs["input_ids"]) > 2:
                raise torch.OutOfMemoryError
            return super().hidden(inputs)

    small = Small.load(folders["llava_next"], "cpu")
    np.testing.assert_allclose(small.encode(images, TEXTS), retrievers["llava_next"].encode(images, TEXTS), **SAME)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({}, "neither"),
        ({"images": [b""], "texts": ["a", "b"]}, "1 and 2"),
        ({"texts": "one text"}, "takes lists"),
        ({"images": [b"no picture"]}, "cannot read"),
        ({"images": [3]}, "not int"),
    ],
)
def test_wrong_input_says_what_is_wrong(retrievers, arguments, said):
    with pytest.raises(UserError, match=said):
        retrievers["llava_next"].encode(**arguments)


def test_no_rows_give_an_empty_array_of_the_right_width(retriever):
    assert retriever.encode(texts=[]).shape == (0, retriever.dim)
    assert retriever.encode(images=[]).shape == (0, retriever.dim)
