"""What a client may ask, as pydantic models: they check types, and the OpenAPI page is made of them.

How much may be asked is not here but in :mod:`mmret.serve.limits`. Costs about 10 microseconds a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmret.serve.refusal import Refusal

Model = TypeVar("Model", bound=BaseModel)
_ID = "0123456789abcdef0123456789abcdef"


class SearchOptions(BaseModel):
    """What every search has, however it is asked."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field("", description="what is looked for, or how the picture is to be changed", examples=["a red circle"])
    k: int = Field(20, ge=1, description="number of results", examples=[10])
    offset: int = Field(0, ge=0, description="results to leave out at the beginning; for the next page, `next_offset` of the last")
    where: str = Field(
        "",
        description="SQL condition over the columns of table `images`; only pictures that fulfil it are found",
        examples=["licence LIKE 'CC%' AND width >= 64"],
    )
    explain: bool = Field(False, description="with the scores of the picture and of the text alone")
    recipe: str | None = Field(None, description="the checkpoint that answers; one of `/recipes`", examples=[None])
    rerank: str | None = Field(
        None, description="a reranker of `/recipes`, which orders the first `rerank_depth` results anew: slower", examples=[None]
    )
    rerank_depth: int = Field(50, ge=1, description="how many results it reads")


class SearchByAddress(SearchOptions):
    """A search in the query string."""

    image_id: str | None = Field(None, pattern="^[0-9a-f]{32}$", description="a picture of the corpus, not among its own results")
    image_url: str | None = Field(None, description="a picture to fetch, from a host that the server allows")


class SearchRequest(SearchByAddress):
    """A text, a picture (one of three ways), or both: the picture changed as the text says."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "a red circle", "k": 10},
                {"image_id": _ID, "text": "the same in blue", "where": "licence = 'CC0-1.0'", "explain": True},
            ]
        },
    )

    image: str | None = Field(None, description="a picture file in base64, with or without `data:image/...;base64,` before it")


MOST_PARTS = 400_000
"""Commas of a body: 64 queries whose text and filter are made of them have 300,000."""


class BatchRequest(BaseModel):
    """Many searches in one request."""

    model_config = ConfigDict(extra="forbid")

    queries: Annotated[list[Any], Field(min_length=1, description="each as for `POST /search`")]


def read_json(model: type[Model], body: bytes, most_parts: int = MOST_PARTS) -> Model:
    """``body`` as ``model``. Raises Refusal (400) for what is no JSON, (422) for JSON that does not fit.

    ``most_parts``: commas, more than which no request can have: a body of nothing else would become millions of objects.
    """
    if body.count(b",") > most_parts:
        raise Refusal(422, "the body has more parts than any request")
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise not_fitting(error.errors(include_url=False, include_input=False, include_context=False)) from None


def read_object(found: Any) -> SearchRequest:
    """One query of a batch. Raises Refusal (422) where it does not fit."""
    try:
        return SearchRequest.model_validate(found, strict=True)
    except ValidationError as error:
        raise not_fitting(error.errors(include_url=False, include_input=False, include_context=False)) from None


def not_fitting(errors: list[Any]) -> Refusal:
    """A sentence of pydantic's ``errors``, the first three of them; of what was sent only names are repeated."""
    if errors and errors[0]["type"] == "json_invalid":
        return Refusal(400, "the body is no JSON: " + str(errors[0]["msg"]).removeprefix("Invalid JSON: ")[:200])
    said = [f"{_place(error['loc'])}: {error['msg'][:1].lower()}{error['msg'][1:200]}" for error in errors[:3]]
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    return Refusal(422, "; ".join(said) + more)


def _place(where: tuple[Any, ...]) -> str:
    parts = [str(part)[:60] for part in where if part not in ("body", "query", "path")]
    return ".".join(parts) or "the request"


def read_form(fields: Mapping[str, str]) -> SearchRequest:
    """The fields of a form, all of them text. Raises Refusal (422) where they do not fit."""
    try:
        return SearchRequest.model_validate(fields)
    except ValidationError as error:
        raise not_fitting(error.errors(include_url=False, include_input=False, include_context=False)) from None
