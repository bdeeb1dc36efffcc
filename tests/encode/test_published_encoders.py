"""Kinds siglip, dinov3, vision and sentence_transformers: equal to the library's own vectors, named by all that makes a vector, and
one sentence for what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mmret.encode.protocol import Encoder, load_encoder
from mmret.errors import UserError
from mmret.settings import EncoderSettings, load_profile
from mmret.stages import STAGES
from tests.encode import tiny_models
from tests.encode.conftest import encoded, noise

TEXTS = ["a large red cat", "", "A Small BLUE star, isn't it?", "ein roter Hund 🦆", "small blue cats"]
SIZES = [(61, 47), (47, 61), (32, 32), (33, 200), (20, 24)]


def load(kind: str, folder: Path, signal: str = "dino_image", **settings: Any) -> Encoder:
    return load_encoder(EncoderSettings(kind=kind, model=str(folder), device="cpu", **settings), signal, Path("/nowhere"))


def pictures() -> list[Any]:
    return [noise(i, size) for i, size in enumerate(SIZES)]


def equal(made: np.ndarray, wanted: torch.Tensor, apart: float = 0.01) -> None:
    wanted = normalize(wanted.detach()).numpy()
    assert np.abs(made - wanted).max() < 2e-6
    assert np.ptp(wanted @ wanted.T) > apart  # else any vectors would pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Function from the name of a tiny model to its folder, made when first asked for."""
    root, networks = tmp_path_factory.mktemp("tiny"), {}

    def folder(name: str) -> Path:
        if not (root / name).exists():
            if hasattr(tiny_models, name):
                return getattr(tiny_models, name)(root / name)
            if not networks:
                networks.update(tiny_models.towers())
            network, processor = networks[name]
            tiny_models.save(root / name, network, *([processor] if processor else []))
        return root / name if name != "sentence_transformer" else root / name / "model"

    return folder


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
@torch.inference_mode()
def test_both_towers_of_siglip_equal_the_library_with_its_own_processor(made: Callable[[str], Path], name: str) -> None:
    from transformers import AutoProcessor, SiglipImageProcessorPil, SiglipModel

    encoder, model = load("siglip", made(name), "caption"), SiglipModel.from_pretrained(made(name)).eval()
    pixels = SiglipImageProcessorPil.from_pretrained(made(name))(pictures(), return_tensors="pt").pixel_values
    equal(encoder.encode_images(pictures()), model.get_image_features(pixels).pooler_output)
    processor = AutoProcessor.from_pretrained(made(name))
    texts = [text.lower() for text in TEXTS] if name == "siglip2" else TEXTS  # SigLIP's own tokenizer lower-cases
    tokens = processor(text=texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    assert tokens.input_ids.shape == (len(TEXTS), 16)
    equal(encoder.encode_texts(TEXTS), model.get_text_features(**tokens).pooler_output)
    assert encoder.encode_texts(["A RED CAT"]) == pytest.approx(encoder.encode_texts(["a red cat"]), abs=1e-6)
    assert encoder.width == 32 and encoder.encode_texts([]).shape == (0, 32)


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_texts_beyond_siglip_s_positions_are_told(made: Callable[[str], Path], name: str) -> None:
    encoder = load("siglip", made(name), "caption")
    long = "small red stars " * 20
    assert encoder.truncated(["a cat", long, ""]) == [False, True, False] and encoder.truncated([]) == []
    count = len(encoder.tokenizer("red cats").input_ids)
    fits = " ".join(["red cats"] * (16 // count))
    assert encoder.truncated([fits]) == [False]


@pytest.mark.parametrize(
    ("name", "kind", "pooling", "marked"),
    [
        ("registers", "vision", None, "class_token"),
        ("registers", "vision", "mean", "mean"),
        ("dinov3", "dinov3", None, "class_token"),
        ("dinov3", "vision", "mean", "mean"),
        ("dinov3_convnext", "dinov3", None, "class_token"),
        ("vit", "vision", "class_token", "class_token"),
        ("vit", "vision", "mean", "mean"),
        ("vit", "vision", "pooler", "pooler"),
        ("ijepa", "vision", None, "mean"),
        ("swin", "vision", None, "pooler"),
        ("convnext", "vision", None, "pooler"),
        ("convnext", "vision", "mean", "mean"),
        ("siglip_vision", "vision", None, "pooler"),
        ("timm", "vision", None, "class_token"),
        ("siglip", "vision", None, "projection"),
    ],
)
@torch.inference_mode()
def test_a_vision_tower_equals_the_library_by_the_pooling_that_is_named(
    made: Callable[[str], Path], name: str, kind: str, pooling: str | None, marked: str
) -> None:
    from transformers import AutoImageProcessor, AutoModel

    encoder, model = load(kind, made(name), pooling=pooling), AutoModel.from_pretrained(made(name)).eval()
    processor = AutoImageProcessor.from_pretrained(made(name), backend="pil")
    pixels = torch.cat([processor(picture, return_tensors="pt").pixel_values for picture in pictures()])
    output = model.get_image_features(pixels) if marked == "projection" else model(pixels)
    before = {"registers": 5, "dinov3": 4, "vit": 1}.get(name, 0)  # class token and registers
    maps = output.last_hidden_state.dim() == 4
    wanted = {
        "class_token": lambda: output.last_hidden_state[:, 0],
        "mean": lambda: output.last_hidden_state.mean((2, 3)) if maps else output.last_hidden_state[:, before:].mean(1),
        "pooler": lambda: output.pooler_output.flatten(1),
        "projection": lambda: output.pooler_output,
    }[marked]()
    equal(encoder.encode_images(pictures()), wanted, apart=0.001)
    assert encoder.model.startswith(f"{name}@") and encoder.model.endswith(f"+{marked}")
    stacked = torch.stack([encoder.preprocess(encoded(picture)) for picture in pictures()])
    assert np.array_equal(encoder.encode_images(stacked), encoder.encode_images(pictures()))
    assert encoder.encode_images([]).shape == (0, encoder.width)


def test_a_pooling_is_asked_for_where_several_are_sensible_and_refused_where_the_weights_have_it_not(
    made: Callable[[str], Path],
) -> None:
    with pytest.raises(UserError, match="'vit' of encoders.dino_image: set encoders.*pooling to one of class_token, mean, pooler"):
        load("vision", made("vit"))
    with pytest.raises(UserError, match="set encoders.*pooling to one of class_token, mean: "):  # its pooler would be random
        load("vision", made("vit_for_classes"))
    with pytest.raises(UserError, match="no pooling 'pooler', only class_token, mean"):
        load("vision", made("vit_for_classes"), pooling="pooler")
    with pytest.raises(UserError, match="no pooling 'class_token', only mean, pooler"):
        load("vision", made("swin"), pooling="class_token")


def test_what_gives_no_vector_or_each_time_another_is_refused(made: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ViTMAEModel hides parts of a picture at random"):
        load("vision", made("masked"), pooling="mean")
    with pytest.raises(UserError, match="config.json is of a model 'vit', and kind dinov3 is for dinov3_vit and dinov3_convnext"):
        load("dinov3", made("vit"))
    with pytest.raises(UserError, match="config.json is of a model 'vit', not of SigLIP|no tokenizer.json"):
        load("siglip", made("vit"))
    with pytest.raises(UserError, match="dinov3', which has no text tower: use .*siglip"):
        load("dinov3", made("dinov3"), "caption")
    shapes = shutil.copytree(made("vit"), tmp_path / "shapes")
    config = json.loads((shapes / "preprocessor_config.json").read_text())
    (shapes / "preprocessor_config.json").write_text(json.dumps(config | {"size": {"longest_edge": 32}}))
    with pytest.raises(UserError, match="image processor.*(own shapes|cannot be used)|could not be loaded"):
        load("vision", shapes, pooling="mean")
    naflex = shutil.copytree(made("siglip2"), tmp_path / "naflex")
    config = json.loads((naflex / "config.json").read_text())
    (naflex / "config.json").write_text(json.dumps(config | {"model_type": "siglip2"}))
    with pytest.raises(UserError, match="naflex is a SigLIP 2 model for pictures of any shape.*fixed resolution"):
        load("siglip", naflex)


@pytest.mark.parametrize(
    ("name", "kind", "file"),
    [
        ("siglip", "siglip", "config.json"),
        ("siglip", "siglip", "model.safetensors"),
        ("siglip", "siglip", "processor_config.json"),
        ("siglip", "siglip", "spiece.model"),
        ("dinov3", "dinov3", "preprocessor_config.json"),
        ("dinov3", "vision", "model.safetensors"),
        ("sentence_transformer", "sentence_transformers", "modules.json"),
        ("sentence_transformer", "sentence_transformers", "1_Pooling/config.json"),
        ("sentence_transformer", "sentence_transformers", "2_Dense/config.json"),
        ("sentence_transformer", "sentence_transformers", "config.json"),
        ("sentence_transformer", "sentence_transformers", "model.safetensors"),
        ("sentence_transformer", "sentence_transformers", "tokenizer.json"),
        ("sentence_transformer", "sentence_transformers", "2_Dense/model.safetensors"),
    ],
)
def test_a_file_that_is_missing_is_named_in_one_sentence(
    made: Callable[[str], Path], tmp_path: Path, name: str, kind: str, file: str
) -> None:
    folder = shutil.copytree(made(name), tmp_path / "copy")
    (folder / file).unlink()
    with pytest.raises(UserError) as told:  # noqa: PT011
        load(kind, folder, "caption" if kind == "sentence_transformers" else "clip_image")
    assert file in str(told.value) and "\n" not in str(told.value), told.value


def test_weights_in_parts_are_read_and_a_part_that_is_missing_is_named(made: Callable[[str], Path], tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = shutil.copytree(made("dinov3"), tmp_path / "parts")
    whole = load("dinov3", folder).encode_images(pictures())
    (folder / "model.safetensors").unlink()
    AutoModel.from_pretrained(made("dinov3")).save_pretrained(folder, max_shard_size="20kB")
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 1 and np.array_equal(load("dinov3", folder).encode_images(pictures()), whole)
    parts[1].unlink()
    with pytest.raises(UserError, match=f"has no {parts[1].name}, one of the parts that model.safetensors.index.json names"):
        load("dinov3", folder)


def test_weights_that_lack_a_tensor_are_refused(made: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name, kind in (("siglip", "siglip"), ("registers", "vision")):
        folder = shutil.copytree(made(name), tmp_path / name)
        tensors = load_file(folder / "model.safetensors")
        gone = next(key for key in sorted(tensors) if key.endswith("mlp.fc1.weight"))
        save_file({key: value for key, value in tensors.items() if key != gone}, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=f"lack 1 of the tensors.*{gone}"):
            load(kind, folder)


@pytest.mark.parametrize(
    ("settings", "prompt"), [({}, ""), ({"prompt_name": "query"}, "query: "), ({"prompt": "name of "}, "name of ")]
)
def test_a_sentence_transformer_equals_the_library_with_and_without_prompts(
    made: Callable[[str], Path], settings: dict[str, str], prompt: str
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = made("sentence_transformer")
    encoder, model = load("sentence_transformers", folder, "caption", **settings), SentenceTransformer(str(folder), device="cpu")
    equal(encoder.encode_texts(TEXTS), torch.from_numpy(model.encode(TEXTS, prompt=prompt)))
    assert encoder.width == 20 and encoder.encode_texts([]).shape == (0, 20)
    one = load("sentence_transformers", folder, "caption", batch_size=1, **settings)
    assert np.allclose(one.encode_texts(TEXTS), encoder.encode_texts(TEXTS), atol=1e-5)
    assert encoder.model == one.model and ("+prompt-" in encoder.model) == bool(prompt)
    words = 12 - 2 - len(model.tokenizer(prompt, add_special_tokens=False).input_ids)
    assert encoder.truncated([" ".join(["red"] * words), " ".join(["red"] * (words + 1)), ""]) == [False, True, False]
    assert encoder.truncated([]) == []


def test_prompts_make_other_models_and_the_default_prompt_of_a_model_is_used(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made("sentence_transformer"), tmp_path / made("sentence_transformer").name)
    named = {name: load("sentence_transformers", folder, "caption", prompt_name=name) for name in ("query", "plain")}
    plain = load("sentence_transformers", folder, "caption")
    assert named["plain"].model == plain.model != named["query"].model
    with pytest.raises(UserError, match="prompt_name is 'passage', and the prompts of model are: query, document, plain"):
        load("sentence_transformers", folder, "caption", prompt_name="passage")
    file = folder / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"default_prompt_name": "query"}))
    default = load("sentence_transformers", folder, "caption")
    assert np.array_equal(default.encode_texts(TEXTS), named["query"].encode_texts(TEXTS))
    assert np.abs(default.encode_texts(TEXTS) - plain.encode_texts(TEXTS)).max() > 0.01
    assert default.model.partition("+")[2] == named["query"].model.partition("+")[2]


def test_a_sentence_transformer_is_for_captions_and_needs_its_library(
    made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made("sentence_transformer")
    with pytest.raises(UserError, match="encoders.clip_image.kind is 'sentence_transformers', which reads texts"):
        load("sentence_transformers", folder, "clip_image")
    encoder = load("sentence_transformers", folder, "caption")
    for refused in (lambda: encoder.preprocess(encoded(noise(0))), lambda: encoder.encode_images([noise(0)])):
        with pytest.raises(UserError, match="sees no pictures"):
            refused()
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"need the extra 'text': pip install 'mmret\[text\]'"):
        load("sentence_transformers", folder, "caption")


def test_siglip_s_tokenizer_names_its_extra_where_sentencepiece_is_missing(
    made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(*_: Any) -> None:
        raise ImportError("SiglipTokenizer requires the SentencePiece library")

    monkeypatch.setattr("mmret.encode.siglip.AutoTokenizer.from_pretrained", without)
    with pytest.raises(UserError, match=r"needs the extra 'siglip': pip install 'mmret\[siglip\]'"):
        load("siglip", made("siglip"))


def test_a_folder_as_timm_itself_saves_it_is_read(tmp_path: Path) -> None:
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    size = {"img_size": 32, "depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 8}
    model = timm.create_model("vit_tiny_patch16_224", **size).eval()
    save_for_hf(model, tmp_path / "timm")
    with pytest.raises(UserError, match="could not be loaded.*num_classes"):  # which timm notes and transformers does not take
        load("vision", tmp_path / "timm", pooling="class_token")
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    config["model_args"] = size
    config["pretrained_cfg"]["input_size"] = [3, 64, 64]
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"could not be loaded.*Input height \(64\) doesn't match model \(32\)"):
        load("vision", tmp_path / "timm", pooling="class_token")
    config["pretrained_cfg"]["input_size"] = [3, 32, 32]
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    encoder = load("vision", tmp_path / "timm", pooling="class_token")
    shown = timm.data.create_transform(**timm.data.resolve_data_config(config["pretrained_cfg"]))
    with torch.inference_mode():
        wanted = model.forward_features(torch.stack([shown(picture) for picture in pictures()]))[:, 0]
    equal(encoder.encode_images(pictures()), wanted, apart=0.001)


def test_parts_of_weights_are_fetched_from_the_hub(
    made: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import EntryNotFoundError
    from transformers import AutoModel

    remote, local = shutil.copytree(made("dinov3"), tmp_path / "remote"), tmp_path / "0123456789abcdef"
    (remote / "model.safetensors").unlink()
    AutoModel.from_pretrained(made("dinov3")).save_pretrained(remote, max_shard_size="20kB")

    def snapshot(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        local.mkdir(exist_ok=True)
        for file in (f for f in remote.iterdir() if any(f.match(pattern) for pattern in allow_patterns)):
            shutil.copy(file, local)
        return str(local)

    def download(repository: str, name: str, revision: str) -> None:
        if not (remote / name).is_file():
            raise EntryNotFoundError(name)
        shutil.copy(remote / name, local)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    encoder = load_encoder(EncoderSettings(kind="dinov3", model="somebody/dinov3", device="cpu"), "dino_image", Path("/nowhere"))
    assert np.array_equal(encoder.encode_images(pictures()), load("dinov3", made("dinov3")).encode_images(pictures()))
    assert encoder.model.startswith("somebody/dinov3@0123456789ab+DINOv3ViTImageProcessor-")


def test_settings_of_another_kind_are_refused() -> None:
    for given, said in (
        ({"kind": "clip", "pooling": "mean"}, "pooling is a setting of kind vision and dinov3, and the kind is clip"),
        ({"kind": "vision", "prompt": "x"}, "prompt is a setting of kind sentence_transformers"),
        ({"kind": "sentence_transformers", "prompt": "x", "prompt_name": "query"}, "give one of them"),
    ):
        with pytest.raises(ValueError, match=said):
            EncoderSettings(model="x", **given)


def test_settings_that_came_later_leave_lakes_current_and_count_where_they_are_set() -> None:
    def fingerprinted(**changed: Any) -> Any:
        profile = load_profile("local", {f"encoders.dino_image.{key}": value for key, value in changed.items()})
        return STAGES["dino_image"].fingerprint_settings(profile, "all")

    assert fingerprinted() == {"kind": "dinov2", "model": "facebook/dinov2-base", "revision": None}
    assert fingerprinted(kind="vision", pooling="mean") == {
        "kind": "vision", "model": "facebook/dinov2-base", "revision": None, "pooling": "mean",
    }  # fmt: skip
