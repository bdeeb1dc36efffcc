"""The one exception with which a request is refused: a status and a sentence; a handler makes JSON of it."""

from __future__ import annotations


class Refusal(Exception):
    """``status``: of HTTP. ``retry_after``: seconds after which it may go better, None where it will not."""

    def __init__(self, status: int, sentence: str, retry_after: int | None = None):
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after = status, sentence, retry_after

    def headers(self) -> dict[str, str]:
        """Headers of the answer that carries it."""
        found = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        if self.status in (408, 413, 431):  # the rest of such a body is not waited for
            found["connection"] = "close"
        return found
