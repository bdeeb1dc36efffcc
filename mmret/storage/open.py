"""Opens the storage that an address means. Nothing is read or made by it."""

from __future__ import annotations

from pathlib import Path

from mmret.storage.addresses import is_object_address, object_address, storage_address
from mmret.storage.local import LocalStorage
from mmret.storage.protocol import Storage


def open_storage(address: str | Path) -> Storage:
    """The storage at ``address``: a folder of this machine, or ``s3://bucket/prefix`` (``gs://``, ``az://``).

    Raises UserError for an address of another kind, and where the extra ``cluster`` is needed and not installed.

    >>> open_storage("lakes/demo").is_local
    True
    """
    if not is_object_address(address):
        return LocalStorage(storage_address(address, "the lake's address"))
    from mmret.storage.objects import ObjectStorage

    return ObjectStorage(object_address(address, "the lake's address"))
