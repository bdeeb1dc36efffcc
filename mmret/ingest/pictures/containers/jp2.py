"""JPEG 2000: a codestream of tile-parts with a length each, bare or in boxes; decoders differ on one that is cut."""

from __future__ import annotations

import struct

from mmret.ingest.pictures.containers.salvaged import Salvaged

_BOXED, _BARE = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
_END = b"\xff\xd9"
_SIZE, _TILE_PART = 0xFF51, 0xFF90


def begins(data: bytes) -> bool:
    return data.startswith((_BOXED, _BARE))


def remarks(data: bytes) -> list[str]:
    _, lacks = _codestream(data)
    return ["no_end_mark"] if lacks == "" else []


def salvage(data: bytes) -> Salvaged | None:
    """Signature, header and codestream, without any other box and with an end mark."""
    stream, lacks = _codestream(data)
    if lacks or not stream:
        return None
    noted = ("no_end_mark",) if lacks == "" else ("damaged_metadata",)
    stream = stream + (_END if lacks == "" else b"")
    if data.startswith(_BARE):
        return Salvaged(stream, noted)
    at, kept = 0, []
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind in (b"jP  ", b"ftyp", b"jp2h") and size >= 8:
            kept.append(data[at : at + size])
        if kind == b"jp2c":
            break
        at = at + size if size >= 8 else max(data.find(b"jp2h", at) - 4, at + 8)
    return Salvaged(b"".join(kept) + struct.pack(">I4s", len(stream) + 8, b"jp2c") + stream, noted)


def missing_pixels(data: bytes) -> str | None:
    """What the codestream lacks, or None; a missing end mark behind whole tiles is no lack."""
    return _codestream(data)[1] or None


def _codestream(data: bytes) -> tuple[bytes, str | None]:
    """The codestream, and what it lacks: None for nothing, "" for no more than its end mark."""
    start = data.find(_BARE)
    if start < 0:
        return b"", "there is no codestream"
    at, tiles = start + 2, 0
    parts: dict[int, list[int]] = {}  # tile: how many of its parts were seen, and how many there are, 0 if it does not say
    while at + 4 <= len(data):
        marker, size = struct.unpack_from(">HH", data, at)
        if marker == _SIZE and at + 38 <= len(data):
            tiles = _tiles(*struct.unpack_from(">8I", data, at + 6))
        if marker == _TILE_PART and at + 12 <= len(data):
            tile, length, _, count = struct.unpack_from(">HIBB", data, at + 4)
            end = at + length if length else data.rfind(_END)  # 0: all that is left
            if end < at + 12 or end > len(data):
                return data[start:], "a tile is cut"
            seen = parts.setdefault(tile, [0, 0])
            seen[:] = seen[0] + 1, count or seen[1]
            at = end
        elif marker >> 8 != 0xFF or marker == 0xFFD9:
            break
        else:
            at += 2 + size
    if len(parts) < max(1, tiles) or any(seen < count for seen, count in parts.values()):
        return data[start:at], "some tiles are not there"
    return (data[start : at + 2], None) if data[at : at + 2] == _END else (data[start:at], "")


def _tiles(width: int, height: int, left: int, top: int, across: int, down: int, first_left: int, first_top: int) -> int:
    return -(-(width - first_left) // max(1, across)) * -(-(height - first_top) // max(1, down))
