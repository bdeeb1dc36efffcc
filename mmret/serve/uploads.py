"""Bodies: read whole, never to a disk; a form with a picture is taken apart in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from mmret.serve.limits import Limits
from mmret.serve.refusal import Refusal
from mmret.serve.requests import SearchRequest, read_form

_FIELDS = 12


class _InMemory(MultiPartParser):
    """Files of any size stay in memory: the guard has counted their bytes."""

    spool_max_size = 0  # of SpooledTemporaryFile: never to a disk


async def body_of(request: Request, kind: str) -> bytes:
    """The body of a request of media type ``kind``. Raises Refusal (415) for another."""
    require_kind(request, kind)
    return await request.body()


def require_kind(request: Request, kind: str) -> None:
    """Raise Refusal (415) where the body is not of media type ``kind``."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != kind:
        raise Refusal(415, f"send the body as {kind}, with that in the header Content-Type")


async def read_upload(request: Request, limits: Limits) -> tuple[SearchRequest, bytes | None]:
    """The fields of a form, and the file of its field ``image``. Raises Refusal where they do not fit."""
    require_kind(request, "multipart/form-data")
    body = await request.body()

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = _InMemory(request.headers, stream(), max_files=1, max_fields=_FIELDS, max_part_size=4 * limits.text + 1024)
        form = await parser.parse()
    except (MultiPartException, ValueError, KeyError, LookupError) as error:
        said = error.message if isinstance(error, MultiPartException) else "its parts cannot be told apart"
        raise Refusal(400, f"the form cannot be read: {said[:200]}") from None
    fields: dict[str, Any] = {}
    image = None
    for name, value in form.multi_items():
        if name in fields or (name == "image" and image is not None):
            raise Refusal(422, "each field once")
        if isinstance(value, str):
            fields[name] = value
        elif name == "image":
            image = value.file.read()
        else:
            raise Refusal(422, "the file is in the field `image`")
    return read_form(fields), image
