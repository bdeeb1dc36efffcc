"""Decodes the bytes of a file to 8-bit RGB pixels, the same for every stage, with one exception for whatever cannot be decoded.

Pictures of a crawled corpus are truncated, 16 bits deep, rotated by a tag, animated, or made to exhaust memory; every
stage that looks at pixels goes through :func:`open_rgb`, so that all of them see the same picture. The number of pixels
is checked on the header, before any of them is decoded. What lies beside the pixels never decides over them: a file that
Pillow refuses is tried again without it (:mod:`mmret.ingest.pictures.containers`). Cost: that of Pillow's decoder (a 256 px
JPEG about 1 ms); with ``draft`` a large JPEG is decoded at a half, a quarter or an eighth of its size; a refused file costs a
second try.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageCms, UnidentifiedImageError

from mmret.ingest.pictures.containers import jpeg, known
from mmret.ingest.tables.file_kinds import is_heif, raw_photo, what_else
from mmret.settings import IngestSettings

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "ICO")
"""Formats that are decoded (JPEG includes MPO), and no others but HEIF: some of Pillow's plugins start programs (EPS) or take any
bytes for a picture (TGA)."""

ANIMATED = frozenset({"GIF", "WEBP", "PNG", "AVIF"})
"""Formats whose frames are an animation; the frames of MPO and TIFF are pages or views."""

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"RIFF": "WEBP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
}
_GREY = frozenset((127, 128))
"""What libjpeg fills missing blocks with."""
_SALVAGED = ("truncated", "damaged", "unsupported_format", "not_an_image")
"""Reasons with which a file is tried again without what lies beside its pixels."""
_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


warnings.filterwarnings("ignore", module=r"PIL\.")  # what is wrong with a picture is told by its reason


class Unreadable(Exception):
    """A file that cannot become a picture. ``reason`` is the value of the rejects table, ``detail`` is for a person."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Inspected:
    """A file that was decoded whole: size in pixels after EXIF rotation, Pillow's format and mode of the file.

    ``remark``: what is odd beside its pixels, slugs joined by ``" | "`` (docs/inputs.md lists them), or None.
    """

    width: int
    height: int
    format: str
    mode: str
    remark: str | None = None


class _Decoded(NamedTuple):
    format: str
    mode: str
    stored: Image.Image
    """As it is in the file."""
    orientation: int


def open_rgb(data: bytes, settings: IngestSettings | None = None, *, draft: tuple[int, int] | None = None) -> Image.Image:
    """Decode ``data`` into an 8-bit RGB picture: upright, first frame, transparency on white, 16 bits scaled to 8.

    ``draft`` = (width, height): a JPEG may be decoded smaller, at no less than this size on either side.
    Raises Unreadable with reason ``zero_bytes``, ``too_many_bytes``, ``not_an_image``, ``unsupported_format``, ``truncated``,
    ``damaged``, ``too_many_pixels`` or ``animated`` (the last only where the settings reject animations).
    """
    decoded, _ = _decode(data, settings or IngestSettings(), draft)
    return _upright(_rgb(decoded.stored, decoded.format), decoded.orientation)


def inspect(data: bytes, settings: IngestSettings | None = None) -> Inspected:
    """Decode ``data`` whole, so that :func:`open_rgb` will succeed on it under the same settings, and describe it.

    Raises Unreadable as :func:`open_rgb` does, and also for what decodes without an error although pixels are missing
    (``truncated``), or where only a preview would be seen (``unsupported_format``).
    """
    choices = settings or IngestSettings()
    decoded, noted = _decode(data, choices, None)
    if decoded.format == "TIFF" and (kind := raw_photo(data)):
        raise Unreadable("unsupported_format", kind)
    if lacks := known.missing_pixels(data):
        raise Unreadable("truncated", lacks)
    if decoded.format in ("JPEG", "MPO") and _filled_with_grey(decoded.stored):
        _prove_whole(decoded.stored, jpeg.probes(data), choices)
    picture = _upright(_rgb(decoded.stored, decoded.format), decoded.orientation)
    remarks = dict.fromkeys((*noted, *known.remarks(data), *(["damaged_metadata"] if _odd_exif(decoded.stored) else [])))
    return Inspected(*picture.size, decoded.format, decoded.mode, " | ".join(remarks) or None)


def _decode(data: bytes, settings: IngestSettings, draft: tuple[int, int] | None) -> tuple[_Decoded, tuple[str, ...]]:
    """The picture, and what had to be left out of its file to get at it."""
    if not data:
        raise Unreadable("zero_bytes", "the file is empty")
    if len(data) > settings.max_bytes:
        raise Unreadable("too_many_bytes", f"{len(data)} bytes, the limit is {settings.max_bytes}")
    if Image.MAX_IMAGE_PIXELS is not None and settings.max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = settings.max_pixels  # Pillow's own limit would otherwise overrule a raised setting
    try:
        return _attempt(data, settings, draft), ()
    except Unreadable as why:
        found = known.salvage(data) if why.reason in _SALVAGED else None
        if found is None:
            raise
        if found.frames > 1 and settings.animated == "reject":
            raise Unreadable("animated", f"{found.frames} frames") from None
        try:
            decoded = _attempt(found.data, settings, draft)
        except Unreadable as still:
            if still.reason in _SALVAGED:
                raise why from None
            raise
        _prove_whole(decoded.stored, found.probes, settings, draft)
        return decoded, found.remarks


def _attempt(data: bytes, settings: IngestSettings, draft: tuple[int, int] | None) -> _Decoded:
    try:
        with Image.open(io.BytesIO(data), formats=formats_in(data)) as image:
            _refuse(image, settings)
            header = (image.format or "", image.mode)
            if draft and image.format in ("JPEG", "MPO"):
                image.draft(None, draft[::-1] if _orientation(image) >= 5 else draft)
            image.load()
            return _Decoded(*header, image, _orientation(image))
    except (Unreadable, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise Unreadable("too_many_pixels", str(error)) from None
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Exception as error:  # Pillow's plugins raise almost anything on hostile bytes
        raise _broken(data, error) from None


def formats_in(data: bytes) -> tuple[str, ...]:
    if not is_heif(data):
        return FORMATS
    from pi_heif import register_heif_opener

    register_heif_opener(thumbnails=False)
    return ("HEIF",)


def _unidentified(data: bytes) -> Unreadable:
    """Why no plugin took the file: the words of the one that its first bytes name, or what else it is."""
    format_ = "HEIF" if is_heif(data) else next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        format_ = "AVIF"
    if format_ is None or (format_ == "WEBP" and not b"WEBP".startswith(data[8:12])):
        return Unreadable(*what_else(data))
    try:
        Image.OPEN[format_][0](io.BytesIO(data), "")
    except Exception as error:  # the one that Image.open kept to itself
        text = str(error)
        if any(words in text for words in ("unknown pixel mode", "-bit layers", "-layer images", "unknown compression")):
            return Unreadable("unsupported_format", f"a {format_} that is not decoded ({text}): convert it to PNG or JPEG")
        if text.startswith("broken PNG file") and "incomplete" not in text:
            return Unreadable("damaged", text[:300])
    return Unreadable("truncated", f"{len(data)} bytes that begin like a picture")


def _broken(data: bytes, error: Exception) -> Unreadable:
    text = str(error) or type(error).__name__
    short = (
        isinstance(error, EOFError)
        or any(w in text.lower() for w in ("truncated", "unexpected end", "eof"))
        or data[:4] == b"RIFF"
        and int.from_bytes(data[4:8], "little") + 8 > len(data)
        or known.missing_pixels(data) is not None
    )
    return Unreadable("truncated" if short else "damaged", text[:300])


def _filled_with_grey(image: Image.Image) -> bool:
    """Whether the last pixel looks as if the data had ended early; of sound pictures one in many thousands."""
    last = image.getpixel((image.width - 1, image.height - 1))
    return set(last if isinstance(last, tuple) else (last,)) <= _GREY


def _prove_whole(
    stored: Image.Image, probes: tuple[bytes, ...], settings: IngestSettings, draft: tuple[int, int] | None = None
) -> None:
    """Raise Unreadable (``truncated``) where a probe decodes to other pixels: some of them are not in the file."""
    for probe in probes:
        other = _attempt(probe, settings, draft).stored
        if other.mode != stored.mode or other.size != stored.size or ImageChops.difference(other, stored).getbbox() is not None:
            raise Unreadable("truncated", "the file ends before its last pixels")


def _refuse(image: Image.Image, settings: IngestSettings) -> None:
    width, height = image.size
    if width * height > settings.max_pixels:
        raise Unreadable("too_many_pixels", f"{width} x {height} pixels, the limit is {settings.max_pixels}")
    if settings.animated == "reject" and image.format in ANIMATED and getattr(image, "is_animated", False):
        raise Unreadable("animated", f"{getattr(image, 'n_frames', 'several')} frames")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block does not make the pixels unusable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _odd_exif(image: Image.Image) -> bool:
    """Whether the EXIF block of a loaded picture cannot be read."""
    try:
        Image.Exif().load(image.info.get("exif") or b"")
    except Exception:  # Pillow raises almost anything on hostile bytes
        return True
    return False


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


def _rgb(image: Image.Image, format_: str) -> Image.Image:
    """8-bit RGB of a loaded picture of any mode."""
    if image.mode[0] in "IF":
        return _scaled(image, format_).convert("RGB")
    if image.mode == "LAB":
        to_srgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        return ImageCms.applyTransform(image, to_srgb)
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        ground = Image.new("RGB", image.size, "white")
        ground.paste(with_alpha, mask=with_alpha.getchannel("A"))
        return ground
    return image.convert("RGB")


def _scaled(image: Image.Image, format_: str) -> Image.Image:
    """Grey pictures of 16 or 32 bits or floats to 8 bits by scale; Pillow's own conversion clips them to white."""
    values = np.nan_to_num(np.asarray(image), posinf=0.0, neginf=0.0)
    peak = float(values.max())
    if image.mode.startswith("I;16") or format_ == "PPM":
        full = 65_535.0
    elif image.mode == "I":
        full = 255.0 if peak <= 255 else 65_535.0 if peak <= 65_535 else peak
    else:
        full = 1.0 if peak <= 1 else 255.0 if peak <= 255 else peak
    grey = np.clip(values * (255.0 / full) + 0.5, 0, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)
