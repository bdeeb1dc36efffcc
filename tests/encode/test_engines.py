"""Engines in torch's place: torch's vectors of every kind of encoder, exported once, made anew where damaged, never used where
they come out otherwise; and a lake that names no engine stays as it is."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from mmret.encode.engines import encoder as engines
from mmret.encode.engines import export
from mmret.encode.protocol import Encoder, load_encoder
from mmret.encode.stage import encode_shard
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.schemas import SIGNALS
from mmret.settings import EncoderSettings, load_profile
from mmret.stages import STAGES
from tests.encode import tiny_models
from tests.encode.conftest import SHARD, corpus, interrupted_and_whole, noise, same_vectors

for package in ("onnx", "onnxscript"):
    pytest.importorskip(package, reason="needs the extra 'onnx'")

ENGINES = [pytest.param(name, marks=pytest.mark.skipif(not find_spec(name), reason=name)) for name in ("onnxruntime", "openvino")]
TEXTS = ["a large red cat", "", "A Small BLUE star, isn't it?", "ein roter Hund 🦆", "small blue cats " * 40]
CHOICES: dict[str, dict[str, Any]] = {"vision": {"pooling": "class_token"}}


@pytest.fixture(scope="module")
def folders(
    clip_folder: Path, open_clip_folder: Path, dino_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tiny")
    towers = tiny_models.towers()
    return {
        "clip": clip_folder,
        "open_clip": open_clip_folder,
        "dinov2": dino_folder,
        "siglip": tiny_models.siglip2(root / "siglip"),
        "dinov3": tiny_models.save(root / "dinov3", *towers["dinov3"]),
        "vision": tiny_models.save(root / "vit", *towers["vit"]),
        "sentence_transformers": tiny_models.sentence_transformer(root / "texts"),
    }


@pytest.fixture(scope="module", autouse=True)
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Torch's exporter takes seconds, so each network is exported once for all tests; gives what was asked for, each time."""
    root, asked = tmp_path_factory.mktemp("exported"), []

    def once(write: Callable[[Any, Any, Path], None]) -> Callable[[Any, Any, Path], None]:
        def copy(encoder: Any, rows: Any, path: Path) -> None:
            asked.append(encoder.model)
            kept = root / f"{write.__name__}-{encoder.model}.onnx"
            if not kept.exists():
                write(encoder, rows, kept)
            shutil.copy(kept, path)

        return copy

    with pytest.MonkeyPatch.context() as patch:
        for write in (export.export_images, export.export_texts):
            patch.setattr(engines, write.__name__, once(write))
        yield asked


def settings_of(kind: str, folder: Path, **more: Any) -> EncoderSettings:
    return EncoderSettings(kind=kind, model=str(folder), device="cpu", **({"batch_size": 4} | CHOICES.get(kind, {}) | more))


def load(kind: str, folder: Path, lake: Path, **more: Any) -> Encoder:
    return load_encoder(settings_of(kind, folder, **more), "caption" if kind in TEXT_KINDS else "dino_image", lake)


TEXT_KINDS = ("clip", "open_clip", "siglip", "sentence_transformers")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [*TEXT_KINDS, "dinov2", "dinov3", "vision"])
def test_every_kind_gives_torchs_vectors_at_any_batch_and_length(
    kind: str, engine: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    plain, encoder = (load(kind, folders[kind], tmp_path, engine=name) for name in ("torch", engine))
    assert encoder.model == f"{plain.model}+{engine}" and encoder.width == plain.width and encoder.on_cpu
    if kind in TEXT_KINDS:
        wanted = plain.encode_texts(TEXTS)
        assert np.abs(encoder.encode_texts(TEXTS) - wanted).max() < 1e-5 < np.ptp(wanted @ wanted.T)
        assert np.abs(encoder.encode_texts(TEXTS[4:]) - wanted[4:]).max() < 1e-5
        assert encoder.truncated(TEXTS) == plain.truncated(TEXTS) and encoder.encode_texts([]).shape == (0, plain.width)
    else:
        with pytest.raises(UserError, match="no text tower"):
            encoder.encode_texts(TEXTS)
    if kind == "sentence_transformers":
        with pytest.raises(UserError, match="sees no pictures"):
            encoder.encode_images([noise(0)])
        return
    pictures = [noise(i) for i in range(9)]
    wanted = plain.encode_images(pictures)
    assert np.abs(encoder.encode_images(pictures) - wanted).max() < 1e-5 < np.ptp(wanted @ wanted.T)
    assert np.abs(encoder.encode_images(pictures[:1]) - wanted[:1]).max() < 1e-5
    assert encoder.encode_images([]).shape == (0, plain.width)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("signal", ["clip_image", "caption"])
def test_interrupted_equals_uninterrupted(
    engine: str, signal: str, folders: dict[str, Path], make_lake: Callable[..., Lake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmret.encode.stage.FLUSH_ROWS", 4)
    broken, whole = interrupted_and_whole(make_lake, signal, settings_of("clip", folders["clip"], engine=engine))
    assert same_vectors(broken, whole, signal)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_switch_computes_all_vectors_and_the_way_back_none(
    engine: str, folders: dict[str, Path], make_lake: Callable[..., Lake]
) -> None:
    lake = make_lake(corpus(6))
    plain, other = (settings_of("clip", folders["clip"], engine=name) for name in ("torch", engine))
    counts = [encode_shard(lake, SHARD, "clip_image", s, "i")["computed"] for s in (plain, other, other, plain)]
    assert counts == [6, 6, 0, 0]


def test_a_switch_of_engine_makes_the_vectors_of_its_signal_stale_and_none_otherwise() -> None:
    def counted(**changes: str) -> dict[str, Any]:
        profile = load_profile("demo", {f"encoders.{signal}.engine": engine for signal, engine in changes.items()})
        return {name: stage.fingerprint_settings(profile, SHARD) for name, stage in STAGES.items() if stage.partitions == "shard"}

    before, same, after = counted(), counted(clip_image="torch"), counted(clip_image="openvino")
    assert same == before and "engine" not in before["clip_image"]
    assert [name for name in before if before[name] != after[name]] == ["clip_image"] and set(SIGNALS) < set(before)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_second_process_exports_nothing_and_what_nothing_loads_goes_after_a_month(
    engine: str, folders: dict[str, Path], tmp_path: Path, exported: list[str]
) -> None:
    exported.clear()
    first = load("dinov2", folders["dinov2"], tmp_path, engine=engine).encode_images([noise(0)])
    again = load("dinov2", folders["dinov2"], tmp_path, engine=engine).encode_images([noise(0)])
    assert np.array_equal(first, again) and len(exported) == 1
    (place,) = (tmp_path / "engines").iterdir()
    (old,) = place.iterdir()
    os.utime(old / "facts.json", (0, 0))
    forgotten = shutil.copytree(old, place / "forgotten")
    load("dinov2", folders["dinov2"], tmp_path, engine=engine).encode_images([noise(0)])  # which notes that it is used
    changed = Path(shutil.copytree(folders["dinov2"], tmp_path / folders["dinov2"].name))
    (changed / "config.json").write_text((changed / "config.json").read_text() + "\n")
    load("dinov2", changed, tmp_path, engine=engine).encode_images([noise(0)])
    assert len(exported) == 2 and old.exists() and not forgotten.exists() and len(list(place.iterdir())) == 2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("damage", ["cut", "one byte", "no facts", "facts of nothing"])
def test_a_damaged_export_is_made_anew(
    engine: str, damage: str, folders: dict[str, Path], tmp_path: Path, exported: list[str]
) -> None:
    wanted = load("dinov2", folders["dinov2"], tmp_path, engine=engine).encode_images([noise(0)])
    (facts,) = tmp_path.glob("engines/*/*/facts.json")
    largest = max(facts.parent.iterdir(), key=lambda path: path.stat().st_size)
    whole = largest.read_bytes()
    if damage == "cut":
        largest.write_bytes(whole[: len(whole) // 2])
    elif damage == "one byte":
        middle = len(whole) // 2
        largest.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0x40]) + whole[middle + 1 :])
    else:
        facts.unlink()
        if damage == "facts of nothing":
            facts.write_text(json.dumps({"files": {}}))
    exported.clear()
    assert np.array_equal(load("dinov2", folders["dinov2"], tmp_path, engine=engine).encode_images([noise(0)]), wanted)
    assert len(exported) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_what_differs_from_torch_is_refused_and_not_kept(
    engine: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match=r"differ from torch's by .* leave encoders\.\*\.engine at torch"):
        load("dinov2", folders["dinov2"], tmp_path, engine=engine).encode_images([noise(0)])
    assert not list(tmp_path.glob("engines/*/*"))


def test_a_network_that_cannot_be_exported_is_told_in_a_sentence(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("first") from ValueError("data-dependent\nand more")

    monkeypatch.setattr(export, "write_onnx_graph", refuse)
    plain = load("dinov2", folders["dinov2"], tmp_path)
    before = plain.network.config._attn_implementation
    with pytest.raises(UserError, match=r"cannot be exported \(ValueError: data-dependent\): leave encoders\.\*\.engine at torch"):
        export.export_images(plain, plain.stacked([noise(0), noise(1)]), tmp_path / "graph.onnx")
    assert plain.network.config._attn_implementation == before


@pytest.mark.parametrize(
    ("engine", "package", "extra"),
    [("onnxruntime", "onnxruntime", "onnx"), ("onnxruntime", "onnxscript", "onnx"), ("openvino", "openvino", "openvino")],
)
def test_a_missing_package_is_named_with_its_extra(
    engine: str, package: str, extra: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install 'mmret\[{extra}\]'"):
        load("dinov2", folders["dinov2"], tmp_path, engine=engine)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"kind": "tfidf"}, "kind tfidf has none"),
        ({"kind": "clip", "device": "cuda:0"}, "computes on the CPU, and device is cuda:0"),
    ],
)
def test_settings_that_no_engine_can_follow_are_refused(choices: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EncoderSettings(model="m", engine="openvino", **choices)


def test_a_vector_that_is_none_is_no_small_difference() -> None:
    wanted = np.eye(3, dtype=np.float32)
    lone = SimpleNamespace(encoder=SimpleNamespace(model="m"), engine=SimpleNamespace(name="e", remedy="r", share=1.0))
    with pytest.raises(UserError, match="differ from torch's by nan"):
        engines.EngineEncoder._check(lone, wanted, lambda at: wanted[at] if at == slice(None) else wanted[at] * np.nan)


def test_a_full_disk_is_no_fault_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_onnx_graph", full)
    with pytest.raises(OSError, match="No space left"):
        export._export(SimpleNamespace(network=nn.Identity(), model="m"), nn.Identity(), {}, {}, tmp_path / "graph.onnx")
