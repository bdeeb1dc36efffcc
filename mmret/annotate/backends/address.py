"""Whether the addresses of servers can be right, and what they probably should be.

The most common mistake is a path: ``/v1`` missing, or the whole of ``/chat/completions`` given. Costs nothing while all is well; a
server that knows no such path is asked for its list of models, once.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx

from mmret.annotate.backends.server_words import words_of
from mmret.errors import UserError

_HINT_TIMEOUT_S = 5.0
_MAX_MODELS = 8


def check_addresses(urls: tuple[str, ...], setting: str) -> None:
    """Raises UserError where one of ``urls`` is no address of a server."""
    for url in urls:
        parts = urlsplit(url)
        try:
            whole = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
        except ValueError:
            whole = False
        if not whole:
            raise UserError(f"{setting}.urls: {words_of(url)} is no address of a server; write it as http://HOST:PORT/v1")
        for end in ("/chat/completions", "/completions"):
            if parts.path.rstrip("/").endswith(end):
                raise UserError(f"{setting}.urls: leave {end} out of {words_of(url)}: it is added to every address")


async def address_hint(client: httpx.AsyncClient, url: str, model: str, code: str) -> str:
    """What to do about a server at ``url`` that knows no such path or model (``code`` http_404 or http_405); "" where nothing is
    found out.
    """
    if code not in ("http_404", "http_405", "http_400"):
        return ""
    models = await _models(client, url)
    if models is None:
        return f"set the address to {url}/v1: there the server answers" if await _models(client, f"{url}/v1") is not None else ""
    if not models or model in models:
        return ""
    return f"set the model to one that {url} serves: {', '.join(words_of(name) for name in models[:_MAX_MODELS])}"


async def _models(client: httpx.AsyncClient, url: str) -> list[str] | None:
    """Names of the models that a server lists; None where it lists none."""
    try:
        response = await client.get(f"{url}/models", timeout=_HINT_TIMEOUT_S)
        held = response.json() if response.status_code == 200 else None
        return [str(m["id"]) for m in held["data"]] if held is not None else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
