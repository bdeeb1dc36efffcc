"""The five benchmarks end to end with an MLLM checkpoint, loaded from its folder, on real pictures."""

from __future__ import annotations

import pytest
import torch

from mmret.benchmarks.common.reports import evaluation_rows, record
from mmret.benchmarks.common.runs import COMPOSED, IMAGE_ONLY, TEXT_ONLY, RunOptions
from mmret.benchmarks.run import run_checkpoint
from mmret.lake import Lake
from mmret.retriever.models.mllm import MllmRetriever
from mmret.schemas import EVALUATIONS
from tests.retriever.mllm_folders import llava_next, qwen2_vl

from .worlds import WORLDS

KINDS = {"circo": llava_next, "cirr": qwen2_vl, "fashioniq": llava_next, "genecis": qwen2_vl, "mmeb": llava_next}
"""The checkpoint each benchmark runs with: both kinds, and no benchmark twice."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {make: make(tmp_path_factory.mktemp(make.__name__)) for make in set(KINDS.values())}
    torch.set_num_threads(before)


@pytest.fixture
def asked(monkeypatch):
    """Every prompt a model read, as (prompt, picture shown?)."""
    seen: list[tuple[str, bool]] = []
    real = MllmRetriever.inputs

    def inputs(self, prompts, pictures):
        seen.extend((prompt, pictures is not None) for prompt in prompts)
        return real(self, prompts, pictures)

    monkeypatch.setattr(MllmRetriever, "inputs", inputs)
    return seen


@pytest.mark.parametrize("benchmark", WORLDS)
def test_mllm_checkpoint_through_the_real_loading_path(tmp_path, checkpoints, photos, asked, benchmark):
    lake = Lake(tmp_path / "lake")
    images, annotations = WORLDS[benchmark](tmp_path)
    real = sorted((photos / "images").glob("*.jpg"), key=lambda path: path.stat().st_size)[:8]  # small: quick to decode
    for i, path in enumerate(sorted(p for p in images.rglob("*") if p.suffix in (".jpg", ".png"))):
        path.write_bytes(real[i % len(real)].read_bytes())
    run = run_checkpoint(benchmark, checkpoints[KINDS[benchmark]], RunOptions(images, annotations), lake, batch_size=16)
    assert {COMPOSED, IMAGE_ONLY, TEXT_ONLY} <= {v.name for v in run.variants}
    for variant in run.variants:
        assert all(0 <= value <= 100 for _, value in variant.metrics())
    record(lake, run, "tiny-mllm")
    rows = lake.read("evaluations")
    assert rows.schema.equals(EVALUATIONS) and rows.equals(evaluation_rows(run, "tiny-mllm"))
    queries = [prompt for prompt, _ in asked if "<instruct>" in prompt]
    candidates = [prompt for prompt, shown in asked if shown and "<instruct>" not in prompt]
    assert queries and candidates
    if benchmark != "mmeb":  # whose instructions differ by data set
        told = "Retrieve the target image that best meets the combined criteria by using both the provided image and "
        assert all(told in prompt for prompt in queries)


def test_a_gallery_is_embedded_once(tmp_path, checkpoints, asked):
    lake = Lake(tmp_path / "lake")
    images, annotations = WORLDS["cirr"](tmp_path)
    first = run_checkpoint("cirr", checkpoints[qwen2_vl], RunOptions(images, annotations), lake)
    once = len(asked)
    again = run_checkpoint("cirr", checkpoints[qwen2_vl], RunOptions(images, annotations), lake)
    assert [dict(v.metrics()) for v in again.variants] == [dict(v.metrics()) for v in first.variants]
    assert not any(shown and "<instruct>" not in prompt for prompt, shown in asked[once:])
