"""Composes the question to a model from a request: messages, pictures, schema, sampling. The same for every model back-end.

Nothing here depends on batch or time: the length asked for and the demonstrations are chosen by a hash of seed, pair
and attempt, so the text, and with it the request's key, is the same in every run. Text from captions or from other models is put
in as JSON strings, and the prompts say that it is data.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from functools import lru_cache
from typing import Any, NamedTuple

from mmret.annotate import prompts
from mmret.annotate.kinds import prompt_name
from mmret.annotate.protocol import Request, request_key
from mmret.hashing import uniform
from mmret.settings import AnnotateSettings, EngineSettings

IMAGES = "{{images}}"
"""Stands for the pictures in a user text until the messages are built (:mod:`mmret.annotate.backends.chat`)."""
MAX_DATA_CHARACTERS = 6000
"""Largest number of characters of a description or list in a prompt."""
_CANDIDATE_NAMES = ("Source Image:", "Candidate Image:")


class Question(NamedTuple):
    """One call. ``user`` holds ``IMAGES`` once where ``images`` are shown; ``schema`` None asks for plain text."""

    system: str
    user: str
    images: tuple[str, ...]
    schema: dict[str, Any] | None
    seed: int
    names: tuple[str, ...] = ("Source Image:", "Target Image:")  # said before each of several pictures


def compose(request: Request, settings: AnnotateSettings) -> Question:
    """What the model is asked for ``request``: the filled prompt, pictures, JSON schema and seed."""
    draw = _draw(request, settings)
    low, high = settings.words
    slots: dict[str, object] = {
        "images": IMAGES,
        "language": settings.language,
        "count": request.count,
        "words": low + int(uniform("words", *draw) * (high - low + 1)),
        "description": _data(request.description),
        "instructions": _data(list(request.instructions)),
        "query_caption": _data(request.query_caption),
        "target_caption": _data(request.target_caption),
    }
    if request.kind in ("instruct", "both"):
        slots["demonstrations"] = "\n\n".join(map(_shown, demonstrations_of(request, settings)))
    system, user = prompts.prompt(prompt_name(request.kind, settings)).fill(**slots)
    if request.kind == "candidate":  # the source itself may be the candidate, and is then shown twice
        pictures = request.query_id, request.target_id
        return Question(system, user, pictures, _schema(request), int(uniform("seed", *draw) * 2**31), _CANDIDATE_NAMES)
    images = () if request.kind == "instruct" else tuple(dict.fromkeys((request.query_id, request.target_id)))
    return Question(system, user, images, _schema(request), int(uniform("seed", *draw) * 2**31))


def question_key(question: Question, engine: EngineSettings) -> str:
    """Key of a question: its text, pictures and their size, model, revision and sampling; not the server's address."""
    pictures = (*question.images, engine.image_size, engine.image_quality) if question.images else ()
    return request_key(
        question.system,
        question.user,
        *pictures,
        json.dumps(question.schema, sort_keys=True),
        engine.structured,
        engine.model,
        engine.revision,
        engine.temperature,
        engine.top_p,
        engine.max_tokens,
        question.seed,
    )


def demonstrations_of(request: Request, settings: AnnotateSettings) -> list[prompts.Demonstration]:
    """The demonstrations that the prompt of ``request`` shows, in their order there."""
    pool = prompts.demonstrations()
    draw = "\x1f".join(map(str, _draw(request, settings))).encode()
    numbers = [int.from_bytes(hashlib.blake2b(each + draw, digest_size=8).digest(), "big") / 2**64 for each in _starts(len(pool))]
    return [pool[i] for i in heapq.nsmallest(settings.demonstrations, range(len(pool)), key=numbers.__getitem__)]


@lru_cache
def _starts(count: int) -> list[bytes]:
    """What the keys of so many draws begin with, as :func:`mmret.hashing.uniform` writes them; it takes four times as long."""
    return [f"demonstration\x1f{i}\x1f".encode() for i in range(count)]


def _draw(request: Request, settings: AnnotateSettings) -> tuple[object, ...]:
    """What all that is drawn for a request depends on."""
    return settings.seed, request.pair_id, request.attempt


@lru_cache
def _shown(demonstration: prompts.Demonstration) -> str:
    answer = {"instructions": list(demonstration.instructions)}
    return f"Description: {_data(demonstration.description)}\nAnswer: {_data(answer)}"


def _data(value: Any) -> str:
    """``value`` as JSON, cut where it is longer than a prompt should hold."""
    if isinstance(value, str):
        value = value[:MAX_DATA_CHARACTERS]
    return json.dumps(value, ensure_ascii=False).replace(IMAGES, "{ {images} }")


def _schema(request: Request) -> dict[str, Any] | None:
    text, score = {"type": "string"}, {"type": "integer", "minimum": 1, "maximum": 5}
    texts = {"type": "array", "items": text, "minItems": request.count, "maxItems": request.count + 3}
    fields = {
        "describe": None,
        "caption": None,
        "instruct": {"instructions": texts},
        "both": {"description": text, "instructions": texts},
        "judge": {"fidelity": score, "discretion": score},
        "candidate": {"score": score},
    }[request.kind]
    if fields is None:
        return None
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
