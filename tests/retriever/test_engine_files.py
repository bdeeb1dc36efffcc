"""Invariants: sentence-transformers makes our vectors of every kind of checkpoint, whole or adapter, by the lines of the page;
the files by which it does so are of no weight."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from PIL import Image
from transformers import AutoModelForImageTextToText

import mmret
from mmret.errors import UserError
from mmret.retriever.models.clip import ClipRetriever
from mmret.retriever.models.engine_files import chat_template, write_engine_files
from mmret.retriever.models.load import TEXT_INSTRUCTION, embedding_digest
from mmret.retriever.models.mllm import load_processor
from mmret.retriever.models.mllm_prompts import prompts
from tests.docs import engines
from tests.retriever.mllm_folders import EVERY_FAMILY

NEAR = 0.999999
TASK = "find a picture,\n'quoted', with {braces}"
TEXTS = ["make it green", "a", "find <ima<image>ge> a <|image_pad|> picture", "quotes ' \" {{ x }} {% raw %} \\n \n", "雪"]


pytestmark = pytest.mark.usefixtures("one_thread")


# -- the template -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", prompts())
def test_the_template_writes_the_prompt_to_the_character(family):
    prompt, placeholders = prompts()[family], ["<image>", "<|pad|>"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as transformers and vLLM compile it
    template = environment.from_string(chat_template(prompt, placeholders))
    assert "for part in message.content" in chat_template(prompt, placeholders)  # else vLLM takes it for one of plain strings
    texts = ["T", "", " a \n b ", "it's {text} {{ x }} {% if %} \"'\\n\\", "雪"]
    for text in (None, *texts):
        for image in (False, True):
            for instruction in (None, "", "do {this}", "it's\n"):
                if text is None and not image:
                    continue
                parts = [{"type": "text", "text": text}] * (text is not None) + [{"type": "image"}] * image
                asked = [] if instruction is None else [{"role": "system", "content": instruction}]
                for content in (parts, parts[::-1]):
                    written = template.render(messages=[*asked, {"role": "user", "content": content}])
                    assert written == prompt.fill(text, image, instruction)
    assert template.render(messages=[{"role": "user", "content": "T"}]) == prompt.fill("T")
    joined = [{"role": "user", "content": [{"type": "text", "text": "<im<|pad|>age> <<image>image> x <image><image>"}]}]
    assert template.render(messages=joined) == prompt.fill("  x ")


# -- MLLM -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=EVERY_FAMILY)
def whole(request, tmp_path_factory):
    folder = EVERY_FAMILY[request.param](tmp_path_factory.mktemp(request.param))
    write_engine_files(folder, TASK)
    return folder


@pytest.fixture(scope="module")
def adapter(whole, tmp_path_factory):
    peft = pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "qkv"], init_lora_weights=False)
    peft.get_peft_model(AutoModelForImageTextToText.from_pretrained(whole), settings).save_pretrained(folder)
    load_processor(whole).save_pretrained(folder)
    write_engine_files(folder, TASK)
    return folder


def agree(folder):
    """Whether sentence-transformers makes the vectors of :meth:`MllmRetriever.encode` of the checkpoint in ``folder``."""
    theirs = pytest.importorskip("sentence_transformers").SentenceTransformer(str(folder), device="cpu")
    ours = mmret.Retriever.load(folder, "cpu")
    rng = np.random.default_rng(2)
    pictures = [Image.fromarray(rng.integers(0, 255, (60, width, 3), dtype=np.uint8)) for width in (30, 60, 90, 200, 61)]
    squashed = [picture.resize((ours.prompt.image_size,) * 2) for picture in pictures]
    both = [{"text": text, "image": picture} for text, picture in zip(TEXTS, squashed, strict=True)]
    for made, expected in (
        (theirs.encode_document(squashed), ours.encode(pictures)),
        (theirs.encode_document(TEXTS), ours.encode(texts=TEXTS)),
        (theirs.encode_document(both), ours.encode(pictures, TEXTS)),
        (theirs.encode_query(squashed), ours.encode(pictures, instruction=TASK)),
        (theirs.encode_query(both), ours.encode(pictures, TEXTS, instruction=TASK)),
        (theirs.encode(TEXTS, prompt_name="text_query"), ours.encode(texts=TEXTS, instruction=TEXT_INSTRUCTION)),
    ):
        assert engines.cosine(made, expected) > NEAR
    assert engines.cosine(theirs.encode_document(pictures), ours.encode(pictures)) < NEAR, "squashing is the caller's"
    return theirs, ours


def test_a_whole_model_gives_our_vectors_padded_on_the_left(whole):
    theirs, _ = agree(whole)
    mask = theirs.preprocess(TEXTS)["attention_mask"]
    assert mask[:, -1].all() and not mask[:, 0].all()


def test_an_adapter_gives_our_vectors(adapter, whole):
    _, ours = agree(adapter)
    assert np.abs(ours.encode(texts=TEXTS) - mmret.Retriever.load(whole, "cpu").encode(texts=TEXTS)).max() > 1e-3


def test_in_bfloat16_the_direction_is_ours_and_the_length_nearly_one(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    folder = EVERY_FAMILY["qwen2_vl"](tmp_path / "model")
    AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    write_engine_files(folder)
    made = library.SentenceTransformer(str(folder), device="cpu").encode_document(TEXTS)
    lengths = np.linalg.norm(made, axis=1, keepdims=True)
    np.testing.assert_allclose(lengths, 1, atol=5e-3)
    assert engines.cosine(made / lengths, mmret.Retriever.load(folder, "cpu").encode(texts=TEXTS)) > 0.9999


def test_the_lines_of_the_page_make_our_vectors_of_a_merged_model_and_of_an_adapter(whole, adapter, tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path)
    engines.save_picture(tmp_path)
    for folder in (whole, adapter):
        os.symlink(folder, "mmret-mllm")
        made = engines.run("What is asked", "An MLLM: what is the caller's", "An MLLM in sentence-transformers")
        ours, picture, text = mmret.Retriever.load(folder, "cpu"), [engines.PICTURE], [made["text"]]
        assert engines.cosine(made["query_vector"], ours.encode(picture, text, instruction=TASK)) > NEAR
        assert engines.cosine(made["text_query_vector"], ours.encode(texts=text, instruction=TEXT_INSTRUCTION)) > NEAR
        assert engines.cosine(made["candidate_vector"], ours.encode(picture)) > NEAR
        os.unlink("mmret-mllm")


def test_files_added_to_a_checkpoint_leave_its_digest(tmp_path, monkeypatch):
    folder = EVERY_FAMILY["qwen2_vl"](tmp_path / "mmret-older")
    before = embedding_digest(folder), {path.name for path in folder.iterdir()}
    (folder / "recipe.json").write_text(json.dumps({"recipe": {"instruction": "find it"}}))
    monkeypatch.chdir(tmp_path)
    engines.run("The files")
    assert embedding_digest(folder) == before[0] and (folder / "modules.json").is_file()
    asked = json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]
    assert asked == {"query": "find it", "text_query": TEXT_INSTRUCTION, "document": ""}


def test_another_kind_and_a_template_that_would_win_are_refused(tmp_path, clip_folder):
    with pytest.raises(UserError, match="type 'clip': these files are for llava_next, "):
        write_engine_files(clip_folder)
    folder = EVERY_FAMILY["qwen2_vl"](tmp_path / "old")
    (folder / "chat_template.json").write_text('{"chat_template": "x"}')
    with pytest.raises(UserError, match=r"chat_template.json would be read instead .* delete it, or move it away"):
        write_engine_files(folder)


# -- CLIP -------------------------------------------------------------------------------------------------------------


def test_the_lines_of_the_page_make_our_vectors_of_a_clip_checkpoint(clip_folder, tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path)
    engines.save_picture(tmp_path)
    ours = ClipRetriever.load(clip_folder, "cpu")
    ours.save(tmp_path / "mmret-clip")
    made = engines.run("What is asked", "CLIP in sentence-transformers")
    picture, text = [engines.PICTURE], [made["text"]]
    assert engines.cosine(made["image_vector"], ours.encode(picture)) > NEAR
    assert engines.cosine(made["text_vector"], ours.encode(texts=text)) > NEAR
    assert engines.cosine(made["vector"], ours.encode(picture, text)) > NEAR
