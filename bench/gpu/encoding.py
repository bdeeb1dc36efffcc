"""Encoding on the device: images a second of open_clip's ViT-B/16 and ViT-L/14, beside the bare forward pass of the same network.

Equality first: a few pictures against the CPU's vectors in float32, convolutions without TF32. The encoders have no setting of
precision: they run in float32. What TF32 and bfloat16 would give, in speed and in vectors, is measured of the bare forward pass.
"""

from __future__ import annotations

import importlib.util
import tempfile
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from bench.encode import model_folder, rendered
from bench.gpu.sheet import Sheet
from bench.gpu_train import clip
from mmret.encode.protocol import Encoder, load_encoder
from mmret.encode.stream import image_vectors
from mmret.settings import EncoderSettings

MODELS = {"b16": ("ViT-B-16", (768, 12, 12, 512, 224, 16)), "l14": ("ViT-L-14", (1024, 24, 16, 768, 224, 14))}
"""open_clip's name, and the shape by which :func:`bench.gpu_train.clip` makes the like without open_clip."""
TINY = (64, 2, 2, 64, 32, 16)
TOLERANCE = 1e-4
"""Of a component of a unit vector, between devices, in float32."""


def run(sheet: Sheet) -> None:
    for short, (name, shape) in MODELS.items():
        with tempfile.TemporaryDirectory() as place:
            encoder = sheet.ask(
                f"encoding.{short}_equal_cpu", lambda _, n=name, s=shape, p=place: equal(sheet, n, s, Path(p)), needs=8
            )
            if encoder is not None:
                rows = (8, 4) if sheet.small else (2048, 1024, 512) if short == "b16" else (1024, 512, 256)
                sheet.ask(f"encoding.{short}", lambda n, e=encoder, k=short: speed(sheet, k, e, n), rows, needs=6)
                if short == "b16":
                    files = (8,) if sheet.small else (2048, 512)
                    sheet.ask("encoding.b16_files", lambda n, e=encoder, p=place: from_files(sheet, e, n, Path(p)), files, needs=6)
            del encoder


def load(sheet: Sheet, name: str, shape: tuple[int, ...], place: Path, device: str) -> Encoder:
    """The model with random weights: open_clip's, or where that is missing a CLIP of transformers of the same shape."""
    kind = "open_clip" if importlib.util.find_spec("open_clip") else "clip"
    if not any(place.iterdir()):
        if kind == "open_clip":
            small = {
                "vision_cfg": {"width": 64, "layers": 2, "head_width": 32, "patch_size": 16, "image_size": 32},
                "embed_dim": 64,
            }
            model_folder(place, name, small if sheet.small else {})
        else:
            clip(place, *(TINY if sheet.small else shape))
    return load_encoder(EncoderSettings(kind=kind, model=str(place), device=device), "clip_image", place)


def equal(sheet: Sheet, name: str, shape: tuple[int, ...], place: Path) -> Encoder:
    here, there = (load(sheet, name, shape, place, device) for device in (str(sheet.device), "cpu"))
    pixels = pictures(here, 8)
    found = {}
    for what, setting in (("float32", without_tf32()), ("as it comes", nullcontext())):
        with setting:
            found[what] = float(np.abs(here.encode_images(pixels) - there.encode_images(pixels)).max())
    assert found["float32"] <= TOLERANCE, f"a component differs by {found['float32']:.2g} between devices, more than {TOLERANCE}"
    key = "b16" if name == MODELS["b16"][0] else "l14"
    beside = f"at most {TOLERANCE:g}; {found['as it comes']:.2g} with torch's own TF32 in convolutions"
    note = f"{name} by {'open_clip' if importlib.util.find_spec('open_clip') else 'transformers, for want of open_clip'}"
    sheet.row(f"encoding.{key}_equal_cpu", found["float32"], "largest difference", beside, note)
    return here


def pictures(encoder: Encoder, rows: int) -> torch.Tensor:
    """Decoded pictures as they wait for the device, (rows, 3, side, side) uint8."""
    one = encoder.preprocess(_jpeg())
    made = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (rows, *one.shape), np.uint8))
    return made.pin_memory() if encoder.device.type == "cuda" else made


def _jpeg() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        return rendered(1, Path(place), 64)[0].read_bytes()


def speed(sheet: Sheet, key: str, encoder: Any, rows: int) -> None:
    pixels = pictures(encoder, rows)
    ready = [encoder.preprocessing.normalise(part.to(encoder.device)) for part in pixels.split(encoder.batch_size)]
    kept: dict[str, torch.Tensor] = {}

    @torch.inference_mode()
    def bare(name: str, setting: AbstractContextManager[Any]) -> None:
        with setting:
            kept[name] = torch.nn.functional.normalize(torch.cat([encoder.image_features(part).float() for part in ready]))

    def cast() -> AbstractContextManager[Any]:
        return torch.autocast(encoder.device.type, torch.bfloat16)

    rounds = 1 if sheet.small else 3
    plain = sheet.median(lambda: bare("float32", without_tf32()), rounds)
    ours = sheet.median(lambda: encoder.encode_images(pixels), rounds)
    note = f"{rows} decoded pictures, batches of {encoder.batch_size}, float32"
    sheet.row(
        f"encoding.{key}", rows / ours, "images/s", f"{plain / ours:.3f} of the bare forward ({rows / plain:.0f} images/s)", note
    )
    for name, setting in (("tf32", with_tf32), ("bf16", cast)):
        spent = sheet.median(lambda n=name, s=setting: bare(n, s()), rounds)
        apart = float((kept[name] - kept["float32"]).abs().max())
        beside = f"{plain / spent:.2f} times the bare forward in float32"
        sheet.row(
            f"encoding.{key}_bare_{name}", rows / spent, "images/s", beside, f"no setting; vectors differ by {apart:.2g} at most"
        )


def from_files(sheet: Sheet, encoder: Encoder, rows: int, place: Path) -> None:
    (place / "files").mkdir(exist_ok=True)
    files = [path.read_bytes() for path in rendered(min(rows, 64), place / "files", 64 if sheet.small else 500)]
    batch = min(encoder.batch_size, max(1, rows // 16))  # as many as keep all cores at work

    def batches() -> Any:
        for at in range(0, rows, batch):
            ids = [str(i) for i in range(at, min(rows, at + batch))]
            data = [files[int(i) % len(files)] for i in ids]
            yield pa.RecordBatch.from_pydict({"image_id": ids, "path": ids, "data": data})

    spent = sheet.median(lambda: [None for _ in image_vectors(encoder, batches())], 1 if sheet.small else 3)
    sheet.row(
        "encoding.b16_files",
        rows / spent,
        "images/s",
        "",
        f"{rows} JPEG files of 500 x 375, batches of {batch}, decoded on the cores",
    )


@contextmanager
def without_tf32() -> Any:
    with _tf32(False):
        yield


@contextmanager
def with_tf32() -> Any:
    with _tf32(True):
        yield


@contextmanager
def _tf32(on: bool) -> Any:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = on
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
