"""Pins of vLLM's pooling runner on a CPU: our vectors, of every kind of query and candidate, for the families that it serves, in
process and from its server, and by the lines of docs/engines.md; CLIP's and their sum too.

Run by `make test-vllm`, in an environment of its own (docs/vllm.md). An engine takes half a minute or more to start; five do.
"""

from __future__ import annotations

import base64
import gc
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from mmret.retriever.models.clip import ClipRetriever
from mmret.retriever.models.engine_files import write_engine_files
from mmret.retriever.models.load import TEXT_INSTRUCTION, Retriever
from mmret.retriever.models.mllm import MllmRetriever
from tests.annotate.vllm_server import serve
from tests.docs import engines
from tests.retriever.conftest import make_clip
from tests.retriever.mllm_folders import CONTEXT, FOLDERS, publish_names

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]
NEAR = 0.999999
HEAD = 64
TASK = "find a picture,\n'quoted'"
TEXTS = ["make it green", "a", "no hat, {curly} 'quotes' \" \\n"]
KINDS = {  # picture, text, instruction
    "picture": (True, False, None),
    "text": (False, True, None),
    "both": (True, True, None),
    "picture as a query": (True, False, TASK),
    "text as a query": (False, True, TEXT_INSTRUCTION),
    "both as a query": (True, True, TASK),
}
ENGINE = {"runner": "pooling", "dtype": "float32", "enforce_eager": True, "max_num_seqs": 8}


def _pictures() -> list[Image.Image]:
    rng = np.random.default_rng(2)
    return [Image.fromarray(rng.integers(0, 255, (60, width, 3), dtype=np.uint8)) for width in (30, 60, 200)]


PICTURES = _pictures()


@pytest.fixture(scope="module", autouse=True)
def vllm() -> Iterator[Any]:
    """The package; skips where this is not vLLM's environment."""
    package = pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield package


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the page's picture, in which its lines are run."""
    monkeypatch.chdir(tmp_path)
    engines.save_picture(tmp_path)
    return tmp_path


def a_model(family: str, folder: Path) -> MllmRetriever:
    """A model as `mmret merge` writes it, in ``folder``, and ours of it."""
    FOLDERS[family](folder, HEAD)
    if family == "llava_next":
        publish_names(folder)
    write_engine_files(folder, TASK)
    return Retriever.load(folder, "cpu")


def close(llm: Any) -> None:
    llm.llm_engine.engine_core.shutdown()
    gc.collect()


def vectors(answers: Any) -> np.ndarray:
    return np.array([answer.outputs.embedding for answer in answers])


def ours_of(kind: str, ours: MllmRetriever) -> np.ndarray:
    picture, text, instruction = KINDS[kind]
    return ours.encode(PICTURES if picture else None, TEXTS if text else None, instruction=instruction)


@pytest.mark.parametrize("family", FOLDERS)
def test_prompts_and_squashed_pictures_give_our_vectors(vllm: Any, family: str, here: Path) -> None:
    ours = a_model(family, here / "mmret-mllm")
    llm = vllm.LLM(str(here / "mmret-mllm"), max_model_len=CONTEXT, **ENGINE)
    pooling = llm.llm_engine.model_config.pooler_config
    assert (pooling.seq_pooling_type, pooling.use_activation) == ("LAST", True)
    try:
        for kind, (picture, text, instruction) in KINDS.items():
            asked = [
                {"prompt": ours.prompt.fill(said if text else None, picture, instruction)}
                | ({"multi_modal_data": {"image": shown}} if picture else {})
                for shown, said in zip(ours.pictures(PICTURES), TEXTS, strict=True)
            ]
            assert engines.cosine(vectors(llm.embed(asked)), ours_of(kind, ours)) > NEAR, kind
    finally:
        close(llm)


def test_the_lines_of_the_page_make_our_vectors_in_process(here: Path) -> None:
    ours = a_model("qwen2_vl", here / "mmret-mllm")
    engine = ", ".join(f"{name}={value!r}" for name, value in ENGINE.items() if name != "runner")
    made = engines.run(
        "What is asked",
        "An MLLM: what is the caller's",
        "An MLLM in vLLM",
        replace=('LLM("mmret-mllm", runner="pooling"', f'LLM("mmret-mllm", runner="pooling", max_model_len={CONTEXT}, {engine}'),
    )
    close(made["llm"])
    assert engines.cosine(made["query_vector"], ours.encode([engines.PICTURE], [made["text"]], instruction=TASK)) > NEAR


@pytest.mark.parametrize("family", ["llava_next"])  # the one whose prompts begin with a token of their own
def test_a_server_gives_our_vectors_of_messages(family: str, here: Path) -> None:
    ours = a_model(family, here / "mmret-mllm")
    options = ["--runner", "pooling", "--dtype", "float32", "--enforce-eager", "--max-model-len", str(CONTEXT)]
    with serve(here / "mmret-mllm", here / "log", options) as url:
        for kind, (picture, text, instruction) in KINDS.items():
            rows = [
                embedding(url, shown if picture else None, said if text else None, instruction)
                for shown, said in zip(ours.pictures(PICTURES), TEXTS, strict=True)
            ]
            assert engines.cosine(rows, ours_of(kind, ours)) > NEAR, kind
        made = engines.run(
            "What is asked",
            "An MLLM: what is the caller's",
            "An MLLM on a server",
            replace=("http://127.0.0.1:8000/v1", url),
        )
    assert engines.cosine(made["query_vector"], ours.encode([engines.PICTURE], [made["text"]], instruction=TASK)) > NEAR


def embedding(url: str, picture: Image.Image | None, text: str | None, instruction: str | None) -> list[float]:
    content: list[dict[str, Any]] = []
    if picture is not None:
        png = io.BytesIO()
        picture.save(png, "PNG")
        content.append(
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()}}
        )
    if text is not None:
        content.append({"type": "text", "text": text})
    asked = [] if instruction is None else [{"role": "system", "content": instruction}]
    answer = httpx.post(
        f"{url}/embeddings",
        json={"messages": [*asked, {"role": "user", "content": content}], "add_special_tokens": True},
        timeout=300,
    )
    return answer.raise_for_status().json()["data"][0]["embedding"]


def test_the_lines_of_the_page_make_our_vectors_of_a_clip_checkpoint(here: Path) -> None:
    ours = ClipRetriever.load(make_clip(here / "clip", 2 * HEAD, 2 * HEAD, as_published=True), "cpu")
    ours.save(here / "mmret-clip")
    made = engines.run("What is asked", "CLIP in vLLM", replace=('dtype="float32"', 'dtype="float32", enforce_eager=True'))
    picture, text = [engines.PICTURE], [made["text"]]
    try:
        assert engines.cosine(made["image_vector"], ours.encode(picture)) > NEAR
        assert engines.cosine(made["text_vector"], ours.encode(texts=text)) > NEAR
        assert engines.cosine(made["vector"], ours.encode(picture, text)) > NEAR
        long = "no hat " * 50
        cut = made["llm"].embed(long, tokenization_kwargs={"truncate_prompt_tokens": ours.max_tokens})
        assert engines.cosine(vectors(cut), ours.encode(texts=[long])) > NEAR
    finally:
        close(made["llm"])
