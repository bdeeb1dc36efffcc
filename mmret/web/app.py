"""The web application of a lake: two pages and the pictures by id, closed to other machines and to other web sites.

It listens on 127.0.0.1 unless told otherwise and answers only requests for the host names it was started with, so that another
site cannot reach it through a name that points to this address. Scripts in attributes are switched off for the whole page, so
even markup that got into it would not run.
"""

from __future__ import annotations

from typing import Any

from mmret.lake import Lake
from mmret.settings import Profile
from mmret.web.browse_page import BrowsePage
from mmret.web.question import Question
from mmret.web.search_page import SearchPage
from mmret.web.site import Site, open_site

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; script-src-attr 'none'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'self'; frame-ancestors 'none'"
)


def build(site: Site, hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")) -> Any:
    """The FastAPI application. One per process: NiceGUI keeps its pages in a global."""
    from fastapi import FastAPI, Response
    from nicegui import ui
    from starlette.middleware.trustedhost import TrustedHostMiddleware

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
        return jpeg(site.thumbnails.get(image_id, side))

    @app.get("/uploads/{name}/{side}")
    def upload(name: str, side: int) -> Response:
        return jpeg(site.uploads.thumbnail(name, side))

    def jpeg(data: bytes | None) -> Response:
        if data is None:
            return Response(status_code=404)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400, immutable"})

    add_pages(site)
    ui.run_with(app, title="MMRet", favicon="🖼", show_welcome_message=False, reconnect_timeout=30)
    return app


def add_pages(site: Site) -> None:
    """Register ``/`` and ``/search`` with NiceGUI."""
    from nicegui import ui

    @ui.page("/", title=f"Triplets of {site.lake.name}")
    def browse(pair: str = "") -> None:
        BrowsePage(site, pair).build()

    @ui.page("/search", title=f"Search {site.lake.name}")
    def search() -> None:
        SearchPage(site, Question.read(ui.context.client.request.query_params)).build()


def serve(
    lake: Lake, profile: Profile, port: int, host: str = "127.0.0.1", browser: bool = True, reviewer: str | None = None
) -> None:
    """Serve ``lake``, whose settings are ``profile``, until interrupted. Raises UserError where the port is taken."""
    import threading
    import webbrowser

    import uvicorn

    from mmret.web.listener import listen

    application = build(open_site(lake, profile, reviewer), ("127.0.0.1", "localhost", "[::1]", host))
    listener, address = listen(host, port)
    print(f"triplets of {lake.address}: {address}  (Ctrl-C stops it)", flush=True)
    if browser:
        threading.Timer(1.0, webbrowser.open, [address]).start()
    uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=2)).run(sockets=[listener])
