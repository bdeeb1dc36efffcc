"""Precision mixed under OpenVINO: bfloat16 where it is meant and nowhere else, near torch's vectors, named in theirs, and refused
where it cannot be."""

from __future__ import annotations

from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mmret.encode.engines import bfloat16
from mmret.encode.engines import encoder as engines
from mmret.encode.engines.open_vino import load_openvino
from mmret.encode.protocol import Encoder, load_encoder
from mmret.errors import UserError
from mmret.settings import EncoderSettings, load_profile
from mmret.stages import STAGES
from tests.encode import tiny_models
from tests.encode.conftest import SHARD, noise

pytestmark = pytest.mark.skipif(not all(map(find_spec, ("onnx", "onnxscript", "openvino"))), reason="needs the extra 'openvino'")

TEXTS = ["a large red cat", "", "A Small BLUE star, isn't it?", "ein roter Hund", "small blue cats " * 40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.siglip2(tmp_path_factory.mktemp("tiny") / "siglip")


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without bfloat16 computes the same graph in float32: only what is stored is rounded."""
    monkeypatch.setattr(bfloat16, "capabilities", lambda _: ["FP32", "BF16"])
    monkeypatch.setattr(engines, "TOLERANCE", 0.02)  # of vectors of 16 components, which are larger


def load(kind: str, folder: Path, lake: Path, **more: Any) -> Encoder:
    settings = EncoderSettings(kind=kind, model=str(folder), device="cpu", batch_size=4, **more)
    return load_encoder(settings, "caption", lake)


def test_vectors_are_near_torchs_and_named_by_their_precision(
    able: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowered: list[int] = []
    real = bfloat16.mlps
    monkeypatch.setattr(bfloat16, "mlps", lambda model: lowered.append(len(real(model))) or real(model))
    plain, whole, mixed = (
        load("siglip", folder, tmp_path, **more)
        for more in ({}, {"engine": "openvino"}, {"engine": "openvino", "precision": "mixed"})
    )
    assert (whole.model, mixed.model) == (f"{plain.model}+openvino", f"{plain.model}+openvino-mixed")
    pictures = [noise(i) for i in range(5)]
    for wanted, exact, near in (
        (plain.encode_images(pictures), whole.encode_images(pictures), mixed.encode_images(pictures)),
        (plain.encode_texts(TEXTS), whole.encode_texts(TEXTS), mixed.encode_texts(TEXTS)),
    ):
        assert np.abs(exact - wanted).max() < 1e-5 < np.abs(near - wanted).max() < 0.02
    assert all(lowered) and len(lowered) == 2
    assert len(list(tmp_path.glob("engines/*/*/facts.json"))) == 4  # one precision never reads the other's files


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu", "relu"])
def test_only_every_second_mlp_is_in_bfloat16(activation: str, biases: bool) -> None:
    openvino = load_openvino()
    from openvino import opset13

    active = {
        "gelu": lambda value: opset13.gelu(value, "erf"),
        "quick_gelu": lambda value: opset13.swish(value, opset13.constant(np.float32(1.702))),
        "relu": opset13.relu,
    }[activation]
    rng, rows = np.random.default_rng(0), opset13.parameter([-1, 8], np.float32, "rows")

    def layer(value: Any, width: int, out: int) -> Any:
        weights = opset13.constant(rng.normal(size=(width, out)).astype(np.float32))
        product = opset13.matmul(value, weights, False, False)
        return opset13.add(product, opset13.constant(np.ones((1, out), np.float32))) if biases else product

    def computed() -> np.ndarray:
        hint = {"INFERENCE_PRECISION_HINT": "f32"}
        return openvino.Core().compile_model(model, "CPU", hint)(np.eye(8, dtype=np.float32))[0]

    value = layer(rows, 8, 8)
    for _ in range(3):
        value = opset13.add(value, layer(active(layer(value, 8, 32)), 32, 8))
    model = openvino.Model([value], [rows], "blocks")
    exact = computed()
    found = bfloat16.mlps(model)
    assert len(found) == 3
    kept = [bfloat16.lower(openvino, mlp) for mlp in found[:: bfloat16.EVERY]]
    model.validate_nodes_and_infer_types()
    types = [n.output(0).get_element_type().get_type_name() for n in model.get_ordered_ops() if n.get_type_name() == "MatMul"]
    assert types == ["f32", "bf16", "bf16", "f32", "f32", "bf16", "bf16"] and len(kept) == 2
    assert np.abs(exact - computed()).max() < 0.02 * np.abs(exact).max()
    assert model.output(0).get_element_type().get_type_name() == "f32" and not bfloat16.mlps(openvino.Model([rows], [rows], "none"))


def test_a_number_becomes_the_nearest_in_bfloat16() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=1000), [0.0, 1.00390625, 1.01171875]]).astype(np.float32)
    wanted = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(bfloat16.rounded(values), wanted)


def test_a_processor_without_bfloat16_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "capabilities", lambda _: ["FP32", "INT8"])
    with pytest.raises(UserError, match=r"needs a processor with bfloat16 .* leave encoders\.\*\.precision at float32"):
        load("siglip", folder, tmp_path, engine="openvino", precision="mixed")


def test_what_comes_out_too_far_from_torch_is_refused(
    able: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "TOLERANCE", 1e-6)
    with pytest.raises(UserError, match=r"differ from torch's by .* leave encoders\.\*\.precision at float32"):
        load("siglip", folder, tmp_path, engine="openvino", precision="mixed").encode_texts(TEXTS)
    assert not list(tmp_path.glob("engines/*/*"))


@pytest.mark.parametrize(("share", "refused"), [(0.45, False), (0.55, True)])
def test_three_rows_may_take_half_of_what_is_allowed(share: float, refused: bool) -> None:
    wanted = np.eye(3, dtype=np.float32)
    lone = SimpleNamespace(encoder=SimpleNamespace(model="m"), engine=bfloat16.MixedOpenVino)
    apart = share * engines.TOLERANCE
    with pytest.raises(UserError, match="allowed are 0.0005") if refused else nullcontext():
        engines.EngineEncoder._check(lone, wanted, lambda at: wanted[at] + apart)


def test_a_network_without_mlps_is_told(able: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "ACTIVATIONS", ())
    with pytest.raises(UserError, match=r"finds no MLP with .* leave encoders\.\*\.precision at float32"):
        load("siglip", folder, tmp_path, engine="openvino", precision="mixed").encode_texts(TEXTS)


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_mixed_precision_of_another_engine_is_refused(engine: str) -> None:
    with pytest.raises(ValueError, match="precision mixed is of engine openvino"):
        EncoderSettings(kind="clip", model="m", engine=engine, precision="mixed")


def test_a_lake_that_names_no_precision_stays_current_and_mixed_makes_one_signal_stale() -> None:
    def counted(**more: str) -> dict[str, Any]:
        profile = load_profile("demo", {f"encoders.clip_image.{name}": value for name, value in more.items()})
        return {name: stage.fingerprint_settings(profile, SHARD) for name, stage in STAGES.items() if stage.partitions == "shard"}

    before, plain, mixed = counted(), counted(engine="openvino"), counted(engine="openvino", precision="mixed")
    assert counted(precision="float32") == before and "precision" not in before["clip_image"] | plain["clip_image"]
    assert [name for name in plain if plain[name] != mixed[name]] == ["clip_image"]
