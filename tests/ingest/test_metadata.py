"""Invariants: what lies beside the pixels never decides whether a picture is used, and is noted; pixels that are missing always do;
nothing is unpacked beyond a bound; limits hold for a file that was tried again."""

from __future__ import annotations

import io
import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from mmret.ingest.pictures.containers import png as png_container
from mmret.ingest.pictures.containers import webp
from mmret.ingest.pictures.decode import Unreadable, inspect, open_rgb
from mmret.settings import IngestSettings
from tests.ingest.containers import chunk, png_of, riff, segment, with_tag
from tests.ingest.files import ORIENTATION, animated, encoded, picture

SIZE = (64, 48)
PNG, JPEG, TIFF = (encoded(picture(size=SIZE), kind) for kind in ("PNG", "JPEG", "TIFF"))
WEBP = encoded(picture(size=SIZE), "WEBP", lossless=True)
JP2 = encoded(picture(size=SIZE), "JPEG2000")
GIF = encoded(picture(size=SIZE), "GIF")
BOMB = zlib.compress(bytes(50 * 2**20))


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(open_rgb(data))


def same_pixels(data: bytes, sound: bytes) -> str | None:
    """Asserts equal pixels and returns the remark."""
    seen = inspect(data)
    assert (seen.width, seen.height) == open_rgb(sound).size
    assert np.array_equal(pixels(data), pixels(sound))
    return seen.remark


def in_png(*chunks: bytes, behind: bool = False) -> bytes:
    at = len(PNG) - 12 if behind else 33
    return PNG[:at] + b"".join(chunks) + PNG[at:]


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize(
    ("chunks", "remark"),
    [
        ([chunk(b"tEXt", b"a\0" + b"x" * (3 * 2**20))], None),
        ([chunk(b"tEXt", b"%d\0" % n + b"x" * (6 * 2**20)) for n in range(12)], "large_metadata"),
        ([chunk(b"zTXt", b"a\0\0" + BOMB)], "large_metadata"),
        ([chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB)], "large_metadata"),
        ([chunk(b"iCCP", b"a\0\0" + BOMB)], "large_metadata"),
        ([chunk(b"iCCP", b"a\0\7abc")], "damaged_metadata"),
        ([chunk(b"iCCP", b"no end of the name")], "damaged_metadata"),
        ([chunk(b"zTXt", b"a\0\5abc")], "damaged_metadata"),
        ([chunk(b"eXIf", b"no tags at all")], "damaged_metadata"),
        ([chunk(b"gAMA", b"\0")], "damaged_metadata"),
        ([chunk(b"cHRM", b"\0")], "damaged_metadata"),
        ([chunk(b"pHYs", b"\0")], "damaged_metadata"),
        ([chunk(b"sRGB", b"")], "damaged_metadata"),
        ([chunk(b"tRNS", b"\0")], "damaged_metadata"),
        *[([chunk(kind, b"a\0b", b"oops")], "ancillary_checksum") for kind in (b"tEXt", b"gAMA", b"prVt", b"tIME")],
    ],
)
def test_a_chunk_of_a_png_that_pixels_do_not_need_never_decides(chunks: list[bytes], remark: str | None, behind: bool):
    data = in_png(*chunks, behind=behind)
    assert same_pixels(data, PNG) == remark
    if remark == "ancillary_checksum":
        assert same_pixels(in_png(*chunks, chunk(b"zTXt", b"a\0\0" + BOMB), behind=behind), PNG) == f"{remark} | large_metadata"


def test_nothing_is_unpacked_beyond_a_bound():
    bombs = [chunk(kind, b"a\0\0" + BOMB) for kind in (b"zTXt", b"iCCP") for _ in range(5)]
    tracemalloc.start()
    inspect(in_png(*bombs))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 2**20


def test_a_sound_tag_still_turns_a_picture_whose_other_metadata_is_damaged():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = in_png(chunk(b"eXIf", exif.tobytes()[6:]), chunk(b"tEXt", b"a\0b", b"oops"))
    assert inspect(turned).width == SIZE[1] and inspect(turned).remark == "ancillary_checksum"
    data = encoded(picture(size=SIZE), "JPEG", exif=exif)
    assert inspect(data[:2] + segment(0xEE, b"Adobe") + data[2:]).width == SIZE[1]


def test_transparency_survives_damage_elsewhere():
    samples = np.full((4, 4, 1), 9, np.uint8)
    data = png_of(samples, 0, chunk(b"tRNS", b"\0\x09"), chunk(b"tEXt", b"a\0b", b"oops"))
    assert (pixels(data) == 255).all()
    palette = chunk(b"PLTE", bytes(range(30))), chunk(b"tRNS", bytes([255] * 9 + [0]))
    assert (pixels(png_of(samples, 3, *palette, chunk(b"pHYs", b""))) == 255).all()


def test_what_pixels_need_is_not_invented():
    for kind, at in ((b"IHDR", 29), (b"IHDR", 20)):
        hurt = PNG[:at] + bytes([PNG[at] ^ 1]) + PNG[at + 1 :]
        with pytest.raises(Unreadable, match="damaged"):
            inspect(hurt)
        assert kind == hurt[12:16]


TAGS_THAT_LOOP = b"Exif\0\0II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0"


@pytest.mark.parametrize("at", [2, 20], ids=["first", "behind JFIF"])
@pytest.mark.parametrize(
    ("part", "remark"),
    [
        (segment(0xE1, b"Exif\0\0no tags"), "damaged_metadata"),
        (segment(0xE1, TAGS_THAT_LOOP), None),
        (segment(0xE2, b"ICC_PROFILE\0"), "damaged_metadata"),
        (segment(0xE2, b"ICC_PROFILE\0\1\5abc"), None),
        (segment(0xE2, b"MPF\0no index"), None),
        (segment(0xE2, b"MPF\0II*\0\x08\0\0\0\1\0\1\xb0\4\0\1\0\0\0\5\0\0\0\0\0\0\0"), None),
        (segment(0xED, b"Photoshop 3.0\x008BIM\4\4\xff"), None),
        (segment(0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\2ab"), None),
        (segment(0xEE, b"Adobe"), "damaged_metadata"),
        (segment(0xE0, b"JFIF\0"), "damaged_metadata"),
        (segment(0xE0, b"JFIF\0\1\1\7\0\0\0\0\0\0"), None),
        (segment(0xE5, b"", 0), None),
        (segment(0xFE, b"\xff\xff"), None),
        (segment(0xE1, b"http://ns.adobe.com/xap/1.0/\x00<x"), None),
        (segment(0xE2, b"FPXR\0"), None),
    ],
)
def test_a_damaged_application_segment_of_a_jpeg_never_decides(part: bytes, remark: str | None, at: int):
    assert same_pixels(JPEG[:at] + part + JPEG[at:], JPEG) == remark


@pytest.mark.parametrize(
    ("data", "sound", "remark"),
    [
        (PNG[:-12], PNG, "no_end_mark"),
        (PNG[:-14], PNG, "pixel_checksum | no_end_mark"),
        (PNG + b"more", PNG, "trailing_bytes"),
        (JPEG[:-2], JPEG, "no_end_mark"),
        (JPEG[:-1], JPEG, "no_end_mark"),
        (JPEG + b"more" * 99, JPEG, "trailing_bytes"),
        (GIF[:-1], GIF, "no_end_mark"),
        (GIF + b"more", GIF, "trailing_bytes"),
        (JP2[:-2], JP2, "no_end_mark"),
        (WEBP + b"more", WEBP, "trailing_bytes"),
        (WEBP[:4] + struct.pack("<I", len(WEBP)) + WEBP[8:], WEBP, "wrong_length"),
        (WEBP[:4] + struct.pack("<I", 99) + WEBP[8:], WEBP, "wrong_length | trailing_bytes"),
        (b"\xef\xbb\xbf" + JPEG, JPEG, "leading_bytes"),
        (b"\r\n" + PNG, PNG, "leading_bytes"),
    ],
)
def test_the_ends_of_a_file_never_decide(data: bytes, sound: bytes, remark: str):
    assert same_pixels(data, sound) == remark


def test_chunks_beside_the_pixels_of_a_webp_never_decide():
    extended = (b"VP8X", b"\x2c\0\0\0" + struct.pack("<I", 63)[:3] + struct.pack("<I", 47)[:3])
    image = (WEBP[12:16], WEBP[20:])
    assert same_pixels(riff(extended, image, (b"EXIF", b"no tags")), WEBP) == "damaged_metadata"
    assert same_pixels(riff(extended, (b"ICCP", b"abc"), image, (b"EXIF", b"x" * 700))[:-600], WEBP) is not None
    assert same_pixels(riff(image, (b"abcd", b"x")), WEBP) is None


@pytest.mark.parametrize(
    "entry",
    [
        struct.pack("<HHII", 270, 2, 500, 0xFFFFF0),  # a text
        struct.pack("<HHII", 34665, 4, 1, 0xFFFFFFF0),  # EXIF
        struct.pack("<HHII", 34675, 7, 10**6, 12),  # a profile
        struct.pack("<HHII", 700, 1, 3000, 0xFFFF0),  # XMP
        struct.pack("<HHII", 33723, 4, 3000, 0xFFFF0),  # IPTC
        struct.pack("<HHII", 305, 99, 5, 12),  # of a kind that does not exist
        struct.pack("<HHII", 50000, 2, 0xFFFFFFFF, 8),
        struct.pack("<HHII", 282, 5, 1, 0xFFFFF0),  # a resolution
    ],
)
def test_tags_beside_the_pixels_of_a_tiff_never_decide(entry: bytes):
    same_pixels(with_tag(TIFF, entry), TIFF)


def test_odd_boxes_of_a_jpeg_2000_never_decide():
    for box in (struct.pack(">I4s", 14, b"xml ") + b"<a>bcd", struct.pack(">I4s", 3, b"uuid") + b"<a>bcd"):
        same_pixels(JP2[:32] + box + JP2[32:], JP2)


def test_a_damaged_animation_is_a_picture_and_is_still_rejected_where_animations_are():
    moving = animated("PNG")
    assert moving[37:41] == b"acTL"
    hurt = moving[:33] + chunk(b"tEXt", b"a\0b", b"oops") + moving[33:]
    assert same_pixels(hurt, moving) == "ancillary_checksum"
    with pytest.raises(Unreadable, match="animated"):
        inspect(hurt, IngestSettings(animated="reject"))


def test_limits_hold_for_a_file_that_is_tried_again():
    hurt = in_png(chunk(b"tEXt", b"a\0b", b"oops"))
    with pytest.raises(Unreadable, match="too_many_pixels"):
        inspect(hurt, IngestSettings(max_pixels=1000))


def _shades() -> Image.Image:
    return Image.fromarray(np.add.outer(np.arange(48) * 3, np.arange(64)).astype(np.uint8)).convert("RGB")


def _half() -> Image.Image:
    image = Image.new("RGB", SIZE, (128, 128, 128))
    image.paste((200, 10, 10), (0, 0, 64, 24))
    return image


KINDS = {
    "jpeg": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "restarts": ("JPEG", {"restart_marker_rows": 1}),
    "png": ("PNG", {}),
    "gif": ("GIF", {}),
    "webp": ("WEBP", {}),
    "lossless": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {}),
    "lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "bmp": ("BMP", {}),
    "jp2": ("JPEG2000", {}),
    "tiles": ("JPEG2000", {"tile_size": (32, 32), "irreversible": True}),
    "avif": ("AVIF", {}),
    "ppm": ("PPM", {}),
}


@pytest.mark.parametrize("content", [picture(size=SIZE), _shades(), _half()], ids=["noise", "shades", "half"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_file_is_refused_or_has_every_pixel(kind: str, content: Image.Image):
    format_, options = KINDS[kind]
    data = encoded(content, format_, **options)
    whole = pixels(data)
    for cut in {1, 2, 3, 4, 8, 12, *range(13, min(len(data), 400), 11), len(data) // 2}:
        try:
            inspect(data[:-cut])
        except Unreadable as why:
            assert why.reason in ("truncated", "damaged") or len(data) - cut < 12
        else:
            assert np.array_equal(pixels(data[:-cut]), whole), cut


def test_an_end_mark_does_not_make_a_cut_jpeg_whole():
    data = encoded(picture(size=SIZE), "JPEG")
    for cut in range(200, 1400, 50):
        with pytest.raises(Unreadable, match="truncated"):
            inspect(data[:-cut] + b"\xff\xd9")


def test_grey_at_the_end_of_a_whole_jpeg_is_no_reason():
    assert inspect(encoded(Image.new("RGB", SIZE, (128, 128, 128)), "JPEG")).remark is None
    assert inspect(encoded(Image.new("L", SIZE, 128), "JPEG")).remark is None


def test_a_progressive_jpeg_without_its_last_scans_is_noted():
    data = encoded(picture(size=SIZE), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    assert inspect(data).remark is None
    assert inspect(data[:last] + b"\xff\xd9").remark == "missing_scans"
    with pytest.raises(Unreadable, match="truncated"):
        inspect(data[:last])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(128, 96), (67, 41)])
def test_a_jpeg_that_lost_a_restart_mark_lacks_pixels_and_a_whole_one_does_not(progressive: bool, mode: str, size: tuple) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    file = io.BytesIO()
    options = {"restart_marker_blocks": 2, "progressive": progressive, "quality": 80}
    Image.fromarray(noise).convert(mode).save(file, "JPEG", **options)
    data = file.getvalue()
    assert inspect(data).remark is None
    marks = [m.start() for m in re.finditer(rb"\xff[\xd0-\xd7]", data)]
    with pytest.raises(Unreadable, match="1 of .* restart marks are gone"):
        inspect(data[: marks[3]] + data[marks[4] :])


def test_the_frames_of_an_animation_are_counted():
    assert webp.salvage(animated("WEBP")).frames == 2 and webp.salvage(WEBP).frames == 1
    assert png_container.salvage(encoded(picture(), "PNG", save_all=True, append_images=[picture(1), picture(2)])).frames == 3
    assert png_container.salvage(PNG).frames == 1


def test_a_chunk_that_is_cut_is_not_called_damaged_and_one_that_is_left_out_is():
    lead, end = PNG[:-12], PNG[-12:]
    time = chunk(b"tIME", bytes(7))
    assert png_container.salvage(lead + time + end).remarks == ("damaged_metadata",)
    assert png_container.salvage(lead + time[:-6]).remarks == ("no_end_mark",)
    assert png_container.salvage(lead + time[:8] + bytes(3) + end[:0]).remarks == ("no_end_mark",)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_where_an_interval_ends_lacks_pixels(progressive: bool) -> None:
    """There the decoder wants a restart mark and takes no other bytes for pixels, so none of them shows that some are missing."""
    noise = np.random.default_rng(3).integers(0, 255, (96, 128, 3)).astype(np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG", restart_marker_blocks=2, progressive=progressive)
    marks = [m.start() for m in re.finditer(rb"\xff[\xd0-\xd7]", data)]
    for mark in (marks[0], marks[7], marks[8], marks[len(marks) // 2]):
        for cut in (mark, mark + 1, mark + 2):
            with pytest.raises(Unreadable, match="truncated|damaged"):
                inspect(data[:cut])
