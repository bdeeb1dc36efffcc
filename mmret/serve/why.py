"""The route ``/why``: the training triplets that led a checkpoint to a picture it found.

Cost: :mod:`mmret.search.reasons`'s, up to 64 queries through the model, a few at a time, so that searches get their turn between.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from mmret.errors import UserError
from mmret.search.query import Query
from mmret.search.reasons import Reasons, Why
from mmret.search.snapshot import Snapshot
from mmret.serve.answers import JsonAnswer
from mmret.serve.desk import Desk
from mmret.serve.refusal import Refusal
from mmret.serve.requests import SearchRequest, read_json
from mmret.serve.uploads import body_of

_ID = "0123456789abcdef0123456789abcdef"
ImageId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class WhyRequest(BaseModel):
    """The query as it was asked, and the picture that was found."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": "a red circle", "found": _ID}]})

    found: ImageId = Field(description="id of the picture that was found")
    text: str = Field("", description="the query's text")
    image_id: ImageId | None = Field(None, description="the query's picture, by its id")
    image: str | None = Field(None, description="the query's picture, in base64")
    recipe: str | None = Field(None, description="the checkpoint that found it")
    most: int = Field(3, ge=1, le=10, description="number of reasons")


class ReasonAnswer(BaseModel):
    """A training triplet: its picture and instruction were to find its target."""

    pair_id: str
    query_id: str
    target_id: str
    text: str = Field(description="its first instruction")
    query_score: float = Field(description="cosine of its query and yours")
    target_score: float = Field(description="cosine of its target and the picture found")
    is_target: bool = Field(description="whether its target is the picture found")


class WhyAnswer(BaseModel):
    """The nearest of the triplets that the checkpoint was trained on and that led to the picture or to its like."""

    recipe: str
    checkpoint: str
    found: str
    triplets: int = Field(description="that the checkpoint was trained on")
    candidates: int = Field(description="of them that were compared with the query")
    remark: str | None = Field(description="what there is to say where there is no reason")
    reasons: list[ReasonAnswer]


def add_why(app: FastAPI, desk: Desk) -> None:
    """``POST /why``."""
    reasons = Reasons(desk.lake)
    schema = {"requestBody": {"required": True, "content": {"application/json": {"schema": WhyRequest.model_json_schema()}}}}

    @app.post(
        "/why", summary="Why a picture was found", responses={200: {"model": WhyAnswer}}, openapi_extra=schema, tags=["search"]
    )
    async def why(request: Request) -> JsonAnswer:
        asked = read_json(WhyRequest, await body_of(request, "application/json"))
        query, recipe = await desk.query_of(
            SearchRequest(text=asked.text, image_id=asked.image_id, image=asked.image, recipe=asked.recipe)
        )
        here = desk.service.snapshot(recipe)
        if here is None or not here.model.loaded:
            raise Refusal(503, "the model is being loaded; come again", 1)
        if here.gallery.ids.position(asked.found) is None:
            raise Refusal(404, "found: no picture of the corpus has this id")
        return JsonAnswer(await desk.in_turn(_answer, reasons, here, recipe, query, asked, desk))


def _answer(reasons: Reasons, here: Snapshot, recipe: str, query: Query, asked: WhyRequest, desk: Desk) -> dict[str, object]:
    try:
        why: Why = reasons.why(here, recipe, query, asked.found, asked.most)
    except UserError as error:
        raise desk.refusal(error, query, recipe) from None
    return {
        "recipe": recipe,
        "checkpoint": here.model.digest,
        "found": why.image_id,
        "triplets": why.triplets,
        "candidates": why.candidates,
        "remark": why.remark or None,
        "reasons": [vars(reason) for reason in why.reasons],
    }
