"""Invariants: an embedder that brings its own prompts, pooling and lengths gives the vectors of its published code and of
sentence-transformers; training starts from those vectors, keeps how it is asked, and what is saved loads everywhere."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import normalize
from transformers import AutoModel, AutoProcessor

import mmret
from mmret import progress
from mmret.errors import UserError
from mmret.retriever.models.asked import read_asked
from mmret.retriever.models.kinds import embedding_digest, query_options
from mmret.retriever.models.merge import export_merged
from mmret.retriever.train.loop import train
from mmret.settings import Recipe
from mmret.tasks import TASKS
from tests.conftest import CHECKOUT
from tests.retriever.asked_folders import DEFAULT, by_hand, qwen3_vl_embedding, with_modules
from tests.retriever.mixtures import ALL, mixture
from tests.retriever.mllm_folders import qwen3_vl
from tests.retriever.runs import a_trainer, small
from tests.retriever.test_train import Killed, dying

pytest.importorskip("peft")
NEAR = 0.9999
TEXTS = ["make it green", "a", "a thing that is different in way and is times longer", "no hat", "{curly} braces and %s"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return qwen3_vl_embedding(tmp_path_factory.mktemp("Qwen3-VL-Embedding"))


@pytest.fixture(scope="module")
def shown():
    rng = np.random.default_rng(2)
    return [Image.fromarray(rng.integers(0, 255, (60, width, 3), dtype=np.uint8)) for width in (32, 64, 90, 128, 61)]


def published(folder, images=None, texts=None, instruction=DEFAULT, pool="last"):
    """The published code of Qwen3-VL-Embedding by transformers alone: padded on the right, the last position by the mask."""
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder, padding_side="right")
    conversations = []
    for row in range(len(images or texts)):
        content = [{"type": "image"}] if images else []
        content += [{"type": "text", "text": texts[row]}] if texts else []
        system = {"role": "system", "content": [{"type": "text", "text": instruction}]}
        conversations.append([system, {"role": "user", "content": content}])
    written = processor.apply_chat_template(conversations, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=written, images=images, padding=True, return_tensors="pt")
    with torch.no_grad():
        states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"]
    last = mask.shape[1] - mask.flip(dims=[1]).argmax(dim=1) - 1
    rows = {
        "last": lambda: states[torch.arange(len(states)), last],
        "cls": lambda: states[:, 0],
        "mean": lambda: (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True),
    }[pool]()
    return normalize(rows, dim=-1).numpy()


def agree(made, expected):
    made = made / np.linalg.norm(made, axis=1, keepdims=True)
    assert np.sum(made * expected, axis=1).min() >= NEAR


@pytest.mark.parametrize("parts", ["image", "text", "both"])
def test_vectors_are_those_of_the_published_code_and_of_sentence_transformers(folder, shown, parts):
    images, texts = shown if parts != "text" else None, TEXTS if parts != "image" else None
    ours = mmret.Retriever.load(folder, "cpu")
    agree(ours.encode(images, texts), published(folder, images, texts))
    agree(ours.encode(images, texts, instruction="find it."), published(folder, images, texts, "find it."))
    assert query_options(folder) == query_options(folder, composed=False) == {"instruction": DEFAULT}
    agree(ours.encode(images, texts, **query_options(folder)), published(folder, images, texts))
    theirs = pytest.importorskip("sentence_transformers").SentenceTransformer(str(folder), device="cpu")
    both = [{"image": image, "text": text} for image, text in zip(shown, TEXTS, strict=True)]
    agree(theirs.encode({"image": images, "text": texts, "both": both}[parts]), ours.encode(images, texts))


def test_it_is_another_model_than_the_same_weights_asked_by_the_familys_prompts(folder, shown, tmp_path):
    plain = qwen3_vl(tmp_path / "plain")
    assert read_asked(plain) is None and embedding_digest(plain) != embedding_digest(folder)
    assert np.abs(mmret.Retriever.load(plain, "cpu").encode(shown) - mmret.Retriever.load(folder, "cpu").encode(shown)).max() > 0.01
    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((other / "config_sentence_transformers.json").read_text())
    (other / "config_sentence_transformers.json").write_text(json.dumps(config | {"prompts": {"default": "Find it."}}))
    assert embedding_digest(other) != embedding_digest(folder)


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_other_poolings_and_fewer_dimensions_are_read_from_its_files(shown, tmp_path, mode):
    folder = with_modules(qwen3_vl(tmp_path / mode), {"pooling_mode": mode}, {"truncate_dim": 8})
    ours = mmret.Retriever.load(folder, "cpu")
    whole = published(folder, shown, TEXTS, pool=mode)[:, :8]
    made = ours.encode(shown, TEXTS)
    assert made.shape == (5, 8) and ours.dim == 8
    agree(whole, made)


def test_a_large_picture_is_made_smaller_in_its_own_shape(folder):
    ours = mmret.Retriever.load(folder, "cpu")
    (picture,) = ours.pictures([np.zeros((1000, 4000, 3), np.uint8)])
    assert picture.width * picture.height <= 1800 * 32 * 32 and picture.width / picture.height == pytest.approx(4, rel=0.01)
    assert ours.pictures([np.zeros((60, 90, 3), np.uint8)])[0].size == (90, 60)


# -- training ---------------------------------------------------------------------------------------------------------


def recipe(**changes):
    return small("mllm", **{"instruction": small("clip").instruction, "learning_rate": 5e-3, **changes})


@pytest.mark.parametrize("size", [(600, 2), (2, 600), (100_000, 1), (1, 100_000), (21_000, 105)])
def test_a_picture_too_narrow_for_the_processor_is_made_wider(folder, size):
    retriever = mmret.Retriever.load(folder, "cpu")
    made = retriever.pictures([Image.new("RGB", size)])[0]
    assert max(made.size) <= 200 * min(made.size) and made.width * made.height <= retriever.asked.max_pixels
    assert (made.width > made.height) == (size[0] > size[1])
    assert retriever.encode([Image.new("RGB", size)], ["a"]).shape == (1, 32)


def test_the_recipes_of_the_page_are_recipes():
    page = (CHECKOUT / "docs" / "training.md").read_text().partition("## Start from what is published")[2]
    (written,) = re.findall(r"^```yaml\n(recipes:.*?)^```$", page.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    recipes = yaml.safe_load(written)["recipes"]
    assert {Recipe.model_validate(values).kind for values in recipes.values()} == {"clip", "mllm"}


@pytest.mark.parametrize("instruction", [None, "find a picture"])
def test_before_the_first_step_training_embeds_as_the_published_code(folder, triplets, pictures, load, tmp_path, instruction):
    chosen = recipe() if instruction is None else recipe(instruction=instruction)
    trainer = a_trainer(chosen, folder, triplets, load, tmp_path, double=False)
    batch, embedder = trainer.data.batch(0), trainer.embedder
    parts, gather = embedder.parts(batch, embedder.read(batch))
    with torch.no_grad():
        queries, candidates = gather(*(torch.cat([part.encode(chunk) for chunk in part.chunks]) for part in parts))
    files = [mmret.retriever.models.clip.to_rgb(pictures[i]) for i in trainer.data.images.to_pylist()]
    asked = published(folder, [files[i] for i in batch.queries], batch.texts, instruction or DEFAULT)
    agree(queries.numpy(), asked)
    agree(candidates.numpy(), published(folder, [files[i] for i in batch.candidates]))


@pytest.fixture(scope="module")
def trained(folder, triplets, pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "adapter"
    train(recipe(), triplets, lambda ids: {i: pictures[i] for i in ids}, folder, out)
    return out


def test_a_trained_adapter_says_how_it_is_asked_and_so_does_the_merged_model(trained, folder, shown, tmp_path):
    ours = mmret.Retriever.load(trained, "cpu")
    rows = ours.encode(shown, TEXTS, **query_options(trained))
    assert query_options(trained) == {"instruction": DEFAULT} and (trained / "asked.json").is_file()
    assert np.abs(rows - mmret.Retriever.load(folder, "cpu").encode(shown, TEXTS)).max() > 1e-3  # it has learnt something
    export_merged(trained, tmp_path / "merged")
    merged = mmret.Retriever.load(tmp_path / "merged", "cpu")
    np.testing.assert_allclose(merged.encode(shown, TEXTS, **query_options(tmp_path / "merged")), rows, atol=1e-5)
    agree(published(tmp_path / "merged", shown, TEXTS), rows)
    library = pytest.importorskip("sentence_transformers")
    both = [{"image": image, "text": text} for image, text in zip(shown, TEXTS, strict=True)]
    for place in (trained, tmp_path / "merged"):
        theirs = library.SentenceTransformer(str(place), device="cpu")
        agree(theirs.encode_query(both), rows)
        agree(theirs.encode_document(shown), ours.encode(shown))
        agree(theirs.encode(TEXTS), ours.encode(texts=TEXTS))


def test_a_run_that_died_continues_to_bit_equal_adapters_and_goes_on_from_them(trained, folder, triplets, load, tmp_path):
    with pytest.raises(Killed, match="killed here"), dying(3):
        train(recipe(), triplets, load, folder, tmp_path / "broken")
    train(recipe(), triplets, load, folder, tmp_path / "broken")
    whole, broken = (load_file(place / "adapter_model.safetensors") for place in (trained, tmp_path / "broken"))
    assert whole.keys() == broken.keys() and all(torch.equal(whole[n], broken[n]) for n in whole)
    with progress.reporting(lambda *_: None):
        train(recipe(steps=1, instruction="find a picture"), triplets, load, trained, tmp_path / "second")
    assert query_options(tmp_path / "second") == {"instruction": "find a picture"}
    assert read_asked(tmp_path / "second").candidate == DEFAULT


def test_what_a_mixture_told_its_text_queries_is_what_they_are_told_later(folder, triplets, load, tmp_path):
    train(recipe(steps=2, tasks=ALL, batch_size=12), mixture(triplets), load, folder, tmp_path / "out")
    assert query_options(tmp_path / "out", composed=False) == {"instruction": TASKS["text_to_image"].instruction}
    assert query_options(tmp_path / "out") == {"instruction": DEFAULT}


def test_an_adapter_made_elsewhere_is_asked_as_its_base(folder, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    assert query_options(tmp_path) == {"instruction": DEFAULT}


# -- what is written by hand, and what is refused -----------------------------------------------------------------------


def test_prompts_published_as_code_are_written_down_by_hand(shown, tmp_path):
    """GME's, as the page has it: text behind the picture, and a further token at the end, whose state is the embedding."""
    (written,) = re.findall(r"^```json\n(.*?)^```$", (CHECKOUT / "docs" / "training.md").read_text(), re.MULTILINE | re.DOTALL)
    folder = by_hand(tmp_path / "gme", json.loads(written))
    ours = mmret.Retriever.load(folder, "cpu")
    assert ours.prompt.fill("T", True, "Find it.") == (
        "<|im_start|>system\nFind it.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>T<|im_end|>\n"
        "<|im_start|>assistant\n<|endoftext|>"
    )
    assert query_options(folder) == {"instruction": "Find an image that matches the given image and text."}
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    inputs = processor(text=[ours.prompt.fill(TEXTS[0], True)], images=shown[:1], return_tensors="pt")
    with torch.no_grad():
        state = model(**inputs).last_hidden_state[:, -1]
    agree(ours.encode(shown[:1], TEXTS[:1]), normalize(state, dim=-1).numpy())


def test_what_is_not_built_is_refused_in_one_sentence(tmp_path):
    def modules(name, further=(), pooling=None, config=None):
        (tmp_path / name).mkdir()
        return with_modules(tmp_path / name, pooling or {"pooling_mode": "lasttoken"}, config, further)

    own = [{"idx": 3, "name": "3", "path": "", "type": "custom_st.MultiModalTransformer"}]
    dense = [{"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}]
    for folder, said in (
        (modules("own", own), r"by code of its own \(custom_st.MultiModalTransformer\).*write how it is asked into asked.json"),
        (modules("dense", dense), "a module Dense behind its model"),
        (
            modules("weighted", (), {"pooling_mode_weightedmean_tokens": True}),
            "pools by 'weightedmean_tokens': there are",
        ),
        (modules("two", (), {"pooling_mode": ["mean", "cls"]}), r"pools by 'mean\+cls'"),
        (modules("without", (), {"pooling_mode": "mean", "include_prompt": False}), "leaves its prompt out of the mean"),
    ):
        with pytest.raises(UserError, match=said):
            read_asked(folder)
    lacking = modules("lacking")
    (lacking / "1_Pooling" / "config.json").unlink()
    with pytest.raises(UserError, match="lacks 1_Pooling/config.json, which modules.json names"):
        read_asked(lacking)
    untold = modules("untold")
    (untold / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        read_asked(untold)
    (untold / "modules.json").write_text("[{")
    with pytest.raises(UserError, match="modules.json is damaged"):
        read_asked(untold)
    (untold / "asked.json").write_text('{"template": "x", "prompt": "y"}')
    with pytest.raises(UserError, match="asked.json has prompt, which means nothing there"):
        read_asked(untold)


def test_a_hub_name_is_asked_as_its_files_in_the_cache_say(folder, tmp_path, monkeypatch):
    cached = tmp_path / "models--Qwen--Qwen3-VL-Embedding-2B"
    shutil.copytree(folder, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert read_asked("Qwen/Qwen3-VL-Embedding-2B") == read_asked(folder)
    assert read_asked("Qwen/Qwen2-VL-2B-Instruct") is None
