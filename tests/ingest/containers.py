"""Pictures' files written part by part, for tests of what lies beside the pixels."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def chunk(kind: bytes, body: bytes, checksum: bytes | None = None) -> bytes:
    """A chunk of a PNG; ``checksum``: another one than the right one."""
    return struct.pack(">I", len(body)) + kind + body + (checksum or struct.pack(">I", zlib.crc32(kind + body)))


def png_of(samples: np.ndarray, colour_type: int, *extra: bytes) -> bytes:
    """A PNG of samples (height, width, channels) uint8 or uint16, ``extra`` chunks before the pixels."""
    height, width = samples.shape[:2]
    bits = samples.dtype.itemsize * 8
    rows = samples.astype(samples.dtype.newbyteorder(">")).reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def segment(marker: int, body: bytes, length: int | None = None) -> bytes:
    """A segment of a JPEG; ``length``: another one than the right one."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2 if length is None else length) + body


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(k + struct.pack("<I", len(b)) + b + b"\0" * (len(b) % 2) for k, b in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_of(tags: dict[int, tuple[int, list[int]]], strips: list[bytes], tiled: bool = False) -> bytes:
    """A little-endian TIFF of ``tags`` (tag: (3 for 16 bits or 4 for 32, values)); offsets and sizes of the strips are added."""
    at, offsets = 8, []
    for strip in strips:
        offsets.append(at)
        at += len(strip)
    tags = {**tags, 324 if tiled else 273: (4, offsets), 325 if tiled else 279: (4, [len(s) for s in strips])}
    entries, values, behind = b"", b"", at + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        kind, numbers = tags[tag]
        packed = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) <= 4:
            entries += struct.pack("<HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
        else:
            entries += struct.pack("<HHII", tag, kind, len(numbers), behind + len(values))
            values += packed
    return b"II*\0" + struct.pack("<I", at) + b"".join(strips) + struct.pack("<H", len(tags)) + entries + bytes(4) + values


def with_tag(tiff: bytes, entry: bytes) -> bytes:
    """The TIFF with another entry of twelve bytes in its first directory."""
    at = struct.unpack_from("<I", tiff, 4)[0]
    count = struct.unpack_from("<H", tiff, at)[0]
    entries = sorted([entry, *(tiff[at + 2 + 12 * n : at + 14 + 12 * n] for n in range(count))], key=lambda e: e[1::-1])
    padded = tiff + b"\0" * (len(tiff) % 2)
    return padded[:4] + struct.pack("<I", len(padded)) + padded[8:] + struct.pack("<H", count + 1) + b"".join(entries) + bytes(4)
