"""Scores are what the model's own library computes; only what is missing is computed; a threshold names the pictures outside."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from mmret.errors import UserError
from mmret.ingest.stage import ingest_shard, seal_corpus
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.schemas import TABLES, vectors
from mmret.score.classifier import Classifier
from mmret.score.head import Head
from mmret.score.measures import measure_pixels
from mmret.score.stage import found_wanting, score_shard
from mmret.settings import ScorerSettings, load_profile
from mmret.stages import STAGES
from tests.ingest.files import captioned, encoded, picture, png
from tests.mine.lakes import filled

SHARD = "shard-00000"
VECTORS = np.random.default_rng(0).standard_normal((4, 16))
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


@pytest.fixture
def lake(tmp_path) -> Lake:
    """Three pictures of noise and a white one, each with a vector."""
    files = {f"{n}.png": png(n, (40, 20)) for n in range(3)} | {"white.png": encoded(Image.new("RGB", (30, 30), "white"))}
    captioned(tmp_path / "pictures", files)
    lake = Lake(tmp_path / "lake")
    settings, choices = resolve(lake, sources=[str(tmp_path / "pictures")])
    lake.write_configuration(choices)
    seal_corpus(lake, settings, "x")
    ingest_shard(lake, SHARD, settings.ingest, "x")
    ids = lake.read("images", SHARD, ["image_id"])["image_id"].to_pylist()
    columns = {"image_id": ids, "shard": [SHARD] * 4, "model": ["m"] * 4, "truncated": [False] * 4}
    lake.lance("clip_image", vectors(16)).add(filled(vectors(16), columns | {"vector": list(VECTORS.astype(np.float16))}))
    lake.write("clip_image", SHARD, filled(TABLES["clip_image"], columns), "x", model="m", width=16)
    return lake


def values(lake: Lake, scorer: str) -> dict[str, float]:
    paths = {r["image_id"]: r["path"] for r in lake.read("images").to_pylist()}
    return {paths[r["image_id"]]: r["value"] for r in lake.read("scores").to_pylist() if r["scorer"] == scorer}


def mlp(folder, widths: list[int]) -> torch.nn.Sequential:
    """The shape of LAION's predictor, its layers called layers.0, layers.2, ...; saved as head.safetensors."""
    torch.manual_seed(0)
    layers = [m for a, b in zip(widths[:-1], widths[1:], strict=True) for m in (torch.nn.Linear(a, b), torch.nn.Dropout(0.1))][:-1]
    model = torch.nn.Sequential(*layers).eval()
    save_file({f"layers.{k}": v.detach().numpy() for k, v in model.state_dict().items()}, folder / "head.safetensors")
    return model


def test_a_head_gives_what_torch_gives_on_the_stored_vectors(lake, tmp_path):
    model = mlp(tmp_path, [16, 8, 4, 1])
    score_shard(lake, SHARD, {"aesthetic": ScorerSettings(kind="head", model=str(tmp_path / "head.safetensors"))}, "x")
    with torch.inference_mode():
        want = model(torch.from_numpy(VECTORS.astype(np.float16).astype(np.float32))).flatten().numpy()
    assert np.allclose(list(values(lake, "aesthetic").values()), want, atol=1e-5)
    with pytest.raises(UserError, match="reads vectors of 5 numbers, and those of clip_image have 16"):
        mlp(tmp_path, [5, 1])
        score_shard(lake, SHARD, {"aesthetic": ScorerSettings(kind="head", model=str(tmp_path / "head.safetensors"))}, "x")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"is no safetensors file.*\.pt"):
        Head("a", ScorerSettings(kind="head", model=str(tmp_path / "bad.safetensors")))


def test_a_head_in_bfloat16_is_read_and_a_bias_of_another_width_is_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    weight = torch.linspace(-1, 1, 16).reshape(1, 16)
    save_torch({"weight": weight.bfloat16(), "bias": torch.tensor([0.5], dtype=torch.bfloat16)}, path)
    want = VECTORS.astype(np.float32) @ weight.bfloat16().float().numpy()[0] + 0.5
    assert np.allclose(Head("a", ScorerSettings(kind="head", model=str(path)))(VECTORS), want, atol=1e-6)
    save_torch({"weight": weight, "bias": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"bias of .* has shape \(3,\), and weight \(1, 16\)"):
        Head("a", ScorerSettings(kind="head", model=str(path)))


def test_a_classifier_without_its_trained_head_or_with_a_damaged_file_is_refused(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(image_size=32, patch_size=16, id2label={0: "normal", 1: "nsfw"}, label2id={"normal": 0, "nsfw": 1}, **sizes)
    folder = tmp_path / "detector"
    scorer = ScorerSettings(kind="classifier", model=str(folder), label="nsfw")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    ViTModel(config).save_pretrained(folder)
    with pytest.raises(UserError, match=r"scores\.unsafe\.model: .*lack 2 of the tensors .*classifier.*has no head"):
        Classifier("unsafe", scorer)
    ViTForImageClassification(config).save_pretrained(folder)
    assert Classifier("unsafe", scorer).model.startswith("detector@")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read as an image classifier"):
        Classifier("unsafe", scorer)
    weights.write_bytes(whole)
    (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"intermediate_size": 16', '"intermediate_size": 8')
    )
    with pytest.raises(UserError, match=r"scores\.unsafe\.model"):
        Classifier("unsafe", scorer)


def test_a_classifier_s_folder_gives_the_probability_of_its_label(lake, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(image_size=32, patch_size=16, id2label={0: "normal", 1: "nsfw"}, label2id={"normal": 0, "nsfw": 1}, **sizes)
    model, processor = ViTForImageClassification(config).eval(), ViTImageProcessor(size={"height": 32, "width": 32})
    model.save_pretrained(tmp_path / "detector")
    processor.save_pretrained(tmp_path / "detector")
    scorer = ScorerSettings(kind="classifier", model=str(tmp_path / "detector"), label="NSFW", batch_size=3)
    score_shard(lake, SHARD, {"unsafe": scorer}, "x")
    with torch.inference_mode():
        want = model(**processor(images=[picture(1, (40, 20))], return_tensors="pt")).logits.softmax(-1)[0, 1].item()
    assert values(lake, "unsafe")["1.png"] == pytest.approx(want, abs=1e-5)
    with pytest.raises(UserError, match="has no label 'porn'; it has normal, nsfw"):
        score_shard(lake, SHARD, {"unsafe": scorer.model_copy(update={"label": "porn"})}, "x")
    with pytest.raises(UserError, match="cannot be read as an image classifier"):
        score_shard(lake, SHARD, {"unsafe": scorer.model_copy(update={"model": str(tmp_path)})}, "x")


def test_measures_tell_blurred_dark_flat_and_small_pictures(lake):
    sharp = picture(0, (64, 64))
    assert measure_pixels(sharp.filter(ImageFilter.GaussianBlur(3)), "sharpness") < measure_pixels(sharp, "sharpness") / 50
    names = ("sharpness", "brightness", "contrast", "side", "aspect")
    score_shard(lake, SHARD, {n: ScorerSettings(measure=n) for n in names}, "x")
    white = {n: values(lake, n)["white.png"] for n in names}
    assert white == {"sharpness": 0, "brightness": 1, "contrast": 0, "side": 30, "aspect": 1}
    assert values(lake, "side")["0.png"] == 20 and values(lake, "aspect")["0.png"] == 2
    assert Image.open(io.BytesIO(png(0, (40, 20)))).size == (40, 20)


def test_only_what_a_new_scorer_lacks_is_computed_and_a_threshold_names_the_pictures_outside(lake):
    sharp, bright = ScorerSettings(measure="sharpness", minimum=1), ScorerSettings(measure="brightness", maximum=0.9)
    assert score_shard(lake, SHARD, {"sharp": sharp}, "x")[1] == 4
    facts, computed = score_shard(lake, SHARD, {"sharp": sharp, "bright": bright}, "x")
    assert (facts.rows, computed) == (8, 4)
    white = next(r["image_id"] for r in lake.read("images").to_pylist() if r["path"] == "white.png")
    found = found_wanting(lake, [SHARD], {"sharp": sharp, "bright": bright, "free": ScorerSettings(measure="side")})
    assert {name: ids.to_pylist() for name, ids in found.items()} == {"score_sharp": [white], "score_bright": [white]}


def test_a_lake_without_scorers_has_nothing_to_compute_and_pairs_are_as_they_were(lake):
    plain, scored = load_profile("demo"), load_profile("demo", {"scores": {"sharp": {"measure": "sharpness"}}})
    limited = load_profile("demo", {"scores": {"sharp": {"measure": "sharpness", "minimum": 20}}})
    stage, pairs = STAGES["scores"], STAGES["pairs"]
    assert [stage.applies(lake, p, SHARD) for p in (plain, scored)] == [False, True]
    settings = [pairs.fingerprint_settings(p, SHARD) for p in (plain, scored, limited)]
    assert settings[0] == settings[1] != settings[2] and settings[2]["scores"] == {"sharp": [20, None]}
    assert [r.table for r in pairs.conditional_reads(scored, SHARD)] == []
    for reader in (pairs, STAGES["tasks"]):
        assert {r.table for r in reader.conditional_reads(limited, SHARD)} == {"scores"}
        assert reader.fingerprint_settings(plain, SHARD) == reader.fingerprint_settings(scored, SHARD)
    assert stage.fingerprint_settings(scored, SHARD) == stage.fingerprint_settings(limited, SHARD), "a limit changes no score"
    with pytest.raises(UserError, match="kind classifier needs model and label"):
        load_profile("demo", {"scores": {"unsafe": {"kind": "classifier"}}})
