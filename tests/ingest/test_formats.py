"""Invariants: every format that people have becomes the pixels that a person sees, whatever its depth, colours or frames; a file
that is no picture here is refused in words that say what it is and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mmret.ingest.decode import Unreadable, inspect, open_rgb
from mmret.settings import IngestSettings
from tests.ingest.containers import chunk, png_of, tiff_of
from tests.ingest.files import animated, encoded, jpeg, picture, png

HEIC = Path(__file__).parent / "pictures"
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (240, 240, 240))
"""Of the quadrants: top left, top right, bottom left, bottom right."""


def quadrants(mode: str = "RGB") -> Image.Image:
    samples = np.empty((32, 48, 3), np.uint8)
    samples[:16, :24], samples[:16, 24:], samples[16:, :24], samples[16:, 24:] = COLOURS
    return Image.fromarray(samples).convert(mode)


def corners(data: bytes) -> list[tuple[int, ...]]:
    image = open_rgb(data)
    assert image.mode == "RGB" and image.size == (inspect(data).width, inspect(data).height)
    width, height = image.size
    return [image.getpixel(at) for at in ((5, 5), (width - 6, 5), (5, height - 6), (width - 6, height - 6))]


def pixels(data: bytes) -> list:
    return np.asarray(open_rgb(data)).tolist()


@pytest.mark.parametrize(
    ("format_", "options", "apart"),
    [
        ("PNG", {}, 0),
        ("GIF", {}, 0),
        ("BMP", {}, 0),
        ("PPM", {}, 0),
        ("ICO", {"sizes": [(48, 32)]}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
        ("TIFF", {"compression": "packbits"}, 0),
        ("TIFF", {"compression": "jpeg", "quality": 95}, 12),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 8),
        ("JPEG2000", {}, 0),
        ("JPEG2000", {"irreversible": True}, 4),
        ("JPEG2000", {"tile_size": (16, 16)}, 0),
        ("JPEG2000", {"no_jp2": True}, 0),
        ("AVIF", {"quality": 95}, 6),
        ("JPEG", {"quality": 95, "progressive": True}, 6),
        ("MPO", {"quality": 95, "save_all": True, "append_images": [Image.new("RGB", (48, 32))]}, 6),
    ],
)
def test_every_format_has_the_colours_it_was_made_of(format_: str, options: dict, apart: int):
    data = encoded(quadrants(), format_, **options)
    assert np.abs(np.array(corners(data)) - np.array(COLOURS)).max() <= apart
    assert inspect(data).remark is None


def test_photos_of_phones_have_their_colours_are_upright_and_transparent_on_white():
    assert np.abs(np.array(corners((HEIC / "quadrants.heic").read_bytes())) - np.array(COLOURS)).max() <= 3
    seen = inspect((HEIC / "quadrants.heic").read_bytes())
    assert (seen.width, seen.height, seen.format, seen.mode, seen.remark) == (48, 32, "HEIF", "RGB", None)
    first, *others = corners((HEIC / "transparent.heic").read_bytes())
    assert first == (255, 255, 255) and np.abs(np.array(others) - np.array(COLOURS[1:])).max() <= 3
    turned = [COLOURS[n] for n in (2, 0, 3, 1)]  # by a quarter, clockwise
    assert np.abs(np.array(corners((HEIC / "turned.heic").read_bytes())) - np.array(turned)).max() <= 3


@pytest.mark.parametrize("name", ["quadrants", "transparent", "turned"])
def test_a_cut_photo_of_a_phone_is_refused(name: str):
    data = (HEIC / f"{name}.heic").read_bytes()
    for cut in range(1, len(data) - 12, 17):
        with pytest.raises(Unreadable, match="truncated|damaged"):
            inspect(data[:-cut])


def test_pixels_of_a_photo_of_a_phone_are_counted_before_they_are_decoded():
    with pytest.raises(Unreadable, match="too_many_pixels"):
        inspect((HEIC / "quadrants.heic").read_bytes(), IngestSettings(max_pixels=1000))


def test_sixteen_bits_of_every_kind_are_scaled():
    ramp = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    want = [[[v] * 3 for v in (0, 1, 128, 255)]]
    assert pixels(png_of(ramp[:, :, None], 0)) == want
    assert pixels(png_of(np.dstack([ramp, ramp, ramp]), 2)) == want
    opaque = np.full_like(ramp, 65535)
    assert pixels(png_of(np.dstack([ramp, opaque]), 4)) == want
    assert pixels(png_of(np.dstack([ramp, np.zeros_like(ramp)]), 4)) == [[[255] * 3] * 4]
    assert pixels(png_of(np.dstack([ramp, ramp, ramp, opaque]), 6)) == want
    colour = {256: (3, [4]), 257: (3, [1]), 258: (3, [16] * 3), 259: (3, [1]), 262: (3, [2]), 277: (3, [3]), 278: (3, [1])}
    assert pixels(tiff_of(colour, [np.repeat(ramp[0], 3).tobytes()])) == want
    grey = {256: (3, [4]), 257: (3, [1]), 258: (3, [16]), 259: (3, [1]), 262: (3, [1]), 277: (3, [1]), 278: (3, [1])}
    assert pixels(tiff_of(grey, [ramp.tobytes()])) == want
    wide = np.tile(ramp, (8, 4))
    assert np.asarray(open_rgb(encoded(Image.fromarray(wide), "JPEG2000")))[:, :, 0].tolist() == [[0, 1, 128, 255] * 4] * 8


def test_few_bits_and_palettes_keep_their_colours():
    bits = np.array([[0, 255, 255, 0] * 4] * 8, np.uint8)
    flat = Image.fromarray(bits).convert("1")
    for data in (encoded(flat), encoded(flat, "TIFF"), encoded(flat, "TIFF", compression="group4"), encoded(flat, "BMP")):
        assert np.asarray(open_rgb(data))[:, :, 0].tolist() == bits.tolist()
    white_is_zero = {256: (3, [8]), 257: (3, [1]), 258: (3, [1]), 259: (3, [1]), 262: (3, [0]), 277: (3, [1]), 278: (3, [1])}
    assert np.asarray(open_rgb(tiff_of(white_is_zero, [b"\x0f"])))[0, :, 0].tolist() == [255] * 4 + [0] * 4
    index = np.array([[[0], [1], [2]]], np.uint8)
    colours = chunk(b"PLTE", bytes((9, 8, 7, 90, 80, 70, 200, 100, 50)))
    assert pixels(png_of(index, 3, colours)) == [[[9, 8, 7], [90, 80, 70], [200, 100, 50]]]
    half = pixels(png_of(index, 3, colours, chunk(b"tRNS", bytes((255, 0, 128)))))[0]
    assert half[:2] == [[9, 8, 7], [255, 255, 255]]
    assert np.allclose(half[2], [(c * 128 + 255 * 127) / 255 for c in (200, 100, 50)], atol=1)
    rgb = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    assert pixels(png_of(rgb, 2, chunk(b"tRNS", bytes((0, 1, 0, 2, 0, 3))))) == [[[255] * 3, [4, 5, 6]]]


def test_transparency_of_every_format_lies_on_white():
    image = quadrants("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 24, 16))
    for kind, options in (("WEBP", {"lossless": True}), ("TIFF", {}), ("JPEG2000", {}), ("AVIF", {"quality": 95}), ("GIF", {})):
        first, *others = corners(encoded(image, kind, **options))
        assert np.abs(np.array(first) - 255).max() <= 2, kind
        assert np.abs(np.array(others) - np.array(COLOURS[1:])).max() <= 8, kind


def test_tiles_planes_and_pages_of_a_tiff():
    samples = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    size = {256: (3, [32]), 257: (3, [32]), 258: (3, [8] * 3), 259: (3, [1]), 262: (3, [2]), 277: (3, [3])}
    tiles = [samples[y : y + 16, x : x + 16].tobytes() for y in (0, 16) for x in (0, 16)]
    assert pixels(tiff_of(size | {322: (3, [16]), 323: (3, [16])}, tiles, tiled=True)) == samples.tolist()
    planes = [samples[:, :, c].tobytes() for c in range(3)]
    assert pixels(tiff_of(size | {278: (3, [32]), 284: (3, [2])}, planes)) == samples.tolist()
    pages = encoded(quadrants(), "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    assert corners(pages) == list(COLOURS)


def test_floats_are_scaled_and_kinds_of_tiff_that_are_not_decoded_say_so():
    unit = np.array([[0, 0.5, 1, np.nan]], np.float32)
    assert np.asarray(open_rgb(encoded(Image.fromarray(unit), "TIFF")))[0, :, 0].tolist() == [0, 128, 255, 0]
    colour = {256: (3, [1]), 257: (3, [1]), 258: (3, [32] * 3), 259: (3, [1]), 262: (3, [2]), 277: (3, [3]), 278: (3, [1])}
    data = tiff_of(colour | {339: (3, [3] * 3)}, [np.zeros(3, np.float32).tobytes()])
    with pytest.raises(Unreadable, match="unsupported_format: a TIFF that is not decoded .unknown pixel mode.: convert it"):
        inspect(data)


def test_four_colours_of_a_press_keep_their_colours():
    cmyk = encoded(quadrants("CMYK"), "JPEG", quality=98)
    assert b"Adobe" in cmyk[:300]
    assert np.abs(np.array(corners(cmyk)) - np.array(COLOURS)).max() <= 6
    # YCCK: luma and chroma of the inks, which are what light is missing; Pillow inverts what it writes, as Adobe does
    inverted = np.asarray(ImageOps.invert(quadrants()).convert("YCbCr")) ^ 255
    samples = np.dstack([inverted, np.zeros((32, 48), np.uint8)])
    ycck = bytearray(encoded(Image.fromarray(samples, "CMYK"), "JPEG", quality=98))
    ycck[ycck.find(b"Adobe") + 11] = 2
    assert np.abs(np.array(corners(bytes(ycck))) - np.array(COLOURS)).max() <= 8
    assert np.abs(np.array(corners(encoded(quadrants("CMYK"), "TIFF"))) - np.array(COLOURS)).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_the_first_frame_of_every_animation_is_seen(kind: str):
    data = animated(kind)
    assert np.abs(np.array(corners(data)[0]) - np.array((255, 0, 0))).max() <= 3
    with pytest.raises(Unreadable, match="animated: 2 frames"):
        inspect(data, IngestSettings(animated="reject"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"8BPS\0\1" + bytes(60), "unsupported_format: a Photoshop document: export it as PNG or JPEG"),
        (b"<?xml version='1.0'?>\n<!-- made by hand --><svg xmlns='x'/>", "unsupported_format: an SVG drawing: export it"),
        (b"%PDF-1.7\n", "unsupported_format: a PDF: export it"),
        (b"\xff\x0a\xfa\x1f", "unsupported_format: JPEG XL: convert it"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "unsupported_format: JPEG XL: convert it"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(200), "unsupported_format|truncated|damaged"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "unsupported_format: a raw photo of a camera .CR3."),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "unsupported_format: a film"),
        (b"RIFF\x24\0\0\0AVI LIST", "unsupported_format: a film"),
        (b"<!DOCTYPE html><title>404</title><h1>Not found</h1>", "not_an_image: an HTML page.*404 Not found"),
        (b"<Error><Code>AccessDenied</Code></Error>", "not_an_image: an XML text.*AccessDenied"),
        (b'{"error": "not found"}', "not_an_image: a JSON text.*not found"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "not_an_image: a Git LFS pointer.*git lfs pull"),
        (b"\0\x05\x16\x07\0\2\0\0Mac OS X        ", "not_an_image: a file that macOS puts beside others"),
        (b"PK\x03\x04\x14\0", "not_an_image: a ZIP archive: unpack it"),
        (b"data:image/png;base64,iVBOR", "not_an_image: a data: address"),
        (b"iVBORw0KGgoAAAANSUhEUg", "not_an_image: a picture as base64 text"),
        (bytes(5000), "not_an_image: 5000 bytes, all zero"),
        (b"a photo of two dogs", "not_an_image: a text: 'a photo of two dogs'"),
        (b"\x12\x34\xff\xfe\x01", "not_an_image: 5 bytes that begin with"),
        (png()[:9], "truncated"),
        (jpeg().decode("utf-8", "replace").encode(), "not_an_image: a picture that was saved as text"),
        (png().decode("utf-8", "replace").encode(), "not_an_image: a picture that was saved as text"),
    ],
)
def test_what_is_no_picture_here_is_named_with_what_to_do(data: bytes, words: str):
    with pytest.raises(Unreadable, match=words):
        inspect(data)
    with pytest.raises(Unreadable, match=words):
        open_rgb(data)


def test_the_preview_of_a_raw_photo_is_not_taken_for_it():
    tags = {254: (4, [1]), 256: (3, [4]), 257: (3, [1]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 277: (3, [1]), 278: (3, [1])}
    strip = [bytes(4)]
    assert inspect(tiff_of(tags, strip)).width == 4
    with pytest.raises(Unreadable, match="unsupported_format: a raw photo of a camera .NEF"):
        inspect(tiff_of(tags | {330: (4, [8])}, strip))
    with pytest.raises(Unreadable, match="unsupported_format: a raw photo of a camera .DNG"):
        inspect(tiff_of(tags | {50706: (4, [1])}, strip))


def test_a_film_that_says_it_is_a_picture_is_no_reason_to_start_a_program():
    for start in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xc5\xd0\xd3\xc6" + bytes(40)):
        with pytest.raises(Unreadable, match="unsupported_format"):
            inspect(start)


def test_noise_that_begins_like_a_picture_never_ends_in_another_error():
    noise = np.random.default_rng(0).bytes(500)
    for start in (
        png()[:16],
        jpeg()[:30],
        b"RIFF\0\0\0\0WEBPVP8X",
        b"II*\0",
        b"MM\0*",
        b"GIF89a",
        (HEIC / "turned.heic").read_bytes()[:200],
    ):
        with pytest.raises(Unreadable, match="^[a-z_]+: ."):
            inspect(start + noise)
    assert picture().size == (24, 16)
