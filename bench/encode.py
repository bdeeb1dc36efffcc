"""Encoding against the bare model and against the plain loop that everybody writes: same weights, same pictures.

    python bench/encode.py [--rows 256] [--rounds 5] [--width 500] [--images FOLDER] [--architecture ViT-B-32] [--work FOLDER]
                           [--engines torch onnxruntime openvino openvino-mixed]

One process, the runs alternate, equality of the vectors is asserted first; reported is the median of the rounds'
ratios. The model is open_clip's ViT-B/32 image tower with random weights, loaded from a folder as any other. Of each engine the
vectors are within 1e-3 of torch's, and 0.999 of the pairs in the band that torch's vectors propose are in it. ``--work``: where the
model and its exports are kept for the next run; a temporary folder otherwise.
``--images``: JPEG files to use in place of rendered ones; these are ``--width`` pixels wide, 4 : 3 (500, ImageNet's usual
size; camera pictures are 1,600 and more). The larger the files, the more there is to overlap.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageFilter

from mmret.encode.bands import propose
from mmret.encode.protocol import Encoder, load_encoder
from mmret.encode.stream import image_vectors, map_on_cores
from mmret.settings import EncoderSettings


def model_folder(folder: Path, name: str = "ViT-B-32", change: Mapping[str, Any] = MappingProxyType({})) -> Path:
    """``name`` as open_clip configures it, ``change``d, random weights, with a text tower of one layer to save time and memory."""
    import open_clip
    from safetensors.torch import save_file

    weights = folder / "open_clip_model.safetensors"
    if weights.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = open_clip.get_model_config(name) | dict(change)
    config["text_cfg"] |= {"layers": 1, "width": 64, "heads": 1}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, weights)
    return folder


def rendered(n: int, folder: Path, width: int) -> list[Path]:
    """Pictures with the statistics of photographs as far as a decoder cares: smooth areas, edges, some grain."""
    rng, size = np.random.default_rng(0), (width, width * 3 // 4)
    paths = []
    for i in range(n):
        patches = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        coarse = patches.resize(size, Image.Resampling.BICUBIC)
        grain = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).filter(ImageFilter.BoxBlur(1))
        path = folder / f"{i}.jpg"
        Image.blend(coarse, grain, 0.2).save(path, quality=85)
        paths.append(path)
    return paths


Round = tuple[float, float, float, float]
"""Speed-up, seconds of ours and theirs, and the speed-up counted in processor time."""


def paired(ours: Mapping[str, Callable[[], object]], theirs: Callable[[], object], rounds: int) -> dict[str, list[Round]]:
    """The peer and each of ours in turns, ``rounds`` times; by name of ours."""
    found: dict[str, list[Round]] = {name: [] for name in ours}
    for _ in range(rounds):
        their_wall, their_cpu = spent(theirs)
        for name, run in ours.items():
            wall, cpu = spent(run)
            found[name].append((their_wall / wall, wall, their_wall, their_cpu / cpu))
    return found


def spent(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall and of processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=256)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--batch", type=int, default=None)
    options.add_argument("--width", type=int, default=500)
    options.add_argument("--images", type=Path)
    options.add_argument("--engines", nargs="+", default=["torch"], choices=["torch", "onnxruntime", "openvino", "openvino-mixed"])
    options.add_argument("--architecture", default="ViT-B-32")
    options.add_argument("--work", type=Path)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = model_folder((chosen.work or Path(place)) / chosen.architecture, chosen.architecture)
        paths = (
            sorted(chosen.images.rglob("*.jp*g"))[: chosen.rows]
            if chosen.images
            else rendered(chosen.rows, Path(place), chosen.width)
        )
        encoders = {engine: loaded(folder, engine, chosen.batch) for engine in chosen.engines}
        if chosen.engines == ["torch"]:
            compare_with_model(encoders["torch"], paths, chosen.rounds)
        compare_with_loop(encoders, folder, paths, chosen.rounds)


def loaded(folder: Path, engine: str = "torch", batch: int | None = None) -> Encoder:
    name, _, precision = engine.partition("-")
    chosen = {"engine": name, "precision": precision or "float32"}
    settings = EncoderSettings(kind="open_clip", model=str(folder), device="cpu", batch_size=batch, **chosen)
    return load_encoder(settings, "clip_image", folder.parent)


def gate() -> dict[str, float | list[float]]:
    """Speed-ups by processor time over the bare forward pass and over the plain loop; equal vectors are asserted in both."""
    with tempfile.TemporaryDirectory() as place:
        folder = model_folder(Path(place) / "model")
        paths = rendered(24, Path(place), 500)
        encoders = {engine: loaded(folder, engine) for engine in ("torch", "openvino")}
        bare = compare_with_model(encoders["torch"], paths, 3)
        of_engines = compare_with_loop(encoders, folder, paths, 3)
        loop = of_engines["torch"]
    return {
        "images": len(paths),
        "over_bare_forward_processor": [r[3] for r in bare],
        "over_bare_forward_wall": [r[0] for r in bare],
        "over_plain_loop_processor": [r[3] for r in loop],
        "over_plain_loop_wall": [r[0] for r in loop],
        "openvino_over_torch_processor": [r[3] / t[3] for r, t in zip(of_engines["openvino"], loop, strict=True)],
    }


def compare_with_model(encoder: object, paths: list[Path], rounds: int) -> list[Round]:
    pixels = torch.stack([encoder.preprocess(path.read_bytes()) for path in paths])
    parts, floats = pixels.split(encoder.batch_size), encoder.preprocessing.normalise(pixels).split(encoder.batch_size)

    def ours() -> np.ndarray:
        return np.concatenate([values for _, values in map_on_cores(encoder.encode_images, parts)])

    @torch.inference_mode()
    def bare() -> torch.Tensor:
        return torch.cat([encoder.network.encode_image(part) for part in floats])

    expected = torch.nn.functional.normalize(bare()).numpy()
    assert np.abs(ours() - expected).max() < 1e-5
    found = paired({"torch": ours}, bare, rounds)["torch"]
    report("decoded tensors, against the bare forward", len(pixels), found, 0.95)
    return found


def compare_with_loop(encoders: Mapping[str, Encoder], folder: Path, paths: list[Path], rounds: int) -> dict[str, list[Round]]:
    """By engine, of files as they lie on disk."""
    import open_clip

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    size = next(iter(encoders.values())).batch_size
    chunks = [paths[at : at + size] for at in range(0, len(paths), size)]

    @torch.inference_mode()
    def loop() -> np.ndarray:
        found = []
        for chunk in chunks:
            batch = torch.stack([transform(Image.open(path)) for path in chunk])
            found.append(torch.nn.functional.normalize(model.encode_image(batch)))
        return torch.cat(found).numpy()

    def ours(encoder: Encoder) -> np.ndarray:
        batches = (
            pa.RecordBatch.from_pydict(
                {"image_id": list(map(str, chunk)), "path": list(map(str, chunk)), "data": [path.read_bytes() for path in chunk]}
            )
            for chunk in chunks
        )
        return np.concatenate([values for _, values in image_vectors(encoder, batches)])

    wanted = loop()
    for engine, encoder in encoders.items():
        made = ours(encoder)
        apart, recall = float(np.abs(made - wanted).max()), band_recall(made, wanted)
        assert apart < (1e-5 if engine == "torch" else 1e-3) and recall >= 0.999, (engine, apart, recall)
        print(f"{engine}: vectors {apart:.1e} from the loop's at most, {recall:.4f} of the pairs in the band", flush=True)
    found = paired({engine: partial(ours, encoder) for engine, encoder in encoders.items()}, loop, rounds)
    sizes = sorted(Image.open(io.BytesIO(path.read_bytes())).size for path in paths)
    for engine, rows in found.items():
        what = f"JPEG files ({'x'.join(map(str, sizes[len(sizes) // 2]))}) under {engine}, against a plain loop"
        report(what, len(paths), rows, 1.5)
    return found


def band_recall(made: np.ndarray, wanted: np.ndarray) -> float:
    """Of the pairs (i, j) that lie in the band proposed for ``wanted`` (n, d), the share that does by ``made`` too; as they are
    stored, in float16."""
    made, wanted = (vectors.astype(np.float16).astype(np.float32) for vectors in (made, wanted))
    band = propose(wanted)
    inside = [(scores > band.low) & (scores < band.high) for scores in (wanted @ wanted.T, made @ made.T)]
    return float((inside[0] & inside[1]).sum() / inside[0].sum())


def report(what: str, rows: int, rounds: list[Round], wanted: float) -> None:
    """Medians over the rounds."""
    speed, own, theirs, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(
        f"{what}: {rows / own:.1f} images/s, peer {rows / theirs:.1f}; {speed:.2f} times (wanted {wanted}); "
        f"by processor time {cpu:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
