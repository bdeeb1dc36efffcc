"""The verbs of a storage, which both back-ends have, and what they return. Costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

Token = str
"""Names one content of a key, as long as it is not replaced: an ETag, or a file's inode, time and size."""


class Entry(NamedTuple):
    """What a listing tells of one object."""

    key: str
    size: int
    modified_ns: int  # since 1970, by the clock of whoever keeps the object
    token: Token


class ObjectChanged(OSError):
    """The object was replaced while it was read: open it again."""


class Storage(Protocol):
    """A place of keys. Methods raise FileNotFoundError where a key that is to be read is not there, UserError for what a person can
    mend (credentials, a bucket that is missing), and :class:`mmret.storage.StorageUnreachable` where the server does not answer."""

    address: str
    """As a person writes it: an absolute path, or ``s3://bucket/prefix``."""
    is_local: bool
    scratch: Path
    """A folder of this machine for caches and work that is under way; never the only copy of anything. Not made yet."""

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key."""

    def read(self, key: str) -> bytes:
        """The whole object."""

    def read_with_token(self, key: str) -> tuple[bytes | None, Token | None]:
        """The whole object and the token of that content; None, None where there is none."""

    def write(self, key: str, data: bytes) -> None:
        """Replace the object, whole or not at all."""

    def create(self, key: str, data: bytes) -> bool:
        """Write the object where there is none; False where there is one. Of several that try at once one succeeds."""

    def swap(self, key: str, data: bytes, token: Token | None) -> bool:
        """Compare and set: write only if the content is still the one that ``token`` names (None: not there)."""

    def update(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Read, ``change`` and write, again from the start where somebody wrote in between; returns what was written."""

    def open(self, key: str) -> pa.NativeFile:
        """The object for random access: of an object store only the ranges that are asked for are read, all of one content.

        >>> with storage.open("pairs/shard-00000.parquet") as file:
        ...     pq.read_table(file, columns=["pair_id"])
        """

    def list(self, prefix: str = "", below: bool = True) -> list[Entry]:
        """The objects in folder ``prefix``, in order of their keys; ``below``: at any depth. Hidden names are left out."""

    def names(self, prefix: str = "") -> list[str]:
        """Names of the objects directly in folder ``prefix``, in order, but hidden ones: what costs least to ask."""

    def folders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly in ``prefix``, in order, but hidden ones."""

    def tokens(self, prefix: str = "") -> dict[str, Token]:
        """The tokens of the objects directly in folder ``prefix``, by name, but hidden ones: what costs least to ask."""

    def token(self, key: str) -> Token | None:
        """The token of the content that is there now; None where there is none."""

    def entry(self, key: str) -> Entry | None:
        """Size, time and token of the object, as a listing tells them; None where there is none."""

    def is_same(self, key: str, other: str) -> bool | None:
        """Whether both keys are names of one file; None where the storage has no such thing as two names of one object."""

    def freed_by(self, key: str) -> int:
        """Bytes that deleting ``key`` would free: none where the file has another name."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are passed over."""

    def delete_below(self, prefix: str) -> None:
        """Remove all that is in folder ``prefix``, and the folder."""

    def copy(self, source: str, target: str) -> None:
        """Make ``target`` the same content, without moving it through this machine where that is possible."""

    def replacing(self, key: str, version: str | None = None) -> AbstractContextManager[Path]:
        """Give a local path to write to; on leaving without an error its content becomes ``key``, else nothing happened.

        ``version``: a second key under which the same content stays when ``key`` is replaced later; it is there when ``key`` is.

        >>> with storage.replacing("pairs/shard-00000.parquet") as aside:
        ...     pq.write_table(rows, aside)
        """

    def replacing_folder(self, prefix: str) -> AbstractContextManager[Path]:
        """The same with an empty folder: readers see the folder of before or the new one."""

    def local(self, key: str) -> Path:
        """A file of this machine with the object's content, not to be written to: the object itself, or a copy that is kept in
        ``scratch`` until the object changes."""

    def local_folder(self, prefix: str) -> Path:
        """The same for a folder that :meth:`replacing_folder` made."""

    def has_folder(self, prefix: str) -> bool:
        """Whether :meth:`local_folder` has something to give."""

    def mark(self, key: str) -> AbstractContextManager[None]:
        """Inside the block others see ``key`` as marked (:meth:`is_marked`), whatever way the block ends in, a kill included."""

    def is_marked(self, key: str) -> bool:
        """Whether somebody who is alive marks ``key``; what a killed one left is removed."""

    def sweep(self) -> int:
        """Remove what killed writers left and nobody is writing; how many files. Safe beside writers."""

    def lance_place(self, name: str = "") -> tuple[str | Path, dict[str, str] | None]:
        """Address and storage options of the folder of Lance tables, or of table ``name``, as Lance takes them."""

    def shown(self, key: str) -> str:
        """``key`` as a person finds it: an absolute path or an address."""
