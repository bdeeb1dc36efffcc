"""The routes of the server, over a desk that answers them.

JSON comes in through pydantic's own parser and goes out through orjson; FastAPI finds the route and writes the OpenAPI page.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from mmret.serve.access import Access
from mmret.serve.answers import (
    BatchAnswer,
    ErrorAnswer,
    HealthAnswer,
    ImageAnswer,
    JsonAnswer,
    ReadyAnswer,
    RecipesAnswer,
    SearchAnswer,
)
from mmret.serve.desk import Desk
from mmret.serve.guard import Guard, refused
from mmret.serve.page import add_page
from mmret.serve.rates import Rates
from mmret.serve.refusal import Refusal
from mmret.serve.requests import BatchRequest, SearchByAddress, SearchRequest, not_fitting, read_json
from mmret.serve.rows import Rows
from mmret.serve.uploads import body_of, read_upload
from mmret.serve.why import add_why

_ABOUT = """Search of a corpus of pictures by a text, a picture, or a picture changed as a text says.

Every answer names the checkpoint that gave it and the number of pictures searched, and says whether the search was exact.
An error is `{"error": "one sentence"}` with a fitting status; 503 and 429 say in `Retry-After` when to come again."""
_SAID = {400: "not readable", 403: "not allowed", 413: "too large", 415: "not of this kind", 422: "does not fit", 503: "later"}
_ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": ErrorAnswer, "description": said} for code, said in _SAID.items()}
_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "no such picture"}}


def build(desk: Desk, rows: Rows, access: Access, rates: Rates) -> FastAPI:
    """The application."""
    app = FastAPI(
        title="MMRet search", description=_ABOUT, version=version("mmret"), docs_url=None, redoc_url=None,
        default_response_class=JsonAnswer, redirect_slashes=False,
    )  # fmt: skip
    _add_searches(app, desk)
    add_why(app, desk)
    _add_pictures(app, desk, rows)
    _add_state(app, desk)
    add_page(app)
    _add_errors(app)
    app.add_middleware(Guard, access=access, limits=desk.limits, rates=rates, metrics=desk.metrics)
    if access.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=access.origins, allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"], expose_headers=["retry-after"],
        )  # fmt: skip
    if access.token is not None:
        _note_token(app)
    return app


def _add_searches(app: FastAPI, desk: Desk) -> None:
    errors = {"responses": {200: {"model": SearchAnswer}, **_ERRORS}, "tags": ["search"]}

    @app.get("/search", summary="Search by what is in the address", **errors)
    async def search_by_address(asked: Annotated[SearchByAddress, Query()]) -> JsonAnswer:
        return JsonAnswer(await desk.answer(SearchRequest.model_construct(**asked.model_dump(), image=None)))

    @app.post(
        "/search", summary="Search by text, picture or both", openapi_extra=_body("application/json", SearchRequest), **errors
    )
    async def search(request: Request) -> JsonAnswer:
        body = await body_of(request, "application/json")
        return JsonAnswer(await desk.answer(read_json(SearchRequest, body)))

    @app.post("/search/upload", summary="Search with an uploaded picture", openapi_extra=_form(), **errors)
    async def search_with_upload(request: Request) -> JsonAnswer:
        asked, image = await read_upload(request, desk.limits)
        return JsonAnswer(await desk.answer(asked, image))

    many = {"responses": {200: {"model": BatchAnswer}, **_ERRORS}, "tags": ["search"]}

    @app.post("/search/batch", summary="Many searches", openapi_extra=_body("application/json", BatchRequest), **many)
    async def search_batch(request: Request) -> JsonAnswer:
        body = await body_of(request, "application/json")
        return JsonAnswer({"answers": await desk.answer_many(read_json(BatchRequest, body).queries)})


def _add_pictures(app: FastAPI, desk: Desk, rows: Rows) -> None:
    @app.get("/images/{image_id}", summary="A row", responses={200: {"model": ImageAnswer}, **_NOT_FOUND}, tags=["pictures"])
    async def image(image_id: str) -> JsonAnswer:
        return JsonAnswer(await desk.in_thread(rows.row, image_id))

    shown = {200: {"content": {"image/jpeg": {}}}, **_NOT_FOUND}

    @app.get(
        "/images/{image_id}/picture", summary="A picture, made anew", responses=shown, response_class=Response, tags=["pictures"]
    )
    async def picture(image_id: str, side: Literal["160", "512"] = "512") -> Response:
        data = await desk.in_thread(rows.picture, image_id, int(side))
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=86400, immutable"})


def _add_state(app: FastAPI, desk: Desk) -> None:
    @app.get("/", include_in_schema=False)
    async def start() -> RedirectResponse:
        return RedirectResponse("docs")

    @app.get("/recipes", summary="Checkpoints that can answer", responses={200: {"model": RecipesAnswer}}, tags=["server"])
    async def recipes() -> JsonAnswer:
        service = desk.service
        return JsonAnswer({"default": service.recipes[0], "recipes": service.recipes, "rerankers": service.rerankers})

    @app.get("/health", summary="The process lives", responses={200: {"model": HealthAnswer}}, tags=["server"])
    async def health() -> JsonAnswer:
        return JsonAnswer({"alive": True})

    @app.get("/ready", summary="Searches are answered", responses={200: {"model": ReadyAnswer}, 503: {"model": ReadyAnswer}},
             tags=["server"])  # fmt: skip
    async def ready() -> JsonAnswer:
        now = desk.state()
        return JsonAnswer(now, 200 if now["ready"] else 503, headers={} if now["ready"] else {"retry-after": "1"})

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response, tags=["server"])
    async def metrics() -> Response:
        return Response(desk.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        said = {404: "there is nothing at this address; /docs has what there is", 405: "not with this method"}
        answer = refused(Refusal(error.status_code, said.get(error.status_code, str(error.detail))))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(RequestValidationError)
    async def does_not_fit(request: Request, error: RequestValidationError) -> Response:
        return refused(not_fitting(list(error.errors())))


def _body(kind: str, model: Any) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {kind: {"schema": model.model_json_schema()}}}}


def _form() -> dict[str, Any]:
    schema = SearchRequest.model_json_schema()
    schema["properties"]["image"] = {"type": "string", "format": "binary", "description": "a picture file"}
    schema.pop("examples", None)
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _note_token(app: FastAPI) -> None:
    """Say in the OpenAPI page that a token is needed."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        found = plain()
        found.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
        return found

    app.openapi = openapi  # type: ignore[method-assign]
