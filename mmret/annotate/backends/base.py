"""The base of all model back-ends: prompts, keys, prices, and pictures reduced to the size in which they are sent.

A subclass only sends questions to a model and returns its answers. Cost: composing a request and its key about 150 us; a
picture is decoded, reduced and encoded once for several requests in a row (about 5 ms for 448 px), since requests come in the
order of their query images.
"""

from __future__ import annotations

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256

from mmret.annotate import prompts
from mmret.annotate.compose import Question, compose, question_key
from mmret.annotate.kinds import engine_of, prompt_name
from mmret.annotate.protocol import Answer, Experience, Kind, LoadImages, Request
from mmret.errors import UserError
from mmret.settings import AnnotateSettings, EngineSettings
from mmret.storage import Storage


class ModelAnnotator(ABC):
    """Base of the back-ends that ask a model."""

    name = "model"
    uses_model = True

    def __init__(self, settings: AnnotateSettings):
        self.settings = settings
        self.load_images: LoadImages | None = None
        self.storage: Storage | None = None
        self.experience: Experience = "none"
        self.skip: Callable[[int], bool] | None = None
        self.remarks: list[str] = []

    def model_for(self, kind: Kind) -> str:
        engine = engine_of(kind, self.settings)
        return f"{engine.model}@{engine.revision}" if engine.revision else engine.model

    def prompt_version(self, kind: Kind) -> str:
        version = prompts.prompt(prompt_name(kind, self.settings)).version
        if kind in ("instruct", "both"):
            version += f"+{prompts.CURRENT['demonstrations']}x{self.settings.demonstrations}"
        return version if self.settings.language == "English" else f"{version}.{self.settings.language}"

    def key(self, request: Request) -> str:
        return question_key(compose(request, self.settings), engine_of(request.kind, self.settings))

    def cost(self, kind: Kind, tokens_in: int, tokens_out: int) -> float:
        engine = engine_of(kind, self.settings)
        return (tokens_in * engine.price_in + tokens_out * engine.price_out) / 1e6

    @abstractmethod
    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """See :class:`mmret.annotate.protocol.Annotator`."""

    def pictures(self, questions: Sequence[Question]) -> dict[str, bytes]:
        """The encoded files of all pictures that ``questions`` show; those that are gone are left out."""
        ids = list(dict.fromkeys(i for q in questions for i in q.images))
        if not ids:
            return {}
        if self.load_images is None:
            raise UserError("this annotator looks at the pictures: set load_images to a function from ids to files")
        return self.load_images(ids)


def jpeg_uri(data: bytes, engine: EngineSettings) -> str:
    """The picture in ``data`` as a JPEG of at most ``engine.image_size`` pixels on its longer side, as a data URI.

    Raises mmret.ingest.pictures.decode.Unreadable where it is none.
    """
    return _jpeg_uri(_File(data), engine.image_size, engine.image_quality)


class _File:
    """A picture's file as the key of a cache, which keeps its digest alone: ``data`` is gone once it was taken."""

    def __init__(self, data: bytes):
        self.data, self._digest = data, sha256(data).digest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _File) and self._digest == other._digest

    def take(self) -> bytes:
        data, self.data = self.data, b""
        return data


@lru_cache(maxsize=512)
def _jpeg_uri(file: _File, size: int, quality: int) -> str:
    from mmret.ingest.pictures.decode import open_rgb

    picture = open_rgb(file.take(), draft=(size, size))
    picture.thumbnail((size, size))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
