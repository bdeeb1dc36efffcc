"""GIF: blocks up to a trailer. Decoders need neither the trailer nor the comments, so nothing is ever rewritten."""

from __future__ import annotations

from mmret.ingest.pictures.containers.salvaged import Salvaged


def begins(data: bytes) -> bool:
    return data[:4] == b"GIF8"


def remarks(data: bytes) -> list[str]:
    end = _end(data)
    return ["no_end_mark"] if end is None else ["trailing_bytes"] if data[end:].strip(b"\0") else []


def salvage(data: bytes) -> Salvaged | None:
    return None


def _end(data: bytes) -> int | None:
    """Position behind the trailer; None where there is none."""
    if len(data) < 13:
        return None
    at = 13 + (3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    while at < len(data):
        if data[at] == 0x3B:
            return at + 1
        if data[at] == 0x2C and at + 10 < len(data):
            at += 11 + (3 * 2 ** ((data[at + 9] & 7) + 1) if data[at + 9] & 0x80 else 0)
        elif data[at] == 0x21:
            at += 2
        else:
            return None
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return None
