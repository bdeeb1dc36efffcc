"""PNG: a list of chunks with a checksum each; a lower-case first letter says that the pixels do not need the chunk."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from mmret.ingest.pictures.containers.salvaged import LARGE, Salvaged

_MAGIC = b"\x89PNG\r\n\x1a\n"
_NAME = re.compile(rb"[A-Za-z]{4}")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_TEXTS_KEPT = 16 * LARGE


class Chunk(NamedTuple):
    kind: bytes
    body: memoryview
    whole: bool
    sound: bool  # the checksum is there and right


def begins(data: bytes) -> bool:
    return data.startswith(_MAGIC)


def chunks(data: bytes) -> Iterator[Chunk]:
    """Chunks up to the end mark, to the first that is cut, or to bytes that are no chunk."""
    view, at = memoryview(data), len(_MAGIC)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if not _NAME.fullmatch(kind):
            return
        body = view[at + 8 : at + 8 + length]
        checksum = data[at + 8 + length : at + 12 + length]
        whole = len(body) == length
        yield Chunk(kind, body, whole, whole and checksum == struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))))
        if kind == b"IEND" or not whole:
            return
        at += 12 + length


def remarks(data: bytes) -> list[str]:
    found: dict[str, None] = {}
    end = len(_MAGIC)
    kind = b""
    for kind, body, whole, sound in chunks(data):
        end += 12 + len(body)
        if whole and not sound and kind != b"IEND":
            found["ancillary_checksum" if _ancillary(kind) else "pixel_checksum"] = None
    if kind != b"IEND":
        found["no_end_mark"] = None
    elif end < len(data):
        found["trailing_bytes"] = None
    return list(found)


def salvage(data: bytes) -> Salvaged | None:
    kept, noted = [_MAGIC], dict.fromkeys(remarks(data))
    texts, frames, transparent, colours = 0, 1, None, 0
    for kind, body, whole, sound in chunks(data):
        if not _ancillary(kind):
            if kind == b"IDAT":  # the decoder itself says whether some of it is missing
                kept.append(_chunk(kind, body))
            elif not sound and kind != b"IEND":
                return None
            elif kind != b"IEND":
                kept.append(_chunk(kind, body))
                transparent = body[9] if kind == b"IHDR" and len(body) == 13 else transparent
                colours = len(body) // 3 if kind == b"PLTE" else colours
        elif kind in _ANIMATION:
            if kind == b"acTL" and sound and len(body) == 8:
                frames = struct.unpack_from(">I", body)[0]
            noted |= {} if sound else {"damaged_metadata": None}
        elif kind in _TEXTS or kind == b"iCCP":
            size = _unpacked(kind, body)
            texts += size or 0
            if size is None:
                noted["damaged_metadata"] = None
            elif size > LARGE or texts > _TEXTS_KEPT:
                noted["large_metadata"] = None
            elif sound and kind != b"iCCP":  # one of them may say how the picture is turned
                kept.append(_chunk(kind, body))
        elif kind == b"tRNS" and sound:
            if len(body) == {0: 2, 2: 6}.get(transparent or 0, len(body)) and (transparent != 3 or len(body) <= colours):
                kept.append(_chunk(kind, body))
            else:
                noted["damaged_metadata"] = None
        elif kind == b"eXIf" and sound:
            kept.append(_chunk(kind, body))
        elif whole:  # not needed; why the file was refused may lie here
            noted |= {} if noted else {"damaged_metadata": None}
    return Salvaged(b"".join((*kept, _chunk(b"IEND", b""))), tuple(noted), frames=frames)


def _ancillary(kind: bytes) -> bool:
    return kind[:1].islower()


def _chunk(kind: bytes, body: bytes | memoryview) -> bytes:
    return struct.pack(">I", len(body)) + kind + bytes(body) + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _unpacked(kind: bytes, body: memoryview) -> int | None:
    """Bytes that a text or profile has unpacked, ``LARGE`` + 1 for any more; None where it cannot be read."""
    name, zero, rest = bytes(body).partition(b"\0")
    if kind == b"tEXt":
        return len(rest)
    if not zero or len(rest) < 1 + (kind == b"iTXt"):
        return None
    if kind == b"iTXt":
        packed, method, rest = rest[0], rest[1], rest[2:]
        parts = rest.split(b"\0", 2)
        if len(parts) < 3:
            return None
        if not packed:
            return len(parts[2])
        rest = bytes([method]) + parts[2]
    if rest[0] != 0:
        return None
    try:
        inflater = zlib.decompressobj()
        return len(inflater.decompress(rest[1:], LARGE + 1))
    except zlib.error:
        return None
