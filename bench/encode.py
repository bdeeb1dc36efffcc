"""Encoding against the bare model and against the plain loop that everybody writes: same weights, same pictures.

    python bench/encode.py [--rows 256] [--rounds 5] [--width 500] [--images FOLDER]

One process, the runs alternate, equality of the vectors is asserted first; reported is the median of the rounds'
ratios. The model is open_clip's ViT-B/32 image tower with random weights, loaded from a folder as any other.
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
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageFilter

from mmret.encode.protocol import load_encoder
from mmret.encode.stream import image_vectors, map_on_cores
from mmret.settings import EncoderSettings


def model_folder(folder: Path, name: str = "ViT-B-32", change: Mapping[str, Any] = MappingProxyType({})) -> Path:
    """``name`` as open_clip configures it, ``change``d, random weights, with a text tower of one layer to save time and memory."""
    import open_clip
    from safetensors.torch import save_file

    config = open_clip.get_model_config(name) | dict(change)
    config["text_cfg"] |= {"layers": 1, "width": 64, "heads": 1}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "open_clip_model.safetensors")
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


def paired(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> list[Round]:
    """The two in turns, ``rounds`` times."""
    rows = []
    for _ in range(rounds):
        spent = []
        for run in (theirs, ours):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            spent += [time.perf_counter() - wall, time.process_time() - cpu]
        rows.append((spent[0] / spent[2], spent[2], spent[0], spent[1] / spent[3]))
    return rows


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=256)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--batch", type=int, default=None)
    options.add_argument("--width", type=int, default=500)
    options.add_argument("--images", type=Path)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = model_folder(Path(place))
        paths = (
            sorted(chosen.images.rglob("*.jp*g"))[: chosen.rows]
            if chosen.images
            else rendered(chosen.rows, Path(place), chosen.width)
        )
        settings = EncoderSettings(kind="open_clip", model=str(folder), device="cpu", batch_size=chosen.batch)
        encoder = load_encoder(settings, "clip_image", folder)
        compare_with_model(encoder, paths, chosen.rounds)
        compare_with_loop(encoder, folder, paths, chosen.rounds)


def gate() -> dict[str, float | list[float]]:
    """Speed-ups by processor time over the bare forward pass and over the plain loop; equal vectors are asserted in both."""
    with tempfile.TemporaryDirectory() as place:
        folder = model_folder(Path(place))
        paths = rendered(24, Path(place), 500)
        encoder = load_encoder(EncoderSettings(kind="open_clip", model=str(folder), device="cpu"), "clip_image", folder)
        bare, loop = compare_with_model(encoder, paths, 3), compare_with_loop(encoder, folder, paths, 3)
    return {
        "images": len(paths),
        "over_bare_forward_processor": [r[3] for r in bare],
        "over_bare_forward_wall": [r[0] for r in bare],
        "over_plain_loop_processor": [r[3] for r in loop],
        "over_plain_loop_wall": [r[0] for r in loop],
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
    found = paired(ours, bare, rounds)
    report("decoded tensors, against the bare forward", len(pixels), found, 0.95)
    return found


def compare_with_loop(encoder: object, folder: Path, paths: list[Path], rounds: int) -> list[Round]:
    import open_clip

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    chunks = [paths[at : at + encoder.batch_size] for at in range(0, len(paths), encoder.batch_size)]

    @torch.inference_mode()
    def loop() -> np.ndarray:
        found = []
        for chunk in chunks:
            batch = torch.stack([transform(Image.open(path)) for path in chunk])
            found.append(torch.nn.functional.normalize(model.encode_image(batch)))
        return torch.cat(found).numpy()

    def ours() -> np.ndarray:
        batches = (
            pa.RecordBatch.from_pydict(
                {"image_id": list(map(str, chunk)), "path": list(map(str, chunk)), "data": [path.read_bytes() for path in chunk]}
            )
            for chunk in chunks
        )
        return np.concatenate([values for _, values in image_vectors(encoder, batches)])

    assert np.abs(ours() - loop()).max() < 1e-5
    found = paired(ours, loop, rounds)
    sizes = sorted(Image.open(io.BytesIO(path.read_bytes())).size for path in paths)
    report(f"JPEG files ({'x'.join(map(str, sizes[len(sizes) // 2]))}), against a plain loop", len(paths), found, 1.3)
    return found


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
