"""Invariants: what a person wrote into a file or its name is found, in any script; what cameras, programs and lists write is not;
no file, however damaged, stops the search."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from mmret.ingest.found_captions import found_caption, named_caption
from mmret.ingest.found_captions.metadata import embedded_description
from mmret.ingest.found_captions.names import words_of_name
from mmret.ingest.found_captions.software_words import is_of_software
from mmret.settings import CaptionSettings
from tests.ingest.files import encoded, jpeg, picture, png

DESCRIBED = "Fischerboote im Hafen – 漁船"

SAY_NOTHING = """IMG_0001.JPG
DSC_1234.jpg|DSCN0001.JPG|P1010001.JPG|_MG_1234.CR2|DJI_0001.JPG|MVIMG_20200101_1.jpg|20240101_120000.jpg
PXL_20230101_123456789.jpg
IMG-20240101-WA0001.jpg|WhatsApp Image 2023-01-01 at 12.00.00 PM (1).jpeg|FB_IMG_1234567.jpg|img_e1234.jpg
Screenshot 2024-01-01 at 10.00.00.png|Screenshot_20240101-120000_Chrome.jpg|Bildschirmfoto 2024-01-01 um 10.10.10.png
Capture d’écran 2024-01-01 à 10.10.10.png|スクリーンショット 2024-01-01.png|Снимок экрана 2024.png|微信图片_20240101120000.jpg
d41d8cd98f00b204e9800998ecf8427e.jpg|550e8400-e29b-41d4-a716-446655440000.png|dQw4w9WgXcQ.jpg|0a1b2c3d.jpg|xkqzjvbn.jpg
photo-1518791841217-8f162f1e1131.jpg|4059284_a1b2c3d4e5_b.jpg|000000000139.jpg|COCO_train2014_000000123456.jpg|n02084071_123.jpg
image (3).png|untitled.png|My Photo.jpg|New folder (2)
100CANON|DCIM|Camera Roll|frame_0001.png|a.jpg|1920x1080.png|.jpg|""".replace("\n", "|").split("|")

SAY_SOMETHING = {
    "red-car.jpg": "red car",
    "red_barn_02 (1).png": "red barn",
    "RedBarnAtNight.JPG": "Red Barn At Night",
    "IMG_20200101_beach sunset.jpg": "beach sunset",
    "Hund im Schnee.png": "Hund im Schnee",
    "старый дом у реки.jpg": "старый дом у реки",
    "白い猫.jpg": "白い猫",
    "IMG_2023_白い猫01.jpg": "白い猫",
    "बिल्ली.jpg": "बिल्ली",
    "กล้วย.jpg": "กล้วย",
    "قطة بيضاء.jpg": "قطة بيضاء",
    "e\u0301te\u0301.jpg": "été",
    "cat12.jpg": "cat",
    "photo of a dog.jpg": "photo of a dog",
    "20190101_grandma's birthday.jpg": "grandma’s birthday",
    "golden_retriever": "golden retriever",
    "1920x1080 mountain lake.jpg": "mountain lake",
}


@pytest.mark.parametrize("name", SAY_NOTHING)
def test_names_that_programs_give_say_nothing(name: str):
    assert words_of_name(name) is None


@pytest.mark.parametrize("name", SAY_SOMETHING)
def test_names_that_people_give_are_words_in_any_script(name: str):
    assert words_of_name(name) == SAY_SOMETHING[name]


OF_SOFTWARE = ["OLYMPUS DIGITAL CAMERA", "SONY DSC", "KODAK Digital Still Camera", "Created with GIMP", "Screenshot", "IMG_0001"]
OF_SOFTWARE += [
    "Exif_JPEG_PICTURE",
    "sdr_HDRB",
    "<Digimax S500>",
    '{"prompt": {}}',
    "2024:01:01 12:00",
    "https://example.org/a.jpg",
]


@pytest.mark.parametrize("text", OF_SOFTWARE)
def test_what_cameras_and_programs_write_is_no_description(text: str):
    assert is_of_software(text)
    exif = Image.Exif()
    exif[0x010E] = text
    assert embedded_description(encoded(picture(), "JPEG", exif=exif)) is None


@pytest.mark.parametrize("text", ["A digital camera on a table", "Made with love: a cake", "A dog", "白い猫", "Samsung on a desk"])
def test_what_people_write_of_the_same_things_is_one(text: str):
    assert not is_of_software(text)


def xmp(text: str, other: str = "Boote") -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<dc:description><rdf:Alt><rdf:li xml:lang="de">{other}</rdf:li><rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt>'
        '</dc:description></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def with_iptc(text: bytes) -> bytes:
    """A JPEG with IPTC Caption/Abstract in its Photoshop block, as agencies write it."""
    dataset = struct.pack(">BBBH", 0x1C, 2, 120, len(text)) + text
    resource = (
        b"8BIM" + struct.pack(">H", 0x0404) + b"\0\0" + struct.pack(">I", len(dataset)) + dataset + b"\0" * (len(dataset) % 2)
    )
    block = b"Photoshop 3.0\0" + resource
    data = jpeg()
    return data[:2] + b"\xff\xed" + struct.pack(">H", len(block) + 2) + block + data[2:]


def with_exif(text: bytes) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = text
    return encoded(picture(), "JPEG", exif=exif)


def with_text(name: str, text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(name, text)
    return encoded(picture(), "PNG", pnginfo=info)


FILES = {
    "xmp in a jpeg": (lambda: encoded(picture(), "JPEG", xmp=xmp(DESCRIBED)), "xmp"),
    "xmp in a webp": (lambda: encoded(picture(), "WEBP", xmp=xmp(DESCRIBED)), "xmp"),
    "xmp in a png": (lambda: with_text("XML:com.adobe.xmp", xmp(DESCRIBED).decode()), "xmp"),
    "iptc": (lambda: with_iptc(DESCRIBED.encode()), "iptc"),
    "exif in utf-8": (lambda: with_exif(DESCRIBED.encode()), "exif"),
    "a text of a png": (lambda: with_text("Description", DESCRIBED), "png"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_description_in_the_file_is_found_with_where_it_stands(kind: str):
    make, origin = FILES[kind]
    assert embedded_description(make()) == (DESCRIBED, origin)


def test_iptc_of_windows_programs_is_read_in_their_encoding():
    assert embedded_description(with_iptc("Café am Straßenrand".encode("cp1252"))) == ("Café am Straßenrand", "iptc")


def test_xmp_goes_before_what_is_older_and_what_says_nothing_is_passed_over():
    exif = Image.Exif()
    exif[0x010E] = "an old dog"
    both = lambda text: encoded(picture(), "JPEG", exif=exif, xmp=xmp(text, text))  # noqa: E731
    assert embedded_description(both("a new dog")) == ("a new dog", "xmp")
    assert embedded_description(both("SONY DSC")) == ("an old dog", "exif")


@pytest.mark.parametrize("make", [lambda: xmp("&boom;"), lambda: b"<x", lambda: b"\xff\xfe\0<"], ids=["entity", "cut", "utf-16"])
def test_damaged_metadata_is_none(make):
    assert embedded_description(encoded(picture(), "JPEG", xmp=make())) is None


def test_no_cut_of_a_file_stops_the_search():
    for data in (with_iptc(b"a dog in snow"), encoded(picture(), "JPEG", xmp=xmp("a dog")), with_text("Description", "a dog")):
        for end in range(0, len(data), max(1, len(data) // 60)):
            embedded_description(data[:end])
    assert embedded_description(b"") is None and embedded_description(b"not a picture") is None


def test_file_goes_before_file_name_and_that_before_the_folder_s(tmp_path: Path):
    settings, root = CaptionSettings(), str(tmp_path / "my dogs")
    described = with_exif(b"an old dog")

    def found(path: str, data: bytes, settings: CaptionSettings = settings) -> tuple[str, str] | None:
        return found_caption(root, path, lambda: data, settings)

    assert found("in snow/puppy.png", described) == ("an old dog", "exif")
    assert found("in snow/puppy.png", png()) == ("puppy", "file_name")
    assert found("in snow/IMG_1.png", png()) == ("in snow", "folder_name")
    assert found("100CANON/IMG_1.png", png()) == ("my dogs", "folder_name")
    assert found("puppy.png", described, CaptionSettings(embedded=False)) == ("puppy", "file_name")
    assert found("puppy.png", png(), CaptionSettings(missing="model", engine={"model": "m"})) is None
    assert named_caption("shapes:8?seed=0", "0") is None and named_caption("/x/train-00000.parquet", "17") is None


def test_names_alone_open_no_file():
    def read() -> bytes:
        raise AssertionError("opened")

    assert found_caption("/x", "red barn.png", read, CaptionSettings(embedded=False)) == ("red barn", "file_name")


def test_a_long_description_is_one_line_of_bounded_length():
    text, _ = embedded_description(encoded(picture(), "JPEG", xmp=xmp("a dog\n\tin  snow " + "and more " * 1000)))
    assert text.startswith("a dog in snow and more") and len(text) <= 2000
