"""TIFF: a directory of tags that point anywhere into the file; some two dozen of them decide the pixels."""

from __future__ import annotations

import struct

from mmret.ingest.pictures.containers.salvaged import Salvaged

_PIXEL_TAGS = frozenset(
    (254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325)
    + (332, 338, 339, 347, 512, 513, 514, 515, 519, 520, 521, 529, 530, 531, 532)
)
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


def begins(data: bytes) -> bool:
    return data[:4] in (b"II*\0", b"MM\0*")


def remarks(data: bytes) -> list[str]:
    return []


def salvage(data: bytes) -> Salvaged | None:
    """The file with a first directory, behind all else, of nothing but tags of pixels; values stay where they are."""
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack_from(order + "I", data, 4)[0] if len(data) >= 8 else len(data)
    if at + 2 > len(data):
        return None
    count = struct.unpack_from(order + "H", data, at)[0]
    entries = [data[at + 2 + 12 * n : at + 14 + 12 * n] for n in range(count)]
    if any(len(entry) < 12 for entry in entries):
        return None
    kept = {}
    for entry in entries:
        tag, kind, values, place = struct.unpack(order + "HHII", entry)
        size = _SIZES.get(kind, 0) * values
        if tag in _PIXEL_TAGS:
            if not size or size > 4 and place + size > len(data):
                return None
            kept.setdefault(tag, entry)
    if not {256, 257} <= kept.keys() or len(kept) == count:
        return None
    padded = data + b"\0" * (len(data) % 2)
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept[tag] for tag in sorted(kept)) + bytes(4)
    return Salvaged(padded[:4] + struct.pack(order + "I", len(padded)) + padded[8:] + directory, ("damaged_metadata",))
