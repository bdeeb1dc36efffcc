"""``mmret serve``: search over HTTP."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from mmret.cli.lake_option import LakeOption
from mmret.errors import UserError
from mmret.lake import Lake

_NEEDED = ("fastapi", "uvicorn", "httptools", "orjson", "python_multipart", "prometheus_client", "limits", "fastapi_offline")


def serve(
    lake: LakeOption,
    recipe: Annotated[
        list[str] | None, typer.Option(help="recipe whose checkpoint answers, default: the first that is trained; repeatable")
    ] = None,
    rerank: Annotated[
        list[str] | None, typer.Option(help="recipe of a reranker that searches may ask for by `rerank`; repeatable")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8421,
    host: Annotated[str, typer.Option(help="address to listen on; any but 127.0.0.1 needs a token")] = "127.0.0.1",
    token_file: Annotated[Path | None, typer.Option(help="file with the token that requests need; or set MMRET_TOKEN")] = None,
    allow_host: Annotated[list[str] | None, typer.Option(help="name under which a proxy asks; repeatable")] = None,
    allow_origin: Annotated[list[str] | None, typer.Option(help="site whose pages may ask (CORS); repeatable")] = None,
    allow_url: Annotated[list[str] | None, typer.Option(help="host to fetch pictures from by address; repeatable")] = None,
    rate: Annotated[
        int | None, typer.Option(min=0, help="requests a second from one address; 0: any; default: 50, on 127.0.0.1 any")
    ] = None,
    precision: Annotated[str, typer.Option(help="of the vectors in memory: float32 (exact), int8, binary")] = "float32",
    dimensions: Annotated[int | None, typer.Option(help="of the vectors in memory, the first so many; default: all")] = None,
    index_from: Annotated[
        int, typer.Option(min=0, help="pictures from which on an approximate index answers; 0: never")
    ] = 1_000_000,
    limit: Annotated[list[str] | None, typer.Option(help="NAME=NUMBER, see docs/serving.md; repeatable")] = None,
) -> None:
    """Answer searches over HTTP: by text, picture or both, with filters, pages and batches."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f"the server needs the extra 'serve' ({', '.join(missing)} missing): pip install 'mmret[serve]'")
    from mmret.cli.terminal import say_loading
    from mmret.lake.configuration import resolve
    from mmret.search.options import SearchOptions
    from mmret.serve.access import Access, read_token
    from mmret.serve.limits import read_limits

    access = Access(read_token(token_file), tuple(allow_host or ()), tuple(allow_origin or ()), tuple(allow_url or ()))
    store = Lake(lake)
    search = SearchOptions(precision, dimensions, index_from=index_from or None)
    limits = read_limits(limit or ())
    profile, _ = resolve(store)
    say_loading()
    from mmret.serve.server import ServeOptions
    from mmret.serve.server import serve as run

    options = ServeOptions(host, port, tuple(recipe or ()), rate, access, limits, search, tuple(rerank or ()))
    run(store, profile, options)
