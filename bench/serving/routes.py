"""How a question is asked of the server and what its answer says: the one place of this bench that knows the routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

SEARCH = "/search"
READY = "/ready"
METRICS = "/metrics"


@dataclass(frozen=True)
class Question:
    """A picture of the corpus by its id, or a text."""

    image_id: str | None = None
    text: str = ""
    k: int = 10

    def request(self) -> tuple[str, bytes | None]:
        """Path, and body of a POST or None for a GET."""
        asked = {"image_id": self.image_id} if self.image_id is not None else {"text": self.text}
        return f"{SEARCH}?{urlencode(asked | {'k': self.k})}", None


@dataclass(frozen=True)
class Answer:
    """``ids`` and ``scores``, best first, of ``gallery`` pictures by the checkpoint of that digest."""

    ids: list[str]
    scores: list[float]
    checkpoint: str
    gallery: int

    @classmethod
    def of(cls, body: dict[str, Any]) -> Answer:
        hits = body["hits"]
        return cls([h["image_id"] for h in hits], [h["score"] for h in hits], body["checkpoint"], body["gallery"])
