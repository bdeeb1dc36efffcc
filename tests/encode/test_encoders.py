"""Encoders: equal to the library's own forward pass for any picture and batch, named by all that makes a vector."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from mmret.encode.protocol import Encoder, load_encoder
from mmret.errors import UserError
from mmret.settings import EncoderSettings
from tests.encode.conftest import corpus, encoded, noise

TEXTS = ["a red thing", "", "a green thing small", "日本語 что हिंदी 🦆"]
SIZES = [(61, 47), (47, 61), (32, 32), (33, 200), (20, 24), (32, 45)]


def load(kind: str, folder: Path, signal: str = "clip_image", **settings: object) -> Encoder:
    wanted = EncoderSettings(kind=kind, model=str(folder), device="cpu", **settings)
    return load_encoder(wanted, signal, Path("/nowhere"))


def unit(features: torch.Tensor) -> np.ndarray:
    return normalize(features).numpy()


def pictures() -> list[Image.Image]:
    return [noise(i, size) for i, size in enumerate(SIZES)]


@torch.inference_mode()
def test_clip_equals_the_library(clip_folder: Path) -> None:
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    encoder, model = load("clip", clip_folder), CLIPModel.from_pretrained(clip_folder).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(clip_folder)(pictures(), return_tensors="pt").pixel_values
    assert np.abs(encoder.encode_images(pictures()) - unit(model.get_image_features(pixels).pooler_output)).max() < 1e-6
    tokens = CLIPProcessor.from_pretrained(clip_folder)(text=TEXTS, padding=True, return_tensors="pt")
    expected = unit(model.get_text_features(**tokens).pooler_output)
    assert np.abs(encoder.encode_texts(TEXTS) - expected).max() < 1e-6
    assert np.ptp(expected @ expected.T) > 0.05  # else any vectors would pass
    assert encoder.width == 24


@torch.inference_mode()
def test_dinov2_equals_the_library(dino_folder: Path) -> None:
    from transformers import BitImageProcessorPil, Dinov2Model

    encoder, model = load("dinov2", dino_folder, "dino_image"), Dinov2Model.from_pretrained(dino_folder).eval()
    pixels = BitImageProcessorPil.from_pretrained(dino_folder)(pictures(), return_tensors="pt").pixel_values
    assert np.abs(encoder.encode_images(pictures()) - unit(model(pixels).last_hidden_state[:, 0])).max() < 1e-6
    assert encoder.width == 48


@torch.inference_mode()
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_open_clip_equals_the_library(open_clip_folder: Path, tmp_path: Path, mode: str) -> None:
    import open_clip

    folder = shutil.copytree(open_clip_folder, tmp_path / mode)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = mode
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    encoder = load("open_clip", folder)
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    expected = unit(model.eval().encode_image(torch.stack([transform(picture) for picture in pictures()])))
    assert np.abs(encoder.encode_images(pictures()) - expected).max() < 1e-6
    expected = unit(model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)))
    assert np.abs(encoder.encode_texts(TEXTS) - expected).max() < 1e-6
    assert encoder.width == 40


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["clip", "open_clip", "dinov2"])
def test_batch_size_does_not_matter(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"{kind.removesuffix('v2')}_folder")
    signal = "dino_image" if kind == "dinov2" else "clip_image"
    one, many = load(kind, folder, signal, batch_size=1), load(kind, folder, signal, batch_size=5)
    assert np.allclose(one.encode_images(pictures()), many.encode_images(pictures()), atol=1e-6)
    assert many.encode_images([]).shape == (0, many.width)
    if kind != "dinov2":
        assert np.allclose(one.encode_texts(TEXTS), many.encode_texts(TEXTS), atol=1e-6)
        assert many.encode_texts([]).shape == (0, many.width)


def test_every_image_mode_is_preprocessed_to_the_models_size(clip_folder: Path) -> None:
    encoder = load("clip", clip_folder)
    for mode in ("RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "I;16"):
        image = noise(0).convert(mode.partition(";")[0])
        if mode == "I;16":
            image = image.point(lambda value: value * 200).convert(mode)
        tensor = encoder.preprocess(encoded(image, "JPEG" if mode == "CMYK" else "PNG"))
        assert tensor.shape == (3, 32, 32) and tensor.dtype == torch.uint8, mode
    rotated = Image.Exif()
    rotated[0x0112] = 6
    turned = encoder.preprocess(encoded(noise(0), "PNG", exif=rotated))
    assert torch.equal(turned, encoder.preprocess(encoded(noise(0).transpose(Image.Transpose.ROTATE_270))))


def test_preprocessing_bytes_then_encoding_equals_encoding_pictures(clip_folder: Path) -> None:
    encoder = load("clip", clip_folder)
    files = [data for data, _ in corpus(4)]
    stacked = torch.stack([encoder.preprocess(data) for data in files])
    opened = [Image.open(io.BytesIO(data)) for data in files]
    assert np.array_equal(encoder.encode_images(stacked), encoder.encode_images(opened))


def test_long_texts_are_cut_and_told(clip_folder: Path, open_clip_folder: Path) -> None:
    words = "red green blue " * 3000
    for kind, folder, limit in (("clip", clip_folder, 75), ("open_clip", open_clip_folder, 18)):
        encoder = load(kind, folder, "caption")
        texts = ["red", words, " ".join(["red"] * limit), " ".join(["red"] * (limit + 1))]
        assert encoder.truncated(texts) == [False, True, False, True], kind
        assert encoder.truncated([]) == []
        vectors = encoder.encode_texts(texts)
        assert np.allclose(vectors[1], encoder.encode_texts([words[:6000]])[0], atol=1e-6), kind


def test_the_name_changes_with_weights_and_preprocessing_but_not_with_the_place(clip_folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(clip_folder, tmp_path / "elsewhere" / clip_folder.name)
    name = load("clip", clip_folder).model
    assert name.startswith("tiny-clip@") and "+short32" in name
    assert load("clip", moved).model == name
    for file in ("preprocessor_config.json", "processor_config.json"):
        text = (moved / file).read_text()
        (moved / file).write_text(text.replace("0.48145466", "0.5"))
    changed = load("clip", moved).model
    assert changed.rpartition("+")[2] != name.rpartition("+")[2]
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    assert load("clip", moved).model != changed


def test_a_batch_that_does_not_fit_is_halved(clip_folder: Path) -> None:
    encoder = load("clip", clip_folder, batch_size=16)
    pixels = torch.stack([encoder.preprocess(data) for data, _ in corpus(11)])
    expected, whole = encoder.encode_images(pixels), encoder.image_features

    def cramped(part: torch.Tensor) -> torch.Tensor:
        if len(part) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return whole(part)

    encoder.image_features = cramped
    assert np.allclose(encoder.encode_images(pixels), expected, atol=1e-6)
    assert encoder.batch_size == 2


@pytest.mark.parametrize(
    ("kind", "model", "revision", "says"),
    [
        ("clip", "towers/clip", None, "mmret run --lake"),
        ("clip", "/no/such/folder", None, "no model folder"),
        ("clip", "somebody/absent-model", None, "HF_HUB_OFFLINE=1"),
        ("dinov2", "somebody/absent-model", None, "HF_HUB_OFFLINE=1"),
        ("open_clip", "hf-hub:somebody/absent-model", None, "HF_HUB_OFFLINE=1"),
        ("open_clip", "NoSuchNet", None, "open_clip has no model"),
        ("open_clip", "EVA02-B-16", None, "merged2b_s8b_b131k"),
        ("open_clip", "EVA02-B-16", "no-such-tag", "merged2b_s8b_b131k"),
    ],
)
def test_a_model_that_is_not_there_says_what_to_do(kind: str, model: str, revision: str | None, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_encoder(EncoderSettings(kind=kind, model=model, revision=revision), "clip_image", Path("/nowhere"))


def test_a_folder_of_another_kind_is_refused(dino_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for kind in ("clip", "open_clip", "dinov2"):
        with pytest.raises(UserError, match="could not be loaded"):
            load(kind, tmp_path / "empty")
    with pytest.raises(UserError, match="could not be loaded"):
        load("clip", dino_folder)


def test_a_model_without_text_tower_is_refused_for_captions(dino_folder: Path) -> None:
    with pytest.raises(UserError, match="no text tower"):
        load("dinov2", dino_folder, "caption")


def test_open_clip_by_name_takes_a_checkpoint_file(tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(0)
    torch.save(open_clip.create_model("ViT-S-32-alt").state_dict(), tmp_path / "weights.pt")
    wanted = EncoderSettings(kind="open_clip", model="ViT-S-32-alt", revision=str(tmp_path / "weights.pt"))
    encoder = load_encoder(wanted, "clip_image", Path("/nowhere"))
    assert encoder.model.startswith("ViT-S-32-alt@") and str(tmp_path) not in encoder.model
    assert encoder.encode_images([noise(0)]).shape == (1, encoder.width)
