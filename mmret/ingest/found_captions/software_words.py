"""Tells texts that cameras and programs write into every file from descriptions of a picture. Costs some 10 us a text."""

from __future__ import annotations

import regex

from mmret.ingest.found_captions.names import words_of_name

_WHOLE = regex.compile(
    r"""(?:
    (?:olympus|minolta|kodak|sanyo|konica|casio|ricoh|pentax|fuji(?:film)?|hp|polaroid|vivitar|agfa|concord)?\s*
        (?:film\s*)?digital\s+(?:still\s+)?camera
    | sony\s+dsc | samsung(?:\s+\S+)? | dig(?:imax|ital)\b.{0,40} | exif[_\s]*jpeg(?:[_\s]*picture)? | jpeg\s+image
    | (?:dav|cof|sdr|hdr|rhdr|oznor|ozedf|oznorco|mde|dfla|rbt|cofw|qrf|fbt|nfd|maf|jpeg|ascii|unicode|binary|default|comment|none
        |null|nan|n/?a|undefined|unknown|description|caption|image\s*description|title|undescribed|no\s+description)
    | (?:sdr|hdr|cof|oznor|dav|rhdr)[_\s]?\w{0,12}
    | screen\s?shot.{0,60} | binary\s+comment | user\s+comments? | charset\s*=\s*\S+ | lead\s+technologies.{0,60}
    )""",
    regex.I | regex.X,
)
_BEGINS = regex.compile(
    r"""(?:created|made|edited|processed|exported|generated|saved|written|optimi[sz]ed|scanned|retouched|produced|converted)
        \s+(?:with|using|by)\b(?=[^:,]{0,40}$)
    | (?:adobe|photoshop|lightroom|gimp|paint\.net|imagemagick|picasa|inkscape|coreldraw|acdsee|irfanview)\b(?=.{0,60}$)
    | (?:file\s+source|source|url|copyright|©|\(c\)|xmp\.|uuid:|urn:|https?://|www\.|data:)
    | creator:\s*gd-jpeg | steps:\s*\d | parameters?\b\s*[:{]
    | [\[{<]""",
    regex.I | regex.X,
)
_LETTERS = regex.compile(r"[\p{L}\p{M}]")


def is_of_software(text: str) -> bool:
    """Whether ``text``, on one line, was written by a camera or a program, or says nothing for another reason.

    >>> [is_of_software(t) for t in ("OLYMPUS DIGITAL CAMERA", "SONY DSC", "IMG_0001", "A digital camera on a table")]
    [True, True, True, False]
    """
    text = text.strip(" \t.\"'“”*-")
    if _WHOLE.fullmatch(text) or _BEGINS.match(text):
        return True
    if len(_LETTERS.findall(text)) < max(2, 0.4 * len(text)):
        return True  # numbers, dates, coordinates
    return words_of_name(text) is None
