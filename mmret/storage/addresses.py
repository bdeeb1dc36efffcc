"""Which texts are addresses of an object store, and their parts. Costs nothing."""

from __future__ import annotations

import re
from typing import NamedTuple

from mmret.errors import UserError
from mmret.paths import is_address, local_path

SCHEMES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}
"""The schemes that are understood, by the one that they are read as."""
_ADDRESS = re.compile(r"^(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):/{1,2}(?P<rest>.*)$", re.DOTALL)  # s3:/b is what Path makes of s3://b
_BUCKET = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\?#%*{}^`\[\]\"<>~|]")


class ObjectAddress(NamedTuple):
    """``s3://bucket/prefix``: the prefix has no slash at its ends and may be empty."""

    scheme: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


def is_object_address(text: object) -> bool:
    """Whether ``text`` names a place in an object store.

    >>> is_object_address("s3://bucket/lake"), is_object_address("lakes/demo"), is_object_address("./s3:/lake")
    (True, False, False)
    """
    found = _ADDRESS.match(str(text))
    return found is not None and found["scheme"].lower() in SCHEMES


def storage_address(text: object, what: str = "") -> str:
    """``text`` as a storage is opened by it: ``s3://bucket/prefix``, else a path of this machine with ``~`` expanded.

    ``what`` (an option's name) begins the message. Raises UserError for an address of another kind and as
    :func:`mmret.paths.local_path` does.

    >>> storage_address("s3a://bucket/lakes/demo/"), storage_address("./lakes/demo")
    ('s3://bucket/lakes/demo', 'lakes/demo')
    """
    said = str(text)
    if is_object_address(said):
        return str(object_address(said, what or "the address"))
    if is_address(said) and not said.lower().startswith("file:/"):
        raise UserError(
            f"{what or 'the address'} {_as_typed(said)} is an address at which no lake can lie: give a folder, or "
            "s3://bucket/prefix (gs://, az://); a folder that is really called so is written ./NAME"
        )
    return str(local_path(said, what))


def object_address(text: object, what: str = "the address") -> ObjectAddress:
    """The parts of an address of an object store. Raises UserError for what is none, or has no bucket or an impossible one."""
    found = _ADDRESS.match(str(text))
    if found is None or found["scheme"].lower() not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in dict.fromkeys(SCHEMES.values()))
        raise UserError(f"{what} {str(text)!r} is no address of an object store: those begin with {known}")
    bucket, _, rest = found["rest"].partition("/")
    if not _BUCKET.match(bucket):
        raise UserError(f"{what} {str(text)!r} names no bucket: write {found['scheme']}://bucket/prefix")
    parts = [part for part in rest.split("/") if part]
    if unsafe := _UNSAFE.search(rest):
        raise UserError(
            f"{what} {str(text)!r} has {unsafe.group()!r} in it, which not every engine takes: use letters, digits, - _ . and ="
        )
    if any(part in (".", "..") or part.startswith(".") for part in parts):
        raise UserError(f"{what} {str(text)!r}: no part of it may begin with a dot")
    return ObjectAddress(SCHEMES[found["scheme"].lower()], bucket, "/".join(parts))


def _as_typed(text: str) -> str:
    """With the slash that ``Path`` takes away."""
    return repr(re.sub(r"^(\w[\w+.-]+:)/(?!/)", r"\1//", text))
