"""Fetches addresses of objects (``s3://bucket/a.jpg``) that a table names, with the credentials of lakes and bucket by bucket.

Costs a request a picture, ``at_once`` of them at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

from mmret.atomic import replacing
from mmret.errors import UserError
from mmret.ingest.object_store.lost import SourceLost
from mmret.ingest.object_store.place import ObjectPlace
from mmret.ingest.web.refused import Refused, Wanted
from mmret.settings import DownloadSettings
from mmret.storage.addresses import object_address
from mmret.threads import in_order


def fetch_objects(wanted: Sequence[Wanted], settings: DownloadSettings) -> dict[str, Refused]:
    """Fetch the objects of ``wanted`` to their paths; those that are not fetched by address, with the reason: ``http_404``,
    ``http_403``, ``bad_address``, ``too_many_bytes``, ``empty_file``. Raises SourceLost where a store does not answer."""
    refused: dict[str, Refused] = {}
    for each, why in in_order(partial(_fetch, lru_cache(_bucket), settings), wanted, settings.at_once):
        if why is not None:
            refused[each.address] = why
    return refused


def _bucket(scheme: str, bucket: str) -> ObjectPlace:
    return ObjectPlace(object_address(f"{scheme}://{bucket}"))


def _fetch(bucket, settings: DownloadSettings, wanted: Wanted) -> Refused | None:
    scheme, _, rest = wanted.address.partition("://")
    name, _, key = rest.partition("/")
    try:
        place = bucket(object_address(f"{scheme}://{name}").scheme, name)
    except UserError as why:
        return Refused("bad_address", str(why)[:300])
    try:
        stream, size = place.open(key)
    except FileNotFoundError:
        return Refused("http_404", "there is no such object")
    except SourceLost as lost:
        if not isinstance(lost.why, UserError):
            raise
        # one bucket's fault, and another table's line may be fine
        return Refused("http_403", str(lost.why)[:300], passes=True)
    with stream:
        if size > settings.max_bytes:
            return Refused("too_many_bytes", f"{size} bytes, the limit is {settings.max_bytes}")
        data = stream.read(size)
    if not data:
        return Refused("empty_file", "the object is empty")
    wanted.path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(wanted.path) as aside:
        aside.write_bytes(data)
    return None
