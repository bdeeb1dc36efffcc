"""The gallery as a web application: pictures by id, two pages, and nothing that the outside can reach.

It listens on 127.0.0.1 unless told otherwise and answers only to the names it was started under, so that a page elsewhere cannot
reach it through a name that points here. Scripts in attributes are switched off for the whole page: even markup that got into it
would not run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmret.curation.decisions import DecisionLog
from mmret.ingest.images import images_by_id
from mmret.lake import Lake
from mmret.web.pictures import Thumbnails
from mmret.web.search import Searcher
from mmret.web.tables import Tables

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; script-src-attr 'none'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'self'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Site:
    """What the pages share: one lake, read by many threads; one log of decisions."""

    lake: Lake
    tables: Tables
    thumbnails: Thumbnails
    searcher: Searcher
    log: DecisionLog


def site(lake: Lake, reviewer: str | None = None) -> Site:
    """Open ``lake``. Raises UserError where there is none."""
    tables = Tables(lake)
    tables.cursor()
    images_by_id(lake, ["0"])  # Lance is imported and the table opened before anybody waits for it
    return Site(lake, tables, Thumbnails(lake), Searcher(tables), DecisionLog(lake, reviewer))


def build(shared: Site, hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")) -> Any:
    """The FastAPI application. One per process: NiceGUI keeps its pages in a global."""
    from fastapi import FastAPI, Response
    from nicegui import ui
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from mmret.web.browse_page import BrowsePage
    from mmret.web.search_page import SearchPage

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guarded(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @app.get("/pictures/{image_id}/{side}")
    def picture(image_id: str, side: int) -> Response:
        data = shared.thumbnails.get(image_id, side)
        if data is None:
            return Response(status_code=404)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400, immutable"})

    @ui.page("/", title=f"Triplets of {shared.lake.root.name}")
    def browse() -> None:
        BrowsePage(shared).show()

    @ui.page("/search", title=f"Search {shared.lake.root.name}")
    def search(image: str = "", text: str = "", target: str = "") -> None:
        SearchPage(shared, image, text, target).show()

    ui.run_with(app, title="MMRet gallery", favicon="🖼", show_welcome_message=False, reconnect_timeout=30)
    return app


def serve(lake: Lake, port: int, host: str = "127.0.0.1", browser: bool = True, reviewer: str | None = None) -> None:
    """Serve until interrupted. Raises UserError where the port is taken."""
    import socket
    import threading
    import webbrowser

    import uvicorn

    from mmret.errors import UserError

    application = build(site(lake, reviewer), ("127.0.0.1", "localhost", "[::1]", host))
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # from here on a browser waits instead of being refused
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port} ({error.strerror}); give another --port, or 0 for any") from None
    address = f"http://{host}:{listener.getsockname()[1]}"
    print(f"gallery of {lake.root}: {address}  (Ctrl-C stops it)", flush=True)
    if browser:
        threading.Timer(1.0, webbrowser.open, [address]).start()
    uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=2)).run(sockets=[listener])
