"""Back-end ``vllm``: the models run in this process, by ``vllm.LLM.chat``. Imports vLLM when the first request comes.

One model is loaded at a time: descriptions are all written before instructions, so VLM and LLM need not fit together.
Arguments of ``vllm.LLM`` (tensor_parallel_size, load_format="dummy", limit_mm_per_prompt ...) come from ``engine``.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

from mmret.annotate.backends.base import ModelAnnotator
from mmret.annotate.backends.chat import PermanentError, data_uris, messages
from mmret.annotate.compose import Question, compose
from mmret.annotate.kinds import engine_of
from mmret.annotate.protocol import Answer, Request
from mmret.errors import UserError
from mmret.settings import EngineSettings

CHUNK = 256
"""Requests handed to the engine together: enough to keep it busy, and no more than may be lost in a crash."""


class VLLMAnnotator(ModelAnnotator):
    """Answers with the models of ``settings.vision`` and ``settings.language_model``."""

    name = "vllm"
    _loaded: tuple[EngineSettings, Any] | None = None

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for start in range(0, len(requests), CHUNK):
            some = range(start, min(start + CHUNK, len(requests)))
            wanted = [i for i in some if self.skip is None or not self.skip(i)]
            if wanted:
                yield from self._chunk([requests[i] for i in wanted], wanted)

    def _chunk(self, requests: Sequence[Request], numbers: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        engine = engine_of(requests[0].kind, self.settings)
        model = self._engine(engine)
        questions = [compose(r, self.settings) for r in requests]
        pictures = self.pictures(questions)
        places, chats, sampling = [], [], []
        for i, question in enumerate(questions):
            try:
                chats.append(messages(question, data_uris(question, pictures, engine)))
            except PermanentError as error:
                yield numbers[i], Answer(error=error.code)
                continue
            places.append(numbers[i])
            sampling.append(_sampling(question, engine))
        yield from zip(places, _generate(model, chats, sampling), strict=True)

    def _engine(self, engine: EngineSettings) -> Any:
        if self._loaded is None or self._loaded[0] != engine:
            self._loaded = None
            gc.collect()
            try:
                from vllm import LLM
            except ImportError:
                raise UserError(
                    "back-end vllm needs the package vllm: pip install 'mmret[vllm]', or use annotate.backend=openai with a server"
                ) from None
            limits = {} if engine is not self.settings.vision else {"limit_mm_per_prompt": {"image": 2}}
            self._loaded = (
                engine,
                LLM(
                    **{
                        "model": engine.model,
                        "revision": engine.revision,
                        "enable_prefix_caching": True,
                        **limits,
                        **engine.engine,
                    }
                ),
            )
        return self._loaded[1]


def _generate(model: Any, chats: list[Any], sampling: list[Any]) -> list[Answer]:
    """The engine's answer to each chat.

    It refuses a whole call for one prompt that it does not take (too long for the model), before anything is generated; so a
    refused call is made again by halves, until that prompt is alone.
    """
    if not chats:
        return []
    try:
        outputs = model.chat(chats, sampling, use_tqdm=False)
    except _refusals():
        if len(chats) == 1:
            return [Answer(error="prompt_refused")]
        half = len(chats) // 2
        return _generate(model, chats[:half], sampling[:half]) + _generate(model, chats[half:], sampling[half:])
    except Exception as error:
        raise UserError(
            f"the vLLM engine stopped ({type(error).__name__}: {error}); its own log above says why. "
            "What was answered is stored: run again to go on"
        ) from error
    return [
        Answer(
            output.outputs[0].text,
            output.outputs[0].finish_reason or "stop",
            len(output.prompt_token_ids or ()),
            len(output.outputs[0].token_ids),
        )
        for output in outputs
    ]


def _refusals() -> tuple[type[Exception], ...]:
    """The errors that the engine raises for a prompt it does not take: ValueError, and in newer versions a class of vLLM."""
    try:
        from vllm.exceptions import VLLMClientError
    except ImportError:
        return (ValueError,)
    return ValueError, VLLMClientError


def _sampling(question: Question, engine: EngineSettings) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    structured = StructuredOutputsParams(json=question.schema) if question.schema and engine.structured else None
    return SamplingParams(
        temperature=engine.temperature,
        top_p=engine.top_p,
        max_tokens=engine.max_tokens,
        seed=question.seed,
        structured_outputs=structured,
    )
