"""What a client gets, as pydantic models for the OpenAPI page, and how a result of the search becomes it.

Answers are not validated on their way out: they are built here from what the search returned. Costs microseconds a hit.
"""

from __future__ import annotations

from typing import Any

import orjson
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from mmret.search.search import SearchResult
from mmret.serve.public import public_path

_DIGITS = 6
"""Of a cosine; those after them depend on which queries were answered together."""
_ID = "0123456789abcdef0123456789abcdef"


class Hit(BaseModel):
    """One picture that was found."""

    rank: int = Field(description="from 1, over all pages")
    score: float = Field(description="cosine of the query and the picture")
    image_id: str = Field(examples=[_ID])
    path: str | None = Field(description="as in the manifest; of an absolute path the last part", examples=["shapes/0/0000000.png"])
    caption: str | None
    licence: str | None
    picture: str = Field(description="where the picture is", examples=[f"/images/{_ID}/picture"])
    image_score: float | None = Field(None, description="with `explain`: cosine of the query's picture alone and this picture")
    text_score: float | None = Field(None, description="with `explain`: cosine of the query's text alone and this picture")
    rerank_score: float | None = Field(None, description="with `rerank`: what results are ordered by; null behind `rerank_depth`")


class SearchAnswer(BaseModel):
    """Hits, best first, and what they were found with."""

    hits: list[Hit]
    recipe: str
    checkpoint: str = Field(description="digest of the weights that answered")
    gallery: int = Field(description="pictures that were searched")
    matching: int = Field(description="pictures that fulfil `where`, without the query's own")
    exact: bool = Field(description="whether the query was compared with every picture by its full vector")
    recall: float | None = Field(
        description="share of the ten nearest that an index finds, measured with pictures of the corpus; null without one"
    )
    next_offset: int | None = Field(
        description="`offset` of the next page, null on the last, and where the server lets nobody go further"
    )


class ErrorAnswer(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="one sentence", examples=["give a picture, a text or both"])
    status: int | None = Field(None, description="in a batch: what the query alone would have had as its status")


class BatchAnswer(BaseModel):
    """An answer or an error for each query, in the order of the queries."""

    answers: list[SearchAnswer | ErrorAnswer]


class ImageAnswer(BaseModel):
    """A picture of the corpus."""

    image_id: str
    path: str | None
    caption: str | None
    caption_words: int | None
    width: int | None
    height: int | None
    format: str | None
    mode: str | None
    licence: str | None
    source: str | None
    extra: dict[str, Any] | None = Field(description="every other column of the source's manifest")
    remark: str | None = None
    picture: str


class RecipesAnswer(BaseModel):
    """The checkpoints that can answer."""

    default: str
    recipes: list[str]
    rerankers: list[str] = Field([], description="what `rerank` takes")


class ReadyAnswer(BaseModel):
    """Whether searches are answered, and by what."""

    ready: bool
    recipe: str | None = None
    checkpoint: str | None = None
    pictures: int | None = Field(None, description="pictures that are searched")
    dimensions: int | None = None
    exact: bool | None = None
    recall: float | None = None
    loading: str | None = Field(None, description="what is being loaded")
    error: str | None = Field(None, description="why nothing can be answered")


class HealthAnswer(BaseModel):
    """The process lives."""

    alive: bool = True


class JsonAnswer(JSONResponse):
    """A response of JSON, encoded by orjson; a number that is not finite becomes null."""

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def search_answer(result: SearchResult, recipe: str, offset: int, explain: bool, last_offset: int) -> dict[str, Any]:
    """``result``, which begins at ``offset``, as a :class:`SearchAnswer`. ``last_offset``: the largest that may be asked for."""
    hits = [_hit(hit, rank, explain) for rank, hit in enumerate(result.hits, offset + 1)]
    end = offset + len(hits)
    return {
        "hits": hits,
        "recipe": recipe,
        "checkpoint": result.checkpoint,
        "gallery": result.gallery,
        "matching": result.matching,
        "exact": result.exact,
        "recall": result.recall,
        "next_offset": end if hits and end < result.matching and end <= last_offset else None,
    }


def _hit(hit: dict[str, Any], rank: int, explain: bool) -> dict[str, Any]:
    image_id = hit["image_id"]
    made = {
        "rank": rank,
        "score": round(hit["score"], _DIGITS),
        "image_id": image_id,
        "path": public_path(hit["path"]),
        "caption": hit["caption"],
        "licence": hit["licence"],
        "picture": f"/images/{image_id}/picture",
    }
    if explain:
        for part in ("image_score", "text_score"):
            score = hit.get(part)
            made[part] = None if score is None else round(score, _DIGITS)
    if "rerank_score" in hit:
        made["rerank_score"] = None if hit["rerank_score"] is None else round(hit["rerank_score"], _DIGITS)
    return made
