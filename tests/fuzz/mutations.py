"""Files that are nearly right: valid ones, changed where formats are sensitive. They get deeper into a reader than noise does."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

_NUMBERS = (0, 1, 2, 3, 4, 8, 12, 13, 127, 128, 255, 256, 511, 512, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
_WORDS = (
    b"\0",
    b"\n",
    b"\r\n",
    b"\r",
    b"\t",
    b",",
    b";",
    b"|",
    b'"',
    b"'",
    b'""',
    b'"\n',
    b"\\",
    b"\\N",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xe4",
    "ü".encode(),
    "\u2028".encode(),
    "\U0001f600".encode(),
    b"\xed\xa0\x80",
    b"nan",
    b"null",
    b"None",
    b"../",
    b"/etc/passwd",
    b"a.png",
    b"%20",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[[[[",
    b":",
    b"1e999",
    b"<think>",
    b"</think>",
    b"```",
    b"1. ",
    b"image",
    b"caption",
    b"https://example.org/a.png",
)

Change = Callable[[bytes], bytes]


@st.composite
def _change(draw: st.DrawFn, others: Sequence[bytes]) -> Change:
    """One change; the place is a fraction of the file, so that shrinking keeps its meaning."""
    kind = draw(st.sampled_from(("flip", "number", "word", "cut", "drop", "repeat", "splice", "line", "swap", "byte")))
    where, more = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 64))
    number, order = draw(st.sampled_from(_NUMBERS)), draw(st.sampled_from("<>"))
    size = draw(st.sampled_from("BHIQ"))
    word = draw(st.sampled_from(_WORDS))
    other = draw(st.sampled_from(others))

    def changed(data: bytes) -> bytes:
        at = int(where * len(data))
        if kind == "flip" and data:
            return data[:at] + bytes([data[at] ^ (1 << more % 8)]) + data[at + 1 :]
        if kind == "byte" and data:
            return data[:at] + bytes([number & 0xFF]) + data[at + 1 :]
        if kind == "number":
            packed = struct.pack(order + size, number & (256 ** struct.calcsize(size) - 1))
            return data[:at] + packed + data[at + len(packed) :]
        if kind == "word":
            return data[:at] + word + data[at + (len(word) if more % 2 else 0) :]
        if kind == "cut":
            return data[:at]
        if kind == "drop":
            return data[:at] + data[at + more :]
        if kind == "repeat":
            return data[: at + more] + data[at : at + more] * (more % 5) + data[at + more :]
        if kind == "splice":
            return data[:at] + other[int(where * len(other)) :]
        lines = data.split(b"\n")
        row = int(where * len(lines))
        if kind == "line":
            lines[row : row + 1] = [lines[row]] * (more % 3)
        else:
            lines[row], lines[-1 - row] = lines[-1 - row], lines[row]
        return b"\n".join(lines)

    return changed


@st.composite
def nearly(draw: st.DrawFn, files: Sequence[bytes], most: int = 4) -> bytes:
    """One of ``files`` after up to ``most`` changes; no longer than four times the longest of them."""
    data = draw(st.sampled_from(files))
    for change in draw(st.lists(_change(files), max_size=most)):
        data = change(data)
    return data[: 4 * max(map(len, files))]


def with_checksums(tar: bytes) -> bytes:
    """``tar`` with a right checksum in whatever may be a header, so that a changed header is read and not just refused."""
    blocks = bytearray(tar)
    for at in range(0, len(blocks) - 511, 512):
        header = blocks[at : at + 512]
        if header[257:262] == b"ustar":
            blocks[at + 148 : at + 156] = b" " * 8
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(blocks[at : at + 512])
    return bytes(blocks)
