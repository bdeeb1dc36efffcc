"""Pins of back-end vllm against a stand-in for the package: what the engine is given, and that each request has an
answer. The stand-in shows the calls only; the real engine is in test_vllm_real.py."""

from __future__ import annotations

import io
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from mmret.annotate.backends.load import load_annotator
from mmret.annotate.protocol import Request
from mmret.errors import UserError
from mmret.settings import AnnotateSettings, EngineSettings


def _picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (50, 40)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []

    class LLM:
        def __init__(self, **arguments: Any):
            self.arguments, self.calls = arguments, []
            made.append(self)

        def chat(self, chats: list, sampling: list, use_tqdm: bool) -> list:
            if any("xylophone" in str(c) for c in chats):
                raise ValueError("The decoder prompt is longer than the maximum model length")
            if any("bassoon" in str(c) for c in chats):
                raise SystemError("EngineCore encountered an issue")
            self.calls.append((chats, sampling))
            return [
                SimpleNamespace(
                    prompt_token_ids=[1] * 9,
                    outputs=[SimpleNamespace(text=f"text {i}", finish_reason="stop", token_ids=(1, 2))],
                )
                for i in range(len(chats))
            ]

    package, parameters = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    package.LLM, package.SamplingParams = LLM, lambda **a: SimpleNamespace(**a)  # type: ignore[attr-defined]
    parameters.StructuredOutputsParams = lambda json: SimpleNamespace(json=json)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", parameters)
    return made


SETTINGS = AnnotateSettings(
    backend="vllm",
    vision=EngineSettings(model="vlm", revision="r", engine={"tensor_parallel_size": 2, "load_format": "dummy"}),
    language_model=EngineSettings(model="llm"),
)


def test_one_model_at_a_time_with_its_own_arguments(engines: list[Any]) -> None:
    annotator = load_annotator(SETTINGS, "descriptions")
    annotator.load_images = lambda ids: {i: _picture() for i in ids}
    asked = [Request("describe", str(i), f"q{i}", f"t{i}") for i in range(600)]
    answers = dict(annotator.answers(asked))
    assert sorted(answers) == list(range(600))
    assert (answers[3].text, answers[3].tokens_in, answers[3].tokens_out) == ("text 3", 9, 2)
    list(annotator.answers([Request("instruct", "p", "q", "t", description="Both images show x.")]))
    vlm, llm = engines
    assert [len(chats) for chats, _ in vlm.calls] == [256, 256, 88]
    assert vlm.arguments["tensor_parallel_size"] == 2 and vlm.arguments["revision"] == "r"
    assert vlm.arguments["limit_mm_per_prompt"] == {"image": 2} and "limit_mm_per_prompt" not in llm.arguments
    chats, sampling = llm.calls[0]
    assert isinstance(chats[0][1]["content"], str)
    assert sampling[0].structured_outputs.json["required"] == ["instructions"] and sampling[0].seed >= 0
    assert vlm.calls[0][1][0].structured_outputs is None


def test_a_pair_without_its_picture_has_a_reason_and_holds_up_nobody(engines: list[Any]) -> None:
    annotator = load_annotator(SETTINGS, "descriptions")
    annotator.load_images = lambda ids: {i: _picture() for i in ids if i != "q1"}
    answers = dict(annotator.answers([Request("describe", str(i), f"q{i}", f"t{i}") for i in range(3)]))
    assert [answers[i].error for i in range(3)] == ["", "image_gone", ""]


def _instructing(*descriptions: str) -> list[Request]:
    return [Request("instruct", str(i), "q", "t", description=text) for i, text in enumerate(descriptions)]


def test_a_prompt_the_engine_refuses_is_that_pairs_reason_alone(engines: list[Any]) -> None:
    asked = _instructing(*["Both images show x."] * 5, "a xylophone", *["Both images show y."] * 4)
    answers = dict(load_annotator(SETTINGS, "descriptions").answers(asked))
    assert [answers[i].error for i in range(10)] == ["prompt_refused" if i == 5 else "" for i in range(10)]


def test_an_engine_that_dies_ends_the_run_with_what_to_do(engines: list[Any]) -> None:
    with pytest.raises(UserError, match="run again"):
        list(load_annotator(SETTINGS, "descriptions").answers(_instructing("a bassoon")))


def test_without_the_package_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    annotator = load_annotator(SETTINGS, "descriptions")
    annotator.load_images = lambda ids: {i: _picture() for i in ids}
    with pytest.raises(UserError, match="pip install"):
        list(annotator.answers([Request("describe", "p", "q", "t")]))
