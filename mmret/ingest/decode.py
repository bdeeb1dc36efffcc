"""Decodes the bytes of a file to 8-bit RGB pixels, the same for every stage, with one exception for whatever cannot be decoded.

Pictures of a crawled corpus are truncated, 16 bits deep, rotated by a tag, animated, or made to exhaust memory; every
stage that looks at pixels goes through :func:`open_rgb`, so that all of them see the same picture. The number of pixels
is checked on the header, before any of them is decoded. Cost: that of Pillow's decoder (a 256 px JPEG about 1 ms);
with ``draft`` a large JPEG is decoded at a half, a quarter or an eighth of its size.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from mmret.settings import IngestSettings

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "ICO")
"""Formats that are decoded (JPEG includes MPO), and no others: some of Pillow's plugins start programs (EPS) or take any bytes
for a picture (TGA)."""

ANIMATED = frozenset({"GIF", "WEBP", "PNG", "AVIF"})
"""Formats whose frames are an animation; the frames of MPO and TIFF are pages or views."""

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
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
    """A file that was decoded whole: size in pixels after EXIF rotation, Pillow's format and mode of the file."""

    width: int
    height: int
    format: str
    mode: str


def open_rgb(data: bytes, settings: IngestSettings | None = None, *, draft: tuple[int, int] | None = None) -> Image.Image:
    """Decode ``data`` into an 8-bit RGB picture: upright, first frame, transparency on white, 16 bits scaled to 8.

    ``draft`` = (width, height): a JPEG may be decoded smaller, at no less than this size on either side.
    Raises Unreadable with reason ``zero_bytes``, ``too_many_bytes``, ``not_an_image``, ``truncated``, ``damaged``,
    ``too_many_pixels`` or ``animated`` (the last only where the settings reject animations).
    """
    return _decode(data, settings or IngestSettings(), draft)[1]


def inspect(data: bytes, settings: IngestSettings | None = None) -> Inspected:
    """Decode ``data`` whole, so that :func:`open_rgb` will succeed on it under the same settings, and describe it.

    Raises Unreadable as :func:`open_rgb` does.
    """
    header, picture = _decode(data, settings or IngestSettings(), None)
    return Inspected(*picture.size, *header)


def _decode(data: bytes, settings: IngestSettings, draft: tuple[int, int] | None) -> tuple[tuple[str, str], Image.Image]:
    if not data:
        raise Unreadable("zero_bytes", "the file is empty")
    if len(data) > settings.max_bytes:
        raise Unreadable("too_many_bytes", f"{len(data)} bytes, the limit is {settings.max_bytes}")
    if Image.MAX_IMAGE_PIXELS is not None and settings.max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = settings.max_pixels  # Pillow's own limit would otherwise overrule a raised setting
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse(image, settings)
            header = (image.format or "", image.mode)
            if draft and image.format in ("JPEG", "MPO"):
                turned = _orientation(image) >= 5
                image.draft(None, draft[::-1] if turned else draft)
            image.load()
            return header, _upright(_rgb(image), _orientation(image))
    except (Unreadable, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise Unreadable("too_many_pixels", str(error)) from None
    except UnidentifiedImageError:
        if data.startswith(_MAGIC):
            raise Unreadable("truncated", f"{len(data)} bytes that begin like a picture") from None
        raise Unreadable("not_an_image", f"{len(data)} bytes that begin with {data[:16]!r}") from None
    except Exception as error:  # Pillow's plugins raise almost anything on hostile bytes
        text = str(error) or type(error).__name__
        short = (
            isinstance(error, EOFError)
            or any(w in text.lower() for w in ("truncated", "unexpected end", "eof"))
            or data[:4] == b"RIFF"
            and int.from_bytes(data[4:8], "little") + 8 > len(data)
        )
        raise Unreadable("truncated" if short else "damaged", text[:300]) from None


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


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of a loaded picture of any mode."""
    if image.mode[0] in "IF":
        return _scaled(image).convert("RGB")
    if image.mode == "LAB":
        to_srgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        return ImageCms.applyTransform(image, to_srgb)
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        ground = Image.new("RGB", image.size, "white")
        ground.paste(with_alpha, mask=with_alpha.getchannel("A"))
        return ground
    return image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """Grey pictures of 16 or 32 bits or floats to 8 bits by scale; Pillow's own conversion clips them to white."""
    values = np.nan_to_num(np.asarray(image), posinf=0.0, neginf=0.0)
    peak = float(values.max())
    if image.mode.startswith("I;16") or image.format == "PPM":
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
