"""Training on the device: steps of bench/gpu_train.py at the paper's sizes, and what each choice of precision gives.

Equality first: loss and gradient norm of one step of a small model, here and on the CPU, from the same weights and rows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.gpu.encoding import with_tf32, without_tf32
from bench.gpu.sheet import Sheet
from bench.gpu_train import Steps, measure
from mmret.retriever.train.parallel import Group

TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2}
"""Of loss and gradient norm, as a share."""
PEAK = 989.0
"""TFLOP/s, an H100's and H200's dense bfloat16 peak by the data sheet."""


class OnTheCpu(Group):
    device = "cpu"


def clip(sheet: Sheet) -> None:
    peak = sheet.ask("clip.gemm_bf16", lambda _: bare_product(sheet, "clip")) or PEAK
    sheet.ask("clip.equal_cpu", lambda _: equal(sheet, "clip"))
    sheet.ask("clip.step", lambda _: step(sheet, "clip", peak, 3), needs=15)


def mllm(sheet: Sheet) -> None:
    peak = sheet.ask("mllm.gemm_bf16", lambda _: bare_product(sheet, "mllm")) or PEAK
    sheet.ask("mllm.equal_cpu", lambda _: equal(sheet, "mllm"))
    sheet.ask("mllm.step", lambda _: step(sheet, "mllm", peak, 2), needs=30)


def choices(sheet: Sheet) -> None:
    """CLIP at an eighth of the batch, by what a recipe may choose; TF32 is no setting, so its row says what one would give."""
    with tempfile.TemporaryDirectory() as work:
        for name, setting, change in (
            ("bf16", without_tf32, {}),
            ("float32", without_tf32, {"precision": "float32"}),
            ("tf32", with_tf32, {"precision": "float32"}),
            ("bf16_checkpointing", without_tf32, {"gradient_checkpointing": True}),
            ("bf16_compile", without_tf32, {"compile": "eager" if sheet.small else "inductor"}),
        ):
            with setting():
                key, needs = f"choices.{name}", 15 if name == "bf16_compile" else 4
                sheet.ask(key, lambda _, k=key, c=change: choice(sheet, k, Path(work), c), needs=needs)


def bare_product(sheet: Sheet, part: str) -> float:
    """TFLOP/s of a square bfloat16 product, large enough to keep the card busy."""
    side = 128 if sheet.small else 8192
    a, b = (torch.randn(side, side, device=sheet.device).bfloat16() for _ in range(2))
    rate = 2 * side**3 / sheet.short(lambda: a @ b) / 1e12
    sheet.row(f"{part}.gemm_bf16", rate, "TFLOP/s", f"{rate / PEAK:.3f} of the data sheet's {PEAK:g}", f"{side} x {side} x {side}")
    return rate


def equal(sheet: Sheet, kind: str) -> None:
    here = Group()
    assert sheet.small or here.device == str(sheet.device), f"the trainer takes {here.device}"
    found = {}
    with tempfile.TemporaryDirectory() as work, without_tf32():
        for precision in TOLERANCES if kind == "clip" else ("float32",):
            sides = [one_step(kind, Path(work), group, precision) for group in (here, OnTheCpu())]
            apart = max(abs(a - b) / abs(b) for a, b in zip(*sides, strict=True))
            found[precision] = apart
            allowed = TOLERANCES[precision]
            assert apart <= allowed, (
                f"{precision}: loss and gradient norm {sides[0]} here and {sides[1]} on the CPU, {allowed} is allowed"
            )
    beside = ", ".join(f"{name} {apart:.2g} (at most {TOLERANCES[name]:g})" for name, apart in found.items())
    sheet.row(f"{kind}.equal_cpu", max(found.values()), "of loss and gradient norm", beside, "one step of a small model")


def one_step(kind: str, work: Path, group: Group, precision: str) -> tuple[float, float]:
    made = Steps(kind, True, work, group, precision=precision, temperature=0.1)
    return made.of(3)()


def step(sheet: Sheet, kind: str, peak: float, steps: int) -> None:
    found = measure(kind, sheet.small, 1 if sheet.small else steps, peak, seconds=max(10.0, sheet.left - 10))
    chunks = "" if found["chunks"] == found["chunks_chosen"] else f", lowered from {found['chunks_chosen']}, which did not fit"
    beside = f"{found['tflops'] / peak:.3f} of the bare product, {found['tflops'] / PEAK:.3f} of {PEAK:g} TFLOP/s"
    note = (
        f"{found['seconds_per_step']:.3f} s a step, the median of {found['steps']}; {found['batch']} rows, "
        f"{found['images']} pictures, chunks {found['chunks']}{chunks}; {found['tflop_per_step']:.4g} TFLOP counted"
    )
    if found["seconds_preparing"]:
        note += f"; {found['seconds_preparing']:.2f} s of a step in prompts and pixels on the CPU"
    sheet.row(f"{kind}.step", found["samples_per_second"], "samples/s", beside, note)


def choice(sheet: Sheet, key: str, folder: Path, change: dict[str, Any]) -> None:
    batch, steps = (2, 1) if sheet.small else (256, 2)
    found = measure("clip", sheet.small, steps, PEAK, batch, max(5.0, sheet.left - 5), folder, **change)
    beside = f"{found['tflops'] / PEAK:.3f} of {PEAK:g} TFLOP/s"
    sheet.row(key, found["samples_per_second"], "samples/s", beside, f"{found['batch']} rows, chunks {found['chunks']}")
