"""JPEG: marked segments, then scans. Segments called APPn and COM are metadata, but for JFIF's and Adobe's, which name colours.

A missing end mark does not say whether pixels are missing too, and the decoder fills gaps with grey and without a word. Pixels
that are there do not depend on what follows; so the file is decoded with other bytes behind it as well, and must look the same.
"""

from __future__ import annotations

import re
import struct
from math import ceil
from typing import NamedTuple

from mmret.ingest.containers.salvaged import Salvaged

_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # what is neither a stuffed 0xFF nor a restart
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_METADATA = frozenset((*range(0xE0, 0xF0), 0xFE))
# no 0xFF; at the end of the file the decoder reads zeros, so that every filler begins with other bits than those, and than another
_FILLERS = (b"\xfe\xa5\x3c\xe1" * 512, b"\xa5\x5b\xc2\x18\xee" * 512, b"\x5b\x97\xee\x3c" * 512)


class Segment(NamedTuple):
    marker: int
    start: int  # of the marker
    body: bytes  # of a scan's header only that
    end: int  # where the next one begins; for a scan behind its data


def begins(data: bytes) -> bool:
    return data.startswith(b"\xff\xd8\xff")


def segments(data: bytes) -> tuple[list[Segment], bool]:
    """Segments of the first picture up to its end mark, and whether that was found."""
    found: list[Segment] = []
    at = 2
    while match := _MARKER.search(data, at):
        start, marker = match.end() - 2, data[match.end() - 1]
        if marker == 0xD9:
            return found, True
        if marker in (0x01, 0xD8):
            at = match.end()
            continue
        size = int.from_bytes(data[match.end() : match.end() + 2], "big")
        end = match.end() + max(2, size)
        if end > len(data):
            break
        body = data[match.end() + 2 : end]
        if marker == 0xDA:
            behind = _MARKER.search(data, end)
            end = behind.start() if behind else len(data)
        found.append(Segment(marker, start, body, end))
        at = end
    return found, False


def remarks(data: bytes) -> list[str]:
    found, ended = segments(data)
    if not ended:
        return ["no_end_mark"]
    behind = data.find(_END, found[-1].end if found else 2) + 2
    odd = [] if _all_scans(found) else ["missing_scans"]
    views = any(s.marker == 0xE2 and s.body.startswith(b"MPF\0") for s in found)  # further pictures, not trailing bytes
    return [*odd, "trailing_bytes"] if behind < len(data) and not views else odd


def missing_pixels(data: bytes) -> str | None:
    """How many restart marks are gone between a scan's pixels, or None: with each of them a stretch of pixels went, and the decoder
    fills it with whatever comes next."""
    found, ended = segments(data)
    frame = next((s.body for s in found if s.marker in _FRAMES), b"")
    if not ended or len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        return None
    interval = 0
    for segment in found:
        if segment.marker == 0xDD and len(segment.body) >= 2:
            interval = int.from_bytes(segment.body[:2], "big")
        elif segment.marker == 0xDA and interval:
            units = _units(frame, segment.body)
            there = len(_RESTART.findall(data, segment.start, segment.end))
            if units and there < (wanted := -(-units // interval) - 1):
                return f"{wanted - there} of {wanted} restart marks are gone, and the pixels with them"
    return None


def _units(frame: bytes, scan: bytes) -> int:
    """Coded units in a scan; 0 where its header does not say."""
    height, width = struct.unpack_from(">HH", frame, 1)
    sizes = {frame[6 + 3 * n]: (frame[7 + 3 * n] >> 4, frame[7 + 3 * n] & 15) for n in range(frame[5])}
    named = scan[1 : 1 + 2 * scan[0] : 2] if scan else b""
    across, down = (max(size[way] for size in sizes.values()) for way in (0, 1))
    if not named or not across or not down or any(name not in sizes for name in named):
        return 0
    if len(named) == 1:
        own = sizes[named[0]]
        return ceil(ceil(width * own[0] / across) / 8) * ceil(ceil(height * own[1] / down) / 8)
    return ceil(width / (8 * across)) * ceil(height / (8 * down))


def salvage(data: bytes) -> Salvaged | None:
    found, ended = segments(data)
    if not found or not any(s.marker == 0xDA for s in found) or not (ended or _all_scans(found)):
        return None
    kept, noted = [b"\xff\xd8"], dict.fromkeys(remarks(data))
    before = len(data)
    for segment in found:
        if segment.marker not in _METADATA or _names_colours(segment) or _orients(segment):
            kept.append(data[segment.start : segment.end])
    body = b"".join(kept)
    if len(body) < before - 4 and ended:
        noted |= {} if noted else {"damaged_metadata": None}
    return Salvaged(body + _END, tuple(noted), () if ended else _probes(body, found))


def probes(data: bytes) -> tuple[bytes, ...]:
    """The first picture with other bytes behind its pixels: decoded, they differ if some of its pixels are missing."""
    found, _ = segments(data)
    return _probes(data[: found[-1].end], found) if found else ()


def _probes(body: bytes, found: list[Segment]) -> tuple[bytes, ...]:
    restarts = any(s.marker == 0xDD and s.body[:2] not in (b"", b"\0\0") for s in found)
    return tuple(_probe(body, filler, restarts) for filler in _FILLERS)


def _probe(body: bytes, filler: bytes, restarts: bool) -> bytes:
    body += b"\0" if body.endswith(b"\xff") else b""  # a last 0xFF is data that was stuffed
    if restarts:  # at the end of an interval the decoder takes nothing for data but what follows a restart
        last = (b"\xff\xd7", *_RESTART.findall(body))[-1][1]
        filler += b"".join(b"\xff" + bytes([0xD0 + (last + n) % 8]) + filler for n in range(1, 9))
    return body + filler + _END


def _names_colours(segment: Segment) -> bool:
    return (
        segment.marker == 0xE0
        and segment.body.startswith(b"JFIF\0")
        and len(segment.body) >= 12
        or (segment.marker == 0xEE and segment.body.startswith(b"Adobe") and len(segment.body) >= 12)
    )


def _orients(segment: Segment) -> bool:
    """Whether this is an EXIF block that can be read."""
    if segment.marker != 0xE1 or not segment.body.startswith(b"Exif\0\0"):
        return False
    from PIL import Image

    try:
        exif = Image.Exif()
        exif.load(segment.body)
        dict(exif)
    except Exception:  # Pillow raises almost anything on hostile bytes
        return False
    return True


def _all_scans(found: list[Segment]) -> bool:
    """Whether the scans that begin bring every coefficient of every component to its last bit."""
    frame = next((s for s in found if s.marker in _FRAMES), None)
    if frame is None or len(frame.body) < 6 or len(frame.body) < 6 + 3 * frame.body[5]:
        return False
    progressive = frame.marker in _PROGRESSIVE
    # by component, a bit for each coefficient that has not come to its last bit
    needed = {frame.body[6 + 3 * n]: 2**64 - 1 if progressive else 1 for n in range(frame.body[5])}
    for scan in (s.body for s in found if s.marker == 0xDA):
        count = scan[0] if scan else 0
        if len(scan) < 4 + 2 * count:
            return False
        first, last, bits = struct.unpack_from("BBB", scan, 1 + 2 * count)
        if bits & 15 == 0 or not progressive:
            brought = 2 ** (last + 1) - 2**first if first <= last < 64 else 0
            for component in scan[1 : 1 + 2 * count : 2]:
                needed[component] = needed.get(component, 0) & ~brought
    return not any(needed.values())
