"""WebP: chunks inside one RIFF chunk, whose length is often wrong where other software added or cut metadata."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mmret.ingest.pictures.containers.salvaged import Salvaged

_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANMF")
_FLAGS = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}


def begins(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(kind, body, whether it is whole) of all chunks, whatever the length of the file says."""
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if not kind.isascii() or not kind.strip().isalnum():
            return
        body = data[at + 8 : at + 8 + length]
        yield kind, body, len(body) == length
        at += 8 + length + length % 2


def remarks(data: bytes) -> list[str]:
    said = int.from_bytes(data[4:8], "little") + 8
    return ["trailing_bytes"] if said + said % 2 < len(data) else []


def salvage(data: bytes) -> Salvaged | None:
    kept: list[tuple[bytes, bytes]] = []
    frames, dropped = 0, False
    for kind, body, whole in chunks(data):
        if kind in _PIXELS and not whole:
            return None
        frames += kind == b"ANMF"
        if kind in _PIXELS or kind in (b"VP8X", b"ANIM") or kind == b"EXIF" and whole:
            kept.append((kind, body))
        else:
            dropped |= not whole
    if not any(kind in _PIXELS for kind, _ in kept):
        return None
    flags = sum(flag for kind, flag in _FLAGS.items() if any(k == kind for k, _ in kept))
    kept = [(k, bytes([b[0] & ~0x2C | flags]) + b[1:] if k == b"VP8X" and b else b) for k, b in kept]
    body = b"WEBP" + b"".join(k + struct.pack("<I", len(b)) + b + b"\0" * (len(b) % 2) for k, b in kept)
    length = int.from_bytes(data[4:8], "little") + 8
    noted = (["wrong_length"] if length != len(data) else []) + (["damaged_metadata"] if dropped or length == len(data) else [])
    return Salvaged(b"RIFF" + struct.pack("<I", len(body)) + body, tuple(noted), frames=max(1, frames))
