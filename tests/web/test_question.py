"""A question and its address are the same thing, whatever was typed; what was mangled on its way is passed over."""

import itertools
from urllib.parse import parse_qsl, urlsplit

import pytest
from PIL import Image

from mmret.hashing import content_id
from mmret.web.question import Question
from mmret.web.uploads import Uploads

pytest.importorskip("nicegui", reason="the page needs the extra 'gallery'")
ID, OTHER = "0123456789abcdef" * 2, "f" * 32
TEXTS = ("", "a red circle", "größer & 100% <b>", 'a "quote" + plus=#?', "line\nbreak", "日本")


def read(address: str) -> Question:
    assert address.isascii() and urlsplit(address).path == "/search"
    return Question.read(dict(parse_qsl(urlsplit(address).query)))


def test_every_question_is_read_back_from_its_address():
    pictures = ({}, {"image": ID}, {"upload": ID}, {"image": ID, "target": OTHER})
    for text, where, given, first in itertools.product(TEXTS, TEXTS, pictures, (1, 25)):
        question = Question(text=text, where=where, left="demo", right="untrained", first=first, **given)
        assert read(question.address()) == question
    assert Question().address() == "/search"


@pytest.mark.parametrize(
    ("parameters", "question"),
    [
        ({"image": "../../etc/passwd", "upload": "x", "target": ID[:-1]}, Question()),
        ({"image": ID.upper()}, Question()),
        ({"image": ID, "upload": OTHER}, Question(image=ID)),
        ({"first": "0"}, Question()),
        ({"first": "-3"}, Question()),
        ({"first": "²"}, Question()),
        ({"first": "1e9"}, Question()),
        ({"first": "9" * 5000}, Question()),
        ({"first": "999999999"}, Question(first=1_000_000)),
        ({"something": "else", "text": "x"}, Question(text="x")),
    ],
)
def test_what_an_address_cannot_mean_is_passed_over(parameters, question):
    assert Question.read(parameters) == question


def test_uploads_are_kept_by_content_and_those_unused_for_longest_are_dropped_first():
    uploads = Uploads(most_bytes=10)
    names = [uploads.add(data) for data in (b"aaaa", b"bbbb", b"aaaa")]
    assert names[0] == names[2] == content_id(b"aaaa") and uploads.get(names[1]) == b"bbbb"
    uploads.get(names[0])
    third = uploads.add(b"cccc")
    assert uploads.get(names[1]) is None and uploads.get(names[0]) == b"aaaa" and uploads.get(third) == b"cccc"
    large = uploads.add(b"x" * 50)
    assert uploads.get(large) == b"x" * 50 and uploads.get(third) is None  # what somebody asks with now is always kept


def test_an_upload_is_shown_as_a_picture_made_anew_or_not_at_all(tmp_path):
    Image.new("RGB", (600, 300), "red").save(tmp_path / "red.png")
    uploads = Uploads()
    name = uploads.add((tmp_path / "red.png").read_bytes())
    assert uploads.thumbnail(name, 160)[:3] == b"\xff\xd8\xff"
    assert uploads.thumbnail(name, 161) is None and uploads.thumbnail(OTHER, 160) is None
    assert uploads.thumbnail(uploads.add(b"<svg onload=alert(1)>"), 160) is None
