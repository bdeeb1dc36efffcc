"""Invariants: every mode becomes the same 8-bit RGB that a person would see; whatever inspect passes, open_rgb opens;
a file that is no picture has a reason; pixels are counted before any is decoded; no bytes crash the decoder."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from mmret.ingest.decode import Unreadable, inspect, open_rgb
from mmret.settings import IngestSettings
from tests.ingest.files import ORIENTATION, animated, bomb_png, encoded, jpeg, picture, png, rotated_jpeg


def pixel(data: bytes, at: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    image = open_rgb(data)
    assert image.mode == "RGB"
    return image.getpixel(at)


def reason(data: bytes, choices: IngestSettings | None = None) -> str:
    with pytest.raises(Unreadable, match="^[a-z_]+: .") as opened:
        open_rgb(data, choices)
    with pytest.raises(Unreadable, match="^[a-z_]+: .") as inspected:
        inspect(data, choices)
    assert opened.value.reason == inspected.value.reason
    assert opened.value.detail
    return opened.value.reason


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    "data",
    [
        png(),
        jpeg(),
        encoded(picture(), "JPEG", progressive=True),
        encoded(picture(), "GIF"),
        encoded(picture(), "BMP"),
        encoded(picture(), "WEBP", lossless=True),
    ],
    ids=["png", "jpeg", "progressive", "gif", "bmp", "webp"],
)
def test_a_cut_file_is_truncated(data: bytes, cut: float):
    inspect(data)
    assert reason(data[: int(len(data) * cut)]) == "truncated"


def test_what_is_no_picture_says_so():
    assert reason(b"") == "zero_bytes"
    assert reason(b"this is a text, whatever its name says") == "not_an_image"
    assert reason(b"<svg xmlns='http://www.w3.org/2000/svg'/>") == "unsupported_format"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "unsupported_format"
    assert reason(png()[:10]) == "truncated"
    assert reason(png(), IngestSettings(max_bytes=100)) == "too_many_bytes"


def test_a_bomb_is_refused_before_its_pixels_are_decoded(monkeypatch: pytest.MonkeyPatch):
    def decoded(self: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    assert reason(bomb_png()) == "too_many_pixels"
    assert reason(bomb_png(15_000)) == "too_many_pixels"
    assert reason(png(size=(100, 100)), IngestSettings(max_pixels=9999)) == "too_many_pixels"


def test_a_raised_limit_of_pixels_is_honoured():
    data = encoded(Image.new("1", (20_000, 9_500)), "PNG")
    assert reason(data) == "too_many_pixels"
    before = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = 1000
        assert inspect(png(size=(100, 100)), IngestSettings()).width == 100
    finally:
        Image.MAX_IMAGE_PIXELS = before


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_taken_or_all_of_it_rejected(kind: str):
    data = animated(kind)
    assert pixel(data) == (255, 0, 0)
    assert reason(data, IngestSettings(animated="reject")) == "animated"
    inspect(encoded(picture(), kind), IngestSettings(animated="reject"))


def test_pages_are_no_animation():
    pages = encoded(picture(0), "TIFF", save_all=True, append_images=[picture(1)])
    assert inspect(pages, IngestSettings(animated="reject")).format == "TIFF"


def test_cmyk_keeps_its_colours():
    for kind in ("JPEG", "TIFF"):
        data = encoded(Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK"), kind)
        assert inspect(data).mode == "CMYK"
        assert np.allclose(pixel(data, (8, 8)), (200, 30, 60), atol=6)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str):
    levels = np.array([[0, 257, 128 * 257, 65535]] * 4, dtype=np.uint16)
    grey = np.asarray(open_rgb(encoded(Image.fromarray(levels), kind)))[0]
    assert grey.tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]


def test_floats_and_wide_integers_are_scaled():
    unit = np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32)
    assert np.asarray(open_rgb(encoded(Image.fromarray(unit), "TIFF")))[0, :, 0].tolist() == [0, 128, 255, 0]
    wide = np.array([[0, 10**6, 2 * 10**6]], dtype=np.int32)
    assert np.asarray(open_rgb(encoded(Image.fromarray(wide), "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert pixel(encoded(clear)) == (255, 255, 255)
    assert np.allclose(pixel(encoded(half)), 127, atol=1)
    assert pixel(encoded(clear.convert("LA"))) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert pixel(encoded(palette)) == (10, 200, 30)
    assert pixel(encoded(palette, transparency=1)) == (255, 255, 255)
    assert pixel(encoded(Image.new("L", (8, 8), 7), transparency=7)) == (255, 255, 255)
    deep = Image.fromarray(np.full((4, 4), 4000, dtype=np.uint16))
    assert pixel(encoded(deep, transparency=4000)) == (255, 255, 255)


def test_the_exif_rotation_is_applied_to_pixels_and_size():
    data = rotated_jpeg()
    seen = inspect(data)
    assert (seen.width, seen.height, seen.format) == (20, 40, "JPEG")
    top, bottom = pixel(data, (10, 5)), pixel(data, (10, 35))
    assert top[0] > 200 > top[2] and bottom[2] > 200 > bottom[0]
    for orientation in (0, 9, 77):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        assert inspect(jpeg(exif=exif)).width == 24


def test_a_draft_is_never_smaller_than_asked_and_looks_alike():
    big = Image.fromarray(np.tile(np.linspace(0, 255, 640, dtype=np.uint8), (320, 1))).convert("RGB")
    data = encoded(big, "JPEG", quality=95)
    small = open_rgb(data, draft=(100, 50))
    assert small.size == (160, 80)
    assert np.abs(np.asarray(small, float) - np.asarray(big.resize(small.size, Image.Resampling.BOX), float)).mean() < 3
    assert open_rgb(rotated_jpeg(), draft=(10, 20)).size == (10, 20)
    assert open_rgb(png(), draft=(4, 4)).size == (24, 16)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LAB", "YCbCr", "RGBX", "LA"])
def test_every_mode_opens(mode: str):
    image = Image.new(mode, (6, 4)) if mode == "LAB" else picture(size=(6, 4)).convert(mode)
    kind = "JPEG" if mode == "YCbCr" else "PNG" if mode == "LA" else "TIFF"
    data = encoded(image, kind)
    assert open_rgb(data).mode == "RGB" and open_rgb(data).size == (6, 4) == (inspect(data).width, inspect(data).height)


def test_one_pixel_is_a_picture():
    assert open_rgb(encoded(Image.new("RGB", (1, 1), "red"))).size == (1, 1)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [png(), jpeg(), rotated_jpeg(), animated("GIF"), animated("WEBP"), encoded(picture(), "TIFF"), encoded(picture(), "ICO")]
    ),
    st.data(),
)
def test_no_bytes_crash_the_decoder(data: bytes, draw: st.DataObject):
    broken = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 6))):
        broken[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    choices = IngestSettings(max_pixels=10**6)
    try:
        seen = inspect(bytes(broken), choices)
    except Unreadable as why:
        assert why.reason
    else:
        assert open_rgb(bytes(broken), choices).size == (seen.width, seen.height)
