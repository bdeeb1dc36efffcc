"""A storage in an object store (S3, Google Cloud Storage, Azure) by ``obstore``. One PUT or copy is whole or not at all.

What two writers may meet on is compare-and-set by ETag; nothing is renamed, locked or told from a process id. Costs a request a
verb, some milliseconds in one's own network; copies stay on the server. A server that does not answer is asked for two minutes.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmret.atomic import remove_abandoned, replacing, scratch_folder
from mmret.errors import UserError
from mmret.storage.addresses import ObjectAddress
from mmret.storage.object_file import ObjectFile, meta_and_tail, range_of
from mmret.storage.object_folders import UNUSED_FOR_S, download_folder, drop_old, is_kept, read_manifest, upload_folder
from mmret.storage.options import PATIENCE_S, allows_http, lance_options, store_options
from mmret.storage.protocol import Entry, Token
from mmret.storage.refusals import StorageUnreachable, refusal, telling

if TYPE_CHECKING:
    import pyarrow as pa

BEAT_S = 60
"""A mark is renewed so often."""
DEAD_AFTER_S = 10 * BEAT_S
"""A mark that was not renewed for so long is a dead writer's. Clocks of machines may differ by some minutes."""


class ObjectStorage:
    """The objects below a prefix. Methods as in :class:`mmret.storage.protocol.Storage`."""

    is_local = False

    def __init__(self, place: ObjectAddress):
        """Nothing is asked for yet: a store that cannot be reached is told by the first verb."""
        from platformdirs import user_cache_path

        self.place, self.address = place, str(place)
        name = f"{(place.prefix or place.bucket).rpartition('/')[2]}-{hashlib.sha256(self.address.encode()).hexdigest()[:12]}"
        self.scratch = Path(os.environ.get("MMRET_SCRATCH") or user_cache_path("mmret") / "lakes") / name

    def __repr__(self) -> str:
        return f"ObjectStorage({self.address!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_store"}

    @cached_property
    def _store(self) -> Any:
        """The store, after one look at it with little patience: a wrong address or key is told at once."""
        with telling(self.address):
            for _ in self._opened(seconds=10).list(chunk_size=1):
                break
            return self._opened(seconds=PATIENCE_S)

    def _opened(self, seconds: float) -> Any:
        try:
            from obstore.store import from_url
        except ImportError:
            raise UserError(
                f"{self.address}: object stores need the extra `object-store`: uv pip install -e '.[object-store]'"
            ) from None
        options = store_options(self.place)
        return from_url(
            self.address,
            config=options,
            client_options={
                "allow_http": allows_http(options),
                "timeout": timedelta(seconds=60),
                "connect_timeout": timedelta(seconds=5),
            },
            # waits between retries do not grow as their documentation says: thirty were over in ten seconds
            retry_config={
                "max_retries": 10_000,
                "retry_timeout": timedelta(seconds=seconds),
                "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5), "base": 3},
            },
        )

    # -- objects ------------------------------------------------------------------------------------------------------

    def exists(self, key: str) -> bool:
        return self.token(key) is not None

    def read(self, key: str) -> bytes:
        data, _ = self.read_with_token(key)
        if data is None:
            raise FileNotFoundError(2, "no such object", self.shown(key))
        return data

    def read_with_token(self, key: str) -> tuple[bytes | None, Token | None]:
        with telling(self.address):
            try:
                found = self._store.get(key)
                return bytes(found.bytes()), found.meta["e_tag"]
            except FileNotFoundError as error:
                if refusal(str(error)):  # the bucket is missing, not the object
                    raise
                return None, None

    def write(self, key: str, data: bytes) -> None:
        with telling(self.address):
            self._store.put(key, data)

    def create(self, key: str, data: bytes) -> bool:
        return self._put_if(key, data, "create")

    def swap(self, key: str, data: bytes, token: Token | None) -> bool:
        return self._put_if(key, data, "create" if token is None else {"e_tag": token})

    def _put_if(self, key: str, data: bytes, condition: Any) -> bool:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with telling(self.address):
            try:
                self._store.put(key, data, mode=condition, use_multipart=False)
                return True
            except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
                if refusal(str(error)):  # the bucket is missing, not the object
                    raise
                return False

    def update(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        tried = None
        while True:
            before, token = self.read_with_token(key)
            if before is not None and before == tried:  # the answer to a write that succeeded was lost
                return before
            tried = data = change(before)
            if data == before or self.swap(key, data, token):
                return data

    def open(self, key: str) -> pa.NativeFile:
        import pyarrow as pa

        return pa.PythonFile(ObjectFile(self._store, key, self.address), mode="r")

    def read_tail(self, key: str) -> tuple[Entry, bytes]:
        """What a listing tells of the object, and its last 68 KB, in one request. Raises FileNotFoundError."""
        with telling(self.address):
            meta, tail = meta_and_tail(self._store, key)
        return Entry(key, meta["size"], int(meta["last_modified"].timestamp() * 1e9), meta["e_tag"]), tail

    def read_range(self, key: str, start: int, end: int, token: Token) -> bytes:
        """Bytes ``start`` to ``end`` of the content that ``token`` names. Raises ObjectChanged where it was replaced."""
        with telling(self.address):
            return range_of(self._store, key, start, end, token, self.shown(key))

    def token(self, key: str) -> Token | None:
        found = self.entry(key)
        return found and found.token

    def entry(self, key: str) -> Entry | None:
        with telling(self.address):
            try:
                return _entry(self._store.head(key))
            except FileNotFoundError:
                return None

    def is_same(self, key: str, other: str) -> bool | None:
        return None

    def freed_by(self, key: str) -> int:
        with telling(self.address):
            return self._store.head(key)["size"]

    def delete(self, keys: Iterable[str]) -> None:
        if keys := list(keys):
            with telling(self.address):
                try:
                    self._store.delete(keys)
                except FileNotFoundError:  # stores that mind, mind at the first
                    for key in keys:
                        with suppress(FileNotFoundError):
                            self._store.delete(key)

    def copy(self, source: str, target: str) -> None:
        with telling(self.address):
            self._store.copy(source, target)

    @contextmanager
    def replacing(self, key: str, version: str | None = None) -> Iterator[Path]:
        with scratch_folder(self.scratch / "writing" / "object") as folder:
            aside = folder / key.rpartition("/")[2]
            yield aside
            with telling(self.address), open(aside, "rb") as file:
                self._store.put(version or key, file)
            if version is not None:
                self.copy(version, key)

    def local(self, key: str) -> Path:
        from obstore.exceptions import PreconditionError

        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        folder, file = self.scratch / "objects" / name, key.rpartition("/")[2]
        while True:
            token = self.token(key)
            if token is None:
                raise FileNotFoundError(2, "no such object", self.shown(key))
            path = folder / hashlib.sha256(token.encode()).hexdigest()[:16] / file
            if is_kept(path):
                return path
            with suppress(PreconditionError, FileNotFoundError):  # replaced or removed since: look again
                with replacing(path) as aside, telling(self.address), aside.open("wb") as out:
                    for part in self._store.get(key, options={"if_match": token}).stream(min_chunk_size=8 * 2**20):
                        out.write(part)
                drop_old(folder, keep=path.parent)
                return path

    # -- folders ------------------------------------------------------------------------------------------------------

    def list(self, prefix: str = "", below: bool = True) -> list[Entry]:
        prefix = prefix.strip("/")
        with telling(self.address):
            if below:
                found = [each for part in self._store.list(prefix or None, chunk_size=1000) for each in part]
            else:
                found = self._store.list_with_delimiter(prefix or None)["objects"]
        entries = map(_entry, found)
        return sorted(e for e in entries if not any(part.startswith(".") for part in e.key[len(prefix) :].split("/")) and e.size)

    def names(self, prefix: str = "") -> list[str]:
        return [entry.key.rpartition("/")[2] for entry in self.list(prefix, below=False)]

    def tokens(self, prefix: str = "") -> dict[str, Token]:
        return {entry.key.rpartition("/")[2]: entry.token for entry in self.list(prefix, below=False)}

    def folders(self, prefix: str = "") -> list[str]:
        with telling(self.address):
            found = self._store.list_with_delimiter(prefix.strip("/") or None)["common_prefixes"]
        names = (each.rstrip("/").rpartition("/")[2] for each in found)
        return sorted(name for name in names if not name.startswith("."))

    def delete_below(self, prefix: str) -> None:
        with telling(self.address):
            keys = [each["path"] for part in self._store.list(prefix.strip("/"), chunk_size=1000) for each in part]
        self.delete(keys)

    @contextmanager
    def replacing_folder(self, prefix: str) -> Iterator[Path]:
        with scratch_folder(self.scratch / "writing" / "folder") as folder:
            yield folder
            with telling(self.address):
                upload_folder(self, self._store, prefix, folder)

    def local_folder(self, prefix: str) -> Path:
        manifest = read_manifest(self, prefix)
        if manifest is None:
            raise FileNotFoundError(2, "no such folder", self.shown(prefix))
        with telling(self.address):
            return download_folder(self._store, prefix, manifest, self.scratch / "folders", self.shown(prefix))

    def has_folder(self, prefix: str) -> bool:
        return read_manifest(self, prefix) is not None

    # -- writers ------------------------------------------------------------------------------------------------------

    @contextmanager
    def mark(self, key: str) -> Iterator[None]:
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(BEAT_S):
                with suppress(Exception):  # a beat that is missed is made up for by the next
                    self.write(key, str(time.time()).encode())

        self.write(key, str(time.time()).encode())
        beating = threading.Thread(target=renew, name=f"mark {key}", daemon=True)
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join()
            with suppress(StorageUnreachable):  # a mark without beats is over by itself
                self.delete([key])

    def is_marked(self, key: str) -> bool:
        beat, token = self.read_with_token(key)
        if beat is None:
            return False
        if time.time() - float(beat) < DEAD_AFTER_S:
            return True
        self.delete([key])
        return False

    def sweep(self) -> int:
        """The same of this machine's scratch folder, and copies there that nobody was given for a month. In the store nothing half
        written is seen; what was cut off of uploads in parts is for the bucket's own rules."""
        for kept in ("objects", "folders"):
            for folder in (self.scratch / kept).glob("*"):
                drop_old(folder, keep=None, kept_for_s=UNUSED_FOR_S)
        places = ("writing", "objects/*/*", "folders/*/*", "answers/*", "fetched")
        return sum(remove_abandoned(self.scratch.glob(f"{place}/.*.tmp")) for place in places)

    # -- others' engines ----------------------------------------------------------------------------------------------

    def lance_place(self, name: str = "") -> tuple[str, dict[str, str] | None]:
        return self.shown(f"lance/{name}.lance" if name else "lance"), lance_options(self.place)

    def shown(self, key: str) -> str:
        return f"{self.address}/{key}"


def _entry(meta: Any) -> Entry:
    return Entry(meta["path"], meta["size"], int(meta["last_modified"].timestamp() * 1e9), meta["e_tag"])
