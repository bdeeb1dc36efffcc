"""Descriptions that people wrote into picture files: XMP, IPTC, EXIF and PNG texts, the first of these that says something.

Photo managers, agencies and archives keep captions inside the file. Reads the file's header and metadata, decodes no pixel: some
0.3 ms a file. What cannot be read counts as not there.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from PIL import Image, IptcImagePlugin

from mmret.ingest.found_captions.software_words import is_of_software
from mmret.ingest.pictures.decode import formats_in
from mmret.ingest.rows import clean_text

_DC, _RDF = "{http://purl.org/dc/elements/1.1/}", "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_IPTC_CAPTION, _IPTC_CHARSET = (2, 120), (1, 90)
_IMAGE_DESCRIPTION, _XP_COMMENT = 0x010E, 0x9C9C
_PNG_TEXTS = ("Description", "Caption", "Comment", "Title")
_LARGEST_XMP = 2**20
_LONGEST = 2000


def embedded_description(data: bytes) -> tuple[str, str] | None:
    """(text on one line, where it stands: ``xmp``, ``iptc``, ``exif`` or ``png``) of a picture's file; None where it has none.

    >>> embedded_description(Path("harbour.jpg").read_bytes())
    ('Fishing boats in the harbour of Essaouira', 'iptc')
    """
    try:
        with Image.open(io.BytesIO(data), formats=formats_in(data)) as picture:
            for origin, text in _texts(picture):
                text = clean_text(text)
                if text and not is_of_software(text):
                    return text[:_LONGEST], origin
    except Exception:  # Pillow's plugins raise almost anything on hostile bytes; whether it is a picture is decided elsewhere
        return None
    return None


def _texts(picture: Image.Image) -> Iterator[tuple[str, str]]:
    """(origin, text) in the order of trust; a block that cannot be read is left out."""
    for origin, read in (("xmp", _xmp), ("iptc", _iptc), ("exif", _exif), ("png", _png)):
        try:
            yield from ((origin, text) for text in read(picture))
        except Exception:
            continue


def _xmp(picture: Image.Image) -> list[str]:
    """``dc:description``: the text without a language, else the first."""
    from defusedxml import ElementTree

    packet = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp") or (_tag(picture, 700) or b"")
    packet = packet.encode() if isinstance(packet, str) else bytes(packet)
    if not packet or len(packet) > _LARGEST_XMP:
        return []
    tree = ElementTree.fromstring(packet.strip(b"\0 \r\n\t"))
    found = [
        (item.get(_LANGUAGE, "x-default") != "x-default", item.text or "")
        for description in tree.iter(f"{_DC}description")
        for item in description.iter(f"{_RDF}li")
    ]
    plain = [attribute for node in tree.iter(f"{_RDF}Description") if (attribute := node.get(f"{_DC}description"))]
    return [text for _, text in sorted(found, key=lambda each: each[0])] + plain


def _iptc(picture: Image.Image) -> list[str]:
    """Caption/Abstract, 2:120. UTF-8 where it says so or is it; else the encoding that Windows programs wrote."""
    records = IptcImagePlugin.getiptcinfo(picture) or {}
    value = records.get(_IPTC_CAPTION)
    values = value if isinstance(value, list) else [value] if value else []
    return [_decoded(bytes(each)) for each in values]


def _exif(picture: Image.Image) -> list[str]:
    exif = picture.getexif()
    described, comment = exif.get(_IMAGE_DESCRIPTION), exif.get(_XP_COMMENT)
    found = []
    if isinstance(described, str):  # the standard says ASCII, programs write UTF-8, and Pillow reads it byte by byte
        found.append(_decoded(described.encode("latin-1")) if max(described, default="") < "\u0100" else described)
    if isinstance(comment, bytes | tuple):
        found.append(bytes(comment).decode("utf-16-le", "ignore"))
    return [text.rstrip("\0") for text in found]


def _png(picture: Image.Image) -> list[str]:
    named = {str(name).casefold(): value for name, value in picture.info.items()} if picture.format == "PNG" else {}
    return [str(value) for name in _PNG_TEXTS if isinstance(value := named.get(name.casefold()), str)]


def _tag(picture: Image.Image, number: int) -> bytes | None:
    value = picture.getexif().get(number)
    return value if isinstance(value, bytes) else None


def _decoded(value: bytes) -> str:
    for encoding in ("utf-8", "cp1252"):
        try:
            return value.decode(encoding)
        except UnicodeDecodeError:
            continue
    return value.decode("latin-1")
