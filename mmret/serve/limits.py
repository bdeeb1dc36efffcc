"""How much one request, one client and all of them together may ask for; everything that arrives is measured against it.

Costs nothing. Every limit is a field of :class:`Limits`, its default is meant for two cores. Beside what the server holds, bodies
take ``held_bytes`` at most, and decoded pictures 192 MB and their copies (:mod:`mmret.search.pixels`), with that of the one query
that is being reranked beside them.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmret.errors import UserError


class Limits(BaseModel):
    """One number each; ``Limits(pixels=50_000_000)``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    body_bytes: int = Field(16 * 2**20, gt=0, description="bytes of a request's body, and of a picture that is fetched")
    held_bytes: int = Field(128 * 2**20, gt=0, description="bytes of all bodies in memory together; more are told to come again")
    header_bytes: int = Field(16 * 2**10, ge=1024, description="bytes of the request line and the headers")
    pixels: int = Field(
        25_000_000, gt=0, le=178_000_000, description="pixels of a picture; read from its header, before it is decoded"
    )
    text: int = Field(2_000, gt=0, description="characters of a text")
    where: int = Field(2_000, gt=0, le=4_000, description="characters of a filter")
    k: int = Field(200, gt=0, description="results of one answer")
    offset: int = Field(10_000, ge=0, description="results before the first of an answer")
    rerank_depth: int = Field(100, gt=0, description="results that a reranker reads for one answer")
    reranks: int = Field(
        64, gt=0, description="queries that wait for a reranker, among those of waiting; more are told to come again"
    )
    batch: int = Field(64, gt=0, description="queries of a batch")
    waiting: int = Field(256, gt=0, description="queries that wait for their answer; more are told to come again")
    seconds: float = Field(15, gt=0, description="time for a request, from its first byte to its answer")
    connections: int = Field(400, gt=0, description="open connections; more are closed at once")
    fetch_seconds: float = Field(5, gt=0, description="time to fetch a picture from another host")


def read_limits(words: Iterable[str]) -> Limits:
    """The limits with those of ``words`` (``name=number``) changed. Raises UserError for an unknown name or a number out of range.

    >>> read_limits(["pixels=50000000"]).pixels
    50000000
    """
    given = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in Limits.model_fields:
            raise UserError(f"--limit {word}: write NAME=NUMBER; there are {', '.join(Limits.model_fields)}")
        given[name] = value.replace("_", "")
    try:
        return Limits(**given)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        raise UserError(f"--limit {wrong['loc'][0]}={wrong['input']}: {wrong['msg']}") from None
