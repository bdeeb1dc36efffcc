"""Invariants: embeddings are the paper's formula on the stock model; any kind of picture gives the same vector; long
texts are cut and counted; saved folders load with stock classes and with sentence-transformers."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

import mmret
from mmret.errors import UserError
from mmret.quantise import shorten
from mmret.retriever.models.clip import ClipRetriever, _like_lengths, feature_tensor

TEXTS = ["make it green", "with a darker tone", "a red square left of a blue circle"]


@pytest.fixture
def retriever(clip_folder):
    return mmret.Retriever.load(clip_folder, device="cpu")


@pytest.fixture
def files(pictures):
    return list(pictures.values())[:3]


def stock(folder, files, texts):
    """The formula of paper.md, section 2, on stock classes only."""
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    images = [Image.open(io.BytesIO(f)) for f in files]
    with torch.no_grad():
        image = feature_tensor(model.get_image_features(**processor(images=images, return_tensors="pt")))
        text = feature_tensor(model.get_text_features(**processor(text=texts, padding=True, return_tensors="pt")))
    return {
        name: (x / x.norm(dim=-1, keepdim=True)).numpy()
        for name, x in (("image", image), ("text", text), ("composed", image + text))
    }


def test_embeddings_equal_the_formula_on_the_stock_model(retriever, clip_folder, files):
    expected = stock(clip_folder, files, TEXTS)
    np.testing.assert_allclose(retriever.encode(images=files), expected["image"], atol=1e-6)
    np.testing.assert_allclose(retriever.encode(texts=TEXTS), expected["text"], atol=1e-6)
    np.testing.assert_allclose(retriever.encode(images=files, texts=TEXTS), expected["composed"], atol=1e-6)


def test_single_modality_equals_the_forward_pass_of_the_stock_model(retriever, clip_folder, files):
    model, processor = CLIPModel.from_pretrained(clip_folder).eval(), CLIPProcessor.from_pretrained(clip_folder)
    images = [Image.open(io.BytesIO(f)) for f in files]
    with torch.no_grad():
        out = model(**processor(text=TEXTS, images=images, padding=True, return_tensors="pt"))
    np.testing.assert_allclose(retriever.encode(images=files), out.image_embeds.numpy(), atol=1e-6)
    np.testing.assert_allclose(retriever.encode(texts=TEXTS), out.text_embeds.numpy(), atol=1e-6)


def test_composition_sums_projections_before_normalising(retriever, files):
    unit = retriever.encode(images=files) + retriever.encode(texts=TEXTS)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert np.abs(unit - retriever.encode(images=files, texts=TEXTS)).max() > 1e-4  # else the first test were vacuous


def test_batching_does_not_change_vectors(retriever, files):
    np.testing.assert_allclose(retriever.encode(files, TEXTS, batch_size=2), retriever.encode(files, TEXTS), atol=1e-6)


def test_every_kind_of_picture_gives_the_same_vector(retriever, files, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(files[0])
    picture = Image.open(path).convert("RGB")
    kinds = [files[0], path, str(path), picture, np.asarray(picture), picture.convert("RGBA")]
    vectors = retriever.encode(images=kinds)
    np.testing.assert_allclose(vectors, np.repeat(vectors[:1], len(kinds), axis=0), atol=1e-6)


def test_texts_over_the_limit_are_cut_at_it_and_counted(retriever):
    short, limit = "with a darker tone", retriever.model.config.text_config.max_position_embeddings
    long = " ".join(["green"] * 10_000)
    vectors = retriever.encode(texts=[short, long, " ".join(["green"] * limit)])
    assert retriever.truncated == 2
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(vectors[1], vectors[2], atol=1e-6)
    (ids,) = retriever.tokens([long])
    assert len(ids) == limit and ids[-1] == retriever.processor.tokenizer.eos_token_id


def test_a_text_of_exactly_the_limit_is_not_counted(retriever):
    limit = retriever.model.config.text_config.max_position_embeddings
    word = next(w for w in ("green", "a", "it") if len(retriever.processor.tokenizer(w)["input_ids"]) == 3)
    assert [len(row) for row in retriever.tokens([" ".join([word] * (limit - 2))])] == [limit]
    assert retriever.truncated == 0


def test_grouping_texts_by_length_keeps_their_order(retriever):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["green", "a", "circle", "left"], rng.integers(1, 15))) for _ in range(150)]
    assert len(_like_lengths(sorted(len(row) for row in retriever.tokens(texts)))) > 1
    one_by_one = np.concatenate([retriever.encode(texts=[t]) for t in texts])
    np.testing.assert_allclose(retriever.encode(texts=texts, batch_size=150), one_by_one, atol=1e-6)


@pytest.mark.parametrize("lengths", [[], [3], [3] * 40, [3] * 40 + [9] * 5, list(range(1, 200))])
def test_groups_of_like_length_cover_everything(lengths):
    groups = _like_lengths(lengths)
    assert [i for start, end in groups for i in range(start, end)] == list(range(len(lengths)))
    assert len(groups) == 1 or min(end - start for start, end in groups) >= 32


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({}, "neither"),
        ({"images": [b""], "texts": ["a", "b"]}, "1 and 2"),
        ({"texts": "one text"}, "takes lists"),
        ({"images": [b"no picture"]}, "cannot read"),
        ({"images": ["no/such/file.png"]}, "cannot read"),
        ({"images": [np.zeros((4, 4, 3))]}, "uint8"),
        ({"images": [3]}, "not int"),
    ],
)
def test_wrong_input_says_what_is_wrong(retriever, arguments, said):
    with pytest.raises(UserError, match=said):
        retriever.encode(**arguments)


def test_no_rows_give_an_empty_array_of_the_right_width(retriever):
    assert retriever.encode(texts=[]).shape == (0, retriever.dim)


def test_another_model_type_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="bert"):
        ClipRetriever.load(tmp_path)
    with pytest.raises(UserError, match="cannot load"):
        ClipRetriever.load(tmp_path / "nothing")


def test_a_saved_folder_loads_with_stock_classes_and_ours(retriever, files, tmp_path):
    retriever.save(tmp_path)
    expected = stock(tmp_path, files, TEXTS)["composed"]
    np.testing.assert_allclose(retriever.encode(files, TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(ClipRetriever.load(tmp_path, "cpu").encode(files, TEXTS), expected, atol=1e-6)
    assert (tmp_path / "preprocessor_config.json").is_file()  # the name transformers 4 reads


def test_a_saved_folder_loads_with_sentence_transformers(retriever, files, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    retriever.save(tmp_path)
    model = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    images = [Image.open(io.BytesIO(f)) for f in files]
    np.testing.assert_allclose(model.encode(images), retriever.encode(images=files), atol=1e-5)
    np.testing.assert_allclose(model.encode(TEXTS), retriever.encode(texts=TEXTS), atol=1e-5)
    long = " ".join(["green"] * 200)
    np.testing.assert_allclose(model.encode([long]), retriever.encode(texts=[long]), atol=1e-5)
    assert model.truncate_dim is None, "whole vectors, whatever lengths were trained"
    short = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu", truncate_dim=5)
    expected = shorten(retriever.encode(images=files), 5)
    np.testing.assert_allclose(short.encode(images, normalize_embeddings=True), expected, atol=1e-5)


def test_half_precision_is_a_choice(clip_folder, files):
    half = ClipRetriever.load(clip_folder, device="cpu", dtype="bfloat16")
    full = ClipRetriever.load(clip_folder, device="cpu")
    assert half.encode(files, TEXTS).dtype == np.float32
    np.testing.assert_allclose(half.encode(files, TEXTS), full.encode(files, TEXTS), atol=0.05)


UPSTREAM = """
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

def features(output):
    return output if isinstance(output, torch.Tensor) else output.pooler_output

class UpstreamCLIP(CLIPModel):
    def set_processor(self, name):
        self.processor = CLIPProcessor.from_pretrained(name)

    def data_process(self, images=None, text=None):
        pictures = None if images is None else [Image.open(path).convert("RGB") for path in images]
        return self.processor(text=text, images=pictures, return_tensors="pt", padding=True)

    def encode(self, images=None, text=None):
        inputs, total = self.data_process(images, text), 0
        if text is not None:
            total = total + features(self.get_text_features(inputs["input_ids"], inputs["attention_mask"]))
        if images is not None:
            total = total + features(self.get_image_features(inputs["pixel_values"]))
        return torch.nn.functional.normalize(total, dim=-1)
"""
"""Code in a checkpoint's folder, as BGE-VL ships it: a subclass of CLIPModel that takes paths and sums features."""


def test_folders_are_exchanged_with_upstreams_remote_code(retriever, files, tmp_path, tmp_path_factory, monkeypatch):
    """Ours loads under upstream's class through ``trust_remote_code``, and a folder as released loads into ours."""
    import json

    from transformers import AutoModel

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
    retriever.save(tmp_path)
    (tmp_path / "modeling_upstream_clip.py").write_text(UPSTREAM)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_upstream_clip.UpstreamCLIP"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    paths = []
    for n, data in enumerate(files):
        paths.append(tmp_path / f"{n}.png")
        paths[-1].write_bytes(data)
    upstream = AutoModel.from_pretrained(str(tmp_path), trust_remote_code=True).eval()
    upstream.set_processor(str(tmp_path))
    ours = mmret.Retriever.load(tmp_path, device="cpu")
    with torch.no_grad():
        for images, texts in ((paths, None), (None, TEXTS), (paths, TEXTS)):
            theirs = upstream.encode(images, texts).numpy()
            np.testing.assert_allclose(ours.encode(images, texts), theirs, atol=1e-6)
            np.testing.assert_allclose(retriever.encode(images, texts), theirs, atol=1e-6)


def test_every_weight_has_the_stock_name_and_nothing_is_added(retriever, clip_folder, tmp_path):
    from safetensors import safe_open

    retriever.save(tmp_path)

    def names(folder):
        with safe_open(folder / "model.safetensors", "pt") as file:
            return set(file.keys())

    assert (
        names(tmp_path)
        == names(clip_folder)
        == set(CLIPModel.from_pretrained(clip_folder).state_dict())
        - {n for n, _ in CLIPModel.from_pretrained(clip_folder).named_buffers()}
    )
    model, info = CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
