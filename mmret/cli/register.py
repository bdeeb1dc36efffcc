"""``mmret register``: start a model's server and make it known in the lake, where annotation finds it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import Annotated, Any

import typer

from mmret.cli.lake_option import LakeOption
from mmret.errors import UserError
from mmret.lake import Lake

_ASK_S = 2.0
_TIMEOUT_S = 5.0
_ENDS_IN_S = 30.0
_SILENT = 3


def register(
    lake: LakeOption,
    command: Annotated[
        list[str] | None, typer.Argument(help="after --: what starts the server; none: one that listens here already")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="that the server listens on")] = 8000,
    host: Annotated[str | None, typer.Option(help="address at which other machines reach this one; default: found out")] = None,
) -> None:
    """Start a server of a model (vLLM's, llama.cpp's, any that speaks OpenAI's API) and make it known in the lake while it runs.

    `mmret register --lake L --port 8000 -- vllm serve MODEL --port 8000`. Runs with annotate.vision.urls=["lake://servers"] find
    it, and share their requests out among all that there are.
    """
    from mmret.annotate.servers import Registered, registered

    storage = Lake(lake).storage
    here = f"http://127.0.0.1:{port}/v1"
    server = _start(command) if command else None
    try:
        models = _wait(here, server)
        url = f"http://{_bracketed(host or _own_address())}:{port}/v1"
        with registered(storage, Registered(url, tuple(models))):
            print(f"{url} is known in {storage.address} as a server of {', '.join(models)}", file=sys.stderr, flush=True)
            code = server.wait() if server else _watch(here)
    finally:
        if server is not None and server.poll() is None:
            server.terminate()
            try:
                server.wait(_ENDS_IN_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    raise typer.Exit(code if code >= 0 else 128 - code)


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command)
    except OSError as error:
        raise UserError(f"{command[0]} cannot be started: {os.strerror(error.errno or 0)}") from None


def _wait(url: str, server: subprocess.Popen[bytes] | None) -> list[str]:
    """Names of the server's models, once it answers; loading them may take as long as it takes."""
    while (models := _models(url)) is None:
        if server is None:
            raise UserError(f"nothing answers at {url}/models: start the server, or let this command do it, behind --")
        if server.poll() is not None:
            raise UserError(f"the server ended with code {server.returncode} before it answered at {url}: its own words are above")
        time.sleep(_ASK_S)
    if not models:
        raise UserError(f"the server at {url} names no model under /models")
    return models


def _watch(url: str) -> int:
    """Returns when a server that somebody else started no longer answers."""
    silent = 0
    while silent < _SILENT:
        time.sleep(_ASK_S)
        silent = silent + 1 if _models(url) is None else 0
    return 0


def _models(url: str) -> list[str] | None:
    import httpx

    try:
        response = httpx.get(f"{url}/models", timeout=_TIMEOUT_S, headers=_key())
        told: Any = response.json() if response.status_code == 200 else None
        return [str(each["id"]) for each in told["data"]] if told is not None else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def _key() -> dict[str, str]:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    return {"Authorization": f"Bearer {key}"} if key and key.isascii() and key.isprintable() else {}


def _own_address() -> str:
    """The address of this machine in its network, by the way out that the system would take; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way_out:
        try:
            way_out.connect(("10.255.255.255", 9))
            return str(way_out.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
