"""Says what a file is that no decoder here takes, in words that help: an SVG drawing, an error page, a Git LFS pointer.

Told by the first bytes and never by the name. Cost: a few comparisons, for rejected files only.
"""

from __future__ import annotations

import re
import struct

Refusal = tuple[str, str]
"""The reason of table ``rejects``, and words for a person."""

_EXPORT = "export it as PNG or JPEG"
_UNSUPPORTED = (
    (b"8BPS", f"a Photoshop document: {_EXPORT}"),
    (b"%PDF-", f"a PDF: {_EXPORT}, a page each"),
    (b"%!PS", f"a PostScript drawing: {_EXPORT}"),
    (b"\xc5\xd0\xd3\xc6", f"an EPS drawing: {_EXPORT}"),
    (b"\xff\x0a", "JPEG XL: convert it to PNG or JPEG (djxl)"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL: convert it to PNG or JPEG (djxl)"),
    (b"FUJIFILMCCD-RAW", f"a raw photo of a camera: develop it and {_EXPORT}"),
    (b"IIU\0", f"a raw photo of a camera (RW2): develop it and {_EXPORT}"),
    (b"IIRO", f"a raw photo of a camera (ORF): develop it and {_EXPORT}"),
    (b"FOVb", f"a raw photo of a camera (X3F): develop it and {_EXPORT}"),
    (b"\0MRM", f"a raw photo of a camera (MRW): develop it and {_EXPORT}"),
    (b"gimp xcf", f"a GIMP document: {_EXPORT}"),
    (b"\x76\x2f\x31\x01", f"OpenEXR: {_EXPORT}"),
    (b"#?RADIANCE", f"a Radiance picture: {_EXPORT}"),
    (b"DDS ", f"a DirectX texture: {_EXPORT}"),
    (b"SIMPLE  =", f"a FITS picture of astronomy: {_EXPORT}"),
    (b"II\xbc", f"JPEG XR: {_EXPORT}"),
    (b"\xd7\xcd\xc6\x9a", f"a Windows metafile: {_EXPORT}"),
    (b"qoif", f"a QOI picture: {_EXPORT}"),
    (b"icns", f"icons of macOS: {_EXPORT}"),
    (b"\0\0\2\0\1\0", f"a cursor of Windows: {_EXPORT}"),
    (b"\x1aE\xdf\xa3", "a film (Matroska or WebM): take stills from it"),
)
_OTHER = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer in place of the file: run `git lfs pull` in its repository"),
    (b"\0\x05\x16\x07", "a file that macOS puts beside others (._name), without a picture: delete it"),
    (b"\0\x05\x16\0", "a file of macOS (AppleSingle): copy the picture again"),
    (b"PK\x03\x04", "a ZIP archive: unpack it"),
    (b"\x1f\x8b", "a gzip file: unpack it"),
    (b"BZh", "a bzip2 file: unpack it"),
    (b"\xfd7zXZ\0", "an xz file: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"PAR1", "a Parquet file: give it as a source"),
    (b"SQLite format 3\0", "an SQLite data base"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"OggS", "a sound or film"),
    (b"ID3", "a sound"),
    (b"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", "a picture that was saved as text, which destroyed it: fetch it again"),
    (b"\xef\xbf\xbdPNG", "a picture that was saved as text, which destroyed it: fetch it again"),
)
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"),
    b"jxl ": "JPEG XL: convert it to PNG or JPEG (djxl)",
    b"crx ": f"a raw photo of a camera (CR3): develop it and {_EXPORT}",
}
_HEIF = frozenset(brand for brand, kind in _BRANDS.items() if kind == "HEIF")
_HTML = re.compile(rb"<!doctype html|<html[\s>]|<head[\s>]|<body[\s>]", re.I)
_TEXTS = (
    (re.compile(rb"<svg[\s>]|<!doctype svg", re.I), "unsupported_format", f"an SVG drawing: {_EXPORT}"),
    (_HTML, "not_an_image", "an HTML page, as a server sends for an error{}"),
    (re.compile(rb"^\s*<Error>|^\s*<\?xml", re.I), "not_an_image", "an XML text, as a server sends for an error{}"),
    (re.compile(rb'^\s*[{\[]\s*["{\[\]}]'), "not_an_image", "a JSON text, as a server sends for an error{}"),
    (re.compile(rb"^data:image/", re.I), "not_an_image", "a data: address as text: decode it from base64 into a file"),
    (re.compile(rb"^(/9j/|iVBORw0KGgo|R0lGOD|UklGR)"), "not_an_image", "a picture as base64 text: decode it into a file"),
    (re.compile(rb"^HTTP/[\d.]+ \d{3}"), "not_an_image", "a server's answer with its head{}"),
)
_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706


def is_heif(data: bytes) -> bool:
    """Whether the file says that it is HEIC or HEIF, what iPhones take photos in."""
    if data[4:8] != b"ftyp" or data[8:12] not in _HEIF:
        return False
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return not any(brands[at : at + 4] in (b"avif", b"avis") for at in range(0, len(brands), 4))


def raw_photo(data: bytes) -> str | None:
    """What a TIFF is whose pixels are a camera's own, and whose first picture is only a preview; None for any other."""
    order = "<" if data[:2] == b"II" else ">"
    words = "a raw photo of a camera ({}), of which only a preview can be seen: develop it and " + _EXPORT
    if data[8:10] == b"CR":
        return words.format("CR2")
    tags = {}
    try:
        at = struct.unpack_from(order + "I", data, 4)[0]
        for n in range(struct.unpack_from(order + "H", data, at)[0]):
            tag, kind = struct.unpack_from(order + "HH", data, at + 2 + 12 * n)
            tags[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, at + 10 + 12 * n)[0]
    except struct.error:
        return None
    if _DNG_VERSION in tags:
        return words.format("DNG")
    return words.format("NEF, ARW or the like") if tags.get(_SUBFILE_TYPE) == 1 and _SUB_IFDS in tags else None


def what_else(data: bytes) -> Refusal:
    """Why ``data``, which begins like no picture that is decoded, is refused.

    >>> what_else(b"%PDF-1.7")
    ('unsupported_format', 'a PDF: export it as PNG or JPEG, a page each')
    """
    for start, words in _UNSUPPORTED:
        if data.startswith(start):
            return "unsupported_format", words
    if data[4:8] == b"ftyp":
        return "unsupported_format", _BRANDS.get(data[8:12], "a film (MP4 or the like): take stills from it")
    if data[:4] == b"RIFF" and data[8:12] in (b"AVI ", b"WAVE"):
        return "unsupported_format", "a film or sound: take stills from it"
    for start, words in _OTHER:
        if data.startswith(start):
            return "not_an_image", words
    head = data[:2048]
    for pattern, reason, words in _TEXTS:
        if (pattern.search if pattern.pattern[:1] == b"<" else pattern.match)(head):
            return reason, words.format(_excerpt(data))
    if not data.strip(b"\0"):
        return "not_an_image", f"{len(data)} bytes, all zero: an interrupted copy; copy it again"
    if _is_text(head):
        return "not_an_image", f"a text{_excerpt(data)}"
    return "not_an_image", f"{len(data)} bytes that begin with {data[:16]!r}"


def _is_text(head: bytes) -> bool:
    return not any(byte < 9 or 13 < byte < 32 for byte in head) and b"\xff" not in head


def _excerpt(data: bytes) -> str:
    words = re.sub(rb"<(style|script)\b.*?(</\1>|$)|<[^>]{0,500}>", b" ", data[:2048], flags=re.I | re.S)
    said = " ".join(words.decode("utf-8", "replace").split())[:80]
    return f": {said!r}" if said else ""
