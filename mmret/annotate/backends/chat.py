"""From a question to chat messages with its pictures in them, as the servers and the in-process engine take them.

Costs the shrinking and encoding of each picture (about 5 ms for 448 px), once for several requests in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmret.annotate.backends.base import jpeg_uri
from mmret.annotate.compose import IMAGES, Question
from mmret.settings import EngineSettings


class PermanentError(Exception):
    """A failure that every try of this request would meet."""

    def __init__(self, code: str):
        super().__init__(code)
        self.code = code


def messages(question: Question, pictures: Sequence[str]) -> list[dict[str, Any]]:
    """Chat messages of a question; ``pictures`` (URLs or data URIs) stand where the prompt has them, source first; one alone has no
    name."""
    content: Any = question.user
    if question.images:
        before, _, after = question.user.partition(IMAGES)
        parts = [{"type": "text", "text": name} for name in question.names]
        urls = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
        shown = urls if len(urls) == 1 else [p for pair in zip(parts, urls, strict=True) for p in pair]
        around = [[{"type": "text", "text": text}] if (text := each.strip()) else [] for each in (before, after)]
        content = [*around[0], *shown, *around[1]]
    return [{"role": "system", "content": question.system}, {"role": "user", "content": content}]


def data_uris(question: Question, pictures: dict[str, bytes], engine: EngineSettings) -> list[str]:
    """The pictures of ``question`` as JPEG data URIs of the engine's size. ``pictures``: files by image id.

    Raises PermanentError (``image_gone``, ``image_unreadable``).
    """
    from mmret.ingest.pictures.decode import Unreadable  # Pillow: not for a fingerprint, which loads the back-end too

    if any(i not in pictures for i in question.images):
        raise PermanentError("image_gone")
    try:
        return [jpeg_uri(pictures[i], engine) for i in question.images]
    except Unreadable:
        raise PermanentError("image_unreadable") from None
