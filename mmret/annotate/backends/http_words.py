"""What HTTP says beside the answer: packed or oddly encoded bodies, faults of TLS, times to wait, the key. Costs microseconds."""

from __future__ import annotations

import os
import ssl
import zlib

from mmret.annotate.backends.server_words import words_of
from mmret.errors import UserError
from mmret.settings import EngineSettings


def plain_body(data: bytes, charset: str | None, limit: int) -> bytes:
    """``data`` unpacked where a server packed it without a word, as UTF-8 where it says another encoding."""
    if data[:2] == b"\x1f\x8b":
        try:
            data = zlib.decompressobj(31).decompress(data, limit)
        except zlib.error:
            return data
    if charset and charset.lower() not in ("utf-8", "utf8"):
        try:
            return data.decode(charset).encode()
        except (LookupError, UnicodeError):
            return data
    return data


def tls_words(error: BaseException) -> str | None:
    """What went wrong with TLS where ``error`` comes of it; None where it does not."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return None if cause is None else words_of(str(cause))


def retry_after(value: str | None) -> float | None:
    """Seconds a server asks to be left alone; None where it says nothing that can be read."""
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:
        return None


def key_header(engine: EngineSettings) -> dict[str, str]:
    """The header with the engine's key, if it has one. Raises UserError for a key with characters that no key has."""
    key = os.environ.get(engine.api_key_variable, "").strip()
    if not key.isascii() or not key.isprintable():
        raise UserError(
            f"the key in the environment variable {engine.api_key_variable} has characters that no key has: set it anew"
        )
    return {"Authorization": f"Bearer {key}"} if key else {}
