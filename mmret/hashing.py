"""Identity and chance, both by hashing: what a thing is, and seeded draws that do not depend on any order.

A *fingerprint* names what something was computed from, a *digest* what it contains, a *content id* the bytes of a file. A draw is
a hash of a key and a seed, so that adding rows never changes the draws of others: old choices stay when a corpus grows.
Cost: digesting runs at about 1 GB/s; :func:`draws` makes some fifty million numbers a second, :func:`uniform` some 500,000.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def fingerprint(*parts: Any) -> str:
    """16 hex digits that depend on every JSON-serialisable part and on nothing else.

    >>> fingerprint("pairs", {"k": 20}) == fingerprint("pairs", {"k": 20})
    True
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_id(data: bytes) -> str:
    """First 128 bits of the SHA-256 of ``data``, as 32 hex digits: the id of a picture."""
    return hashlib.sha256(data).hexdigest()[:32]


def pair_id(query_id: str, target_id: str) -> str:
    """Id of the ordered pair (query, target), 32 hex digits."""
    return content_id(f"{query_id}:{target_id}".encode())


def digest_table(table: pa.Table) -> str:
    """16 hex digits of the content and order of ``table``, whatever its chunking or metadata."""
    import pyarrow as pa

    sha = hashlib.sha256()

    class Sink:
        closed = False

        def write(self, data: Any) -> int:
            sha.update(data)
            return len(data)

        def flush(self) -> None: ...

        def close(self) -> None: ...

    flat = table.replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(pa.PythonFile(Sink(), "w"), flat.schema) as writer:
        writer.write_table(flat)
    return sha.hexdigest()[:16]


def uniform(*key: object) -> float:
    """A number in [0, 1) that depends on nothing but ``key``: a seeded draw that does not depend on any order.

    >>> uniform("held-out", "image 7") == uniform("held-out", "image 7")
    True
    """
    return int(hash64("\x1f".join(map(str, key)))) / 2**64


def hash64(text: str) -> int:
    """64 bits that depend on ``text`` alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def draws(keys: np.ndarray, *salt: int | str) -> np.ndarray:
    """A uniform uint64 per key (n,) uint64 that depends on nothing but the key and ``salt`` (of a text, its first 8 bytes)."""
    import numpy as np

    state = np.uint64(0)
    for part in salt:
        number = int.from_bytes(part.encode()[:8].ljust(8, b"\0"), "big") if isinstance(part, str) else part % 2**64
        state = _splitmix(np.array([state ^ np.uint64(number)], np.uint64))[0]
    return _splitmix(_splitmix(keys.astype(np.uint64) ^ state))


def pair_draws(one: np.ndarray, other: np.ndarray, seed: np.uint64) -> np.ndarray:
    """A uniform uint64 per ordered pair of 64-bit keys (n,) uint64: :func:`uniform` for tens of millions of pairs."""
    return _splitmix(_splitmix(one ^ seed) ^ other)


def _splitmix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014) on (n,) uint64; multiplication wraps by design."""
    import numpy as np

    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
