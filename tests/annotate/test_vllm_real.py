"""Pins of the real vLLM engine, on a CPU, with a tiny Qwen2-VL of random weights: in process and as a server, 64 pairs each,
through our own back-ends. Every pair is a row that is valid or says why not, and a second run asks nothing.

Run by `make test-vllm`, in an environment of its own (docs/vllm.md). The engine takes one to two minutes to start, each time.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mmret.annotate import prompts
from mmret.annotate.answers import Stats
from mmret.annotate.backends.load import load_annotator
from mmret.annotate.describe import describe
from mmret.annotate.instruct import instruct
from mmret.annotate.protocol import Request
from mmret.annotate.store import AnswerStore
from mmret.hashing import pair_id
from mmret.settings import AnnotateSettings, EngineSettings
from tests.annotate.vllm_server import serve

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]
PAIRS = 64
MODEL_LENGTH = 8192
GRAMMAR = {"backend": "xgrammar", "disable_any_whitespace": True}  # else a model of chance writes spaces for ever
WHOLE_PROMPTS = {"enable_chunked_prefill": False, "max_num_batched_tokens": MODEL_LENGTH}
"""On a CPU, vLLM 0.32 dies of a request that has a seed and whose prompt is taken in parts."""
REASONS = {
    "truncated",
    "not_json",
    "too_few",
    "duplicate",
    "empty",
    "too_long",
    "wrong_language",
    "refusal",
    "copied_caption",
    "leaked_source",
}
"""What may be wrong with the text of a model of chance; all else is the fault of the engine or ours."""


FINE = Request("instruct", "fine", "q", "t", description="Both images show a colour.")
TOO_LONG = Request("instruct", "long", "q", "t", description="鑰" * 6000)  # some 18,000 tokens of bytes


def _pictures() -> dict[str, bytes]:
    from PIL import Image

    made = {}
    for i in range(PAIRS + 1):
        out = io.BytesIO()
        Image.new("RGB", (40 + i, 90), (4 * i % 256, 90, 200 - 2 * i)).save(out, "PNG")
        made[f"{i:032x}"] = out.getvalue()
    return made


PICTURES = _pictures()


def _pairs() -> pa.Table:
    ids = list(zip(PICTURES, list(PICTURES)[1:], strict=False))
    return pa.table({"pair_id": [pair_id(*i) for i in ids], "query_id": [q for q, _ in ids], "target_id": [t for _, t in ids]})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder; skips where this is not vLLM's environment."""
    pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")
    from tests.annotate.tiny_vlm import make

    folder = Path(prompts.__file__).parent
    return make(
        tmp_path_factory.mktemp("tiny") / "qwen2-vl",
        [p.read_text() for p in sorted(folder.iterdir()) if p.suffix in (".md", ".jsonl")],
    )


def _settings(backend: str, model: Path, **more: Any) -> AnnotateSettings:
    engine = EngineSettings(
        model=str(model),
        temperature=1.0,
        top_p=1.0,
        max_tokens=400,
        image_size=84,
        timeout_s=300,
        deadline_s=600,
        concurrency=64,
        **more,
    )
    return AnnotateSettings(backend=backend, vision=engine, demonstrations=1, attempts=1)


def _annotate(annotator: Any, settings: AnnotateSettings, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    store, stats = AnswerStore(folder), Stats()
    annotator.load_images = lambda ids: {i: PICTURES[i] for i in ids}
    described = describe(_pairs(), {}, annotator, settings, store, stats)
    # the instructions are asked of every pair, also where chance wrote no description
    told = described.set_column(2, "text", pa.array(["Both images show a colour."] * PAIRS)).set_column(
        6, "status", pa.array(["ok"] * PAIRS)
    )
    texts = instruct(told, _pairs(), {}, annotator, settings, store, stats)
    assert stats.sent == 2 * PAIRS
    again = Stats()
    assert describe(_pairs(), {}, annotator, settings, AnswerStore(folder), again) == described
    assert instruct(told, _pairs(), {}, annotator, settings, AnswerStore(folder), again) == texts and again.sent == 0
    return described.to_pylist(), texts.to_pylist()


def _check(described: list[dict[str, Any]], texts: list[dict[str, Any]]) -> None:
    for rows in (described, texts):
        assert len(rows) == PAIRS and {r["pair_id"] for r in rows} == set(_pairs()["pair_id"].to_pylist())
        print(Counter(r["reason"] or "ok" for r in rows))
        for row in rows:
            assert (row["status"] == "ok") == (row["reason"] is None)
            assert row["status"] == "ok" or row["reason"] in REASONS, row
            assert 0 < row["tokens_out"] <= 400 and row["tokens_in"] > 20
    assert all(r["text"] for r in described if r["status"] == "ok")
    assert all(len(set(r["texts"])) >= 3 for r in texts if r["status"] == "ok")
    # the grammar holds: what was not cut off is JSON
    assert not [r for r in texts if r["reason"] == "not_json"]
    assert any(r["status"] == "ok" for r in described) and any(r["status"] == "ok" for r in texts)


def test_64_pairs_in_process(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    engine = {
        "max_model_len": MODEL_LENGTH,
        "enforce_eager": True,
        "max_num_seqs": PAIRS,
        "structured_outputs_config": GRAMMAR,
        **WHOLE_PROMPTS,
    }
    settings = _settings("vllm", model, engine=engine)
    annotator = load_annotator(settings, "descriptions")
    _check(*_annotate(annotator, settings, tmp_path))
    # one prompt that is too long for the model is that pair's reason, and holds up none of the others
    answers = dict(annotator.answers([FINE, TOO_LONG, FINE._replace(pair_id="other")]))
    assert [answers[i].error for i in range(3)] == ["", "prompt_refused", ""] and answers[2].tokens_out > 0


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a vLLM server of the tiny model."""
    options = [
        "--enforce-eager",
        "--max-model-len",
        str(MODEL_LENGTH),
        "--max-num-seqs",
        str(PAIRS),
        "--no-enable-chunked-prefill",
        "--max-num-batched-tokens",
        str(MODEL_LENGTH),
        "--limit-mm-per-prompt",
        '{"image": 2}',
        "--structured-outputs-config",
        '{"backend": "xgrammar", "disable_any_whitespace": true}',
    ]
    with serve(model, tmp_path_factory.mktemp("server") / "log", options) as url:
        yield url


def test_64_pairs_over_http(server: str, model: Path, tmp_path: Path) -> None:
    settings = _settings("openai", model, urls=(server,))
    _check(*_annotate(load_annotator(settings, "descriptions"), settings, tmp_path))


def test_a_prompt_that_is_too_long_is_that_requests_reason(server: str, model: Path) -> None:
    answers = dict(load_annotator(_settings("openai", model, urls=(server,)), "descriptions").answers([FINE, TOO_LONG]))
    assert (answers[0].error, answers[1].error) == ("", "prompt_too_long")
