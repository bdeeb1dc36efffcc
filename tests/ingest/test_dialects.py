"""Separated text: whatever the separator, quoting, header and encoding, every line ends as a record or as what is wrong with it."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmret.ingest.rows import row_of_columns
from mmret.ingest.tables.dialects import recognise_dialect
from mmret.ingest.tables.manifest_files import Manifest, recognise
from mmret.ingest.tables.separated_files import headed, read_separated, recognise_separated
from tests.ingest.files import write

CAPTIONS = ["a red ball, on grass", "blue boat; at sea", 'a 5" pipe | old', "old dog in snow"]


def read(path: Path) -> tuple[list[tuple[str, str | None]], Counter[str]]:
    """(picture, caption) of every record, or the line's name and what is wrong with it; and the remarks, counted."""
    found = recognise(path)
    assert isinstance(found, Manifest), found
    remarks: Counter[str] = Counter()
    listed = []
    for number, record in found.records(lambda remark, *_: remarks.update([remark])):
        if isinstance(record, str):
            listed.append((f"{number}", record))
        else:
            row = row_of_columns(record)
            listed.append((row.path, row.caption))
    return listed, remarks


def written(separator: str, header: list[str] | None, captions: list[str], **options: object) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n", **options)
    writer.writerows(([header] if header else []) + [[f"{i}.jpg", caption] for i, caption in enumerate(captions)])
    return out.getvalue()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "captions.txt", "a.tab", "results.token"])
@pytest.mark.parametrize("separator", ["\t", ",", ";", "|"])
@pytest.mark.parametrize("header", [["image", "caption"], ["Image Path", "TEXT"], ["filepath", "title"], None])
def test_separators_and_headers_are_told_whatever_the_suffix(tmp_path: Path, name: str, separator: str, header: list[str] | None):
    write(tmp_path, {name: written(separator, header, CAPTIONS)})
    listed, remarks = read(tmp_path / name)
    assert listed == [(f"{i}.jpg", caption) for i, caption in enumerate(CAPTIONS)]
    assert not remarks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('image, caption\n0.jpg, "red, nice"\n1.jpg, blue\n', [("0.jpg", "red, nice"), ("1.jpg", "blue")]),
        ("image_name| comment_number| comment\n0.jpg| 0| red .\n1.jpg| 0| blue .\n", [("0.jpg", "red ."), ("1.jpg", "blue .")]),
        ('sep=;\nimage;caption\n0.jpg;"red; nice"\n', [("0.jpg", "red; nice")]),
        ('"image","caption"\r\n"0.jpg","red"\r\n\r\n"1.jpg","blue"\r\n', [("0.jpg", "red"), ("1.jpg", "blue")]),
        ("image,caption\r0.jpg,red\r1.jpg,blue", [("0.jpg", "red"), ("1.jpg", "blue")]),
        ("image_id,text\n0.jpg,red\n1.jpg,blue\n", [("0.jpg", "red"), ("1.jpg", "blue")]),
        ('image,caption\n0.jpg,"he said \\"hi\\", loud"\n', [("0.jpg", 'he said "hi", loud')]),
        ("id,image,caption,caption\n7,0.jpg,red,crimson\n", [("0.jpg", "red")]),
        ('image,caption\n0.jpg,"red, nice"  \n1.jpg,"blue" \n', [("0.jpg", "red, nice"), ("1.jpg", "blue")]),
        ('image,tags,caption\n0.jpg,"a,b",red, nice\n', [("0.jpg", "red, nice")]),
        ('image,caption\n"0.jpg","red""\n"1.jpg","blue"\n', [("0.jpg", '"red""'), ("1.jpg", "blue")]),
        (",image,caption\n0,0.jpg,red\n1,1.jpg,blue\n", [("0.jpg", "red"), ("1.jpg", "blue")]),
        ("caption,image\n100,0.jpg\n2.5,1.jpg\n", [("0.jpg", "100"), ("1.jpg", "2.5")]),
        ('image,caption\n0.jpg,"' + "a\n" * 3000 + '"\n1.jpg,x\n', [("0.jpg", "a\n" * 3000), ("1.jpg", "x")]),
        ("image,caption_0,caption_1\n0.jpg,,red\n", [("0.jpg", "red")]),
    ],
)
def test_dialects_of_real_files(tmp_path: Path, text: str, expected: list[tuple[str, str]]):
    write(tmp_path, {"captions.csv": text})
    assert read(tmp_path / "captions.csv")[0] == expected


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_caption_that_begins_with_a_quote_mark_swallows_no_line(tmp_path: Path, suffix: str):
    captions = [f"a caption {i}" for i in range(40)]
    captions[10], captions[30], captions[33], captions[34] = '"I love mugs on a cup', '"again', '"open', 'he said "yes"'
    captions[20], captions[24] = '"opens here', 'and closes there"'
    separator = "\t" if suffix == ".tsv" else ","
    lines = ["image" + separator + "caption", *(f"{i}.jpg{separator}{caption}" for i, caption in enumerate(captions))]
    write(tmp_path, {f"a{suffix}": "\n".join(lines)})
    listed, remarks = read(tmp_path / f"a{suffix}")
    assert listed == [(f"{i}.jpg", caption) for i, caption in enumerate(captions)]
    assert remarks == {"unbalanced_quote": 4}


def test_quoted_texts_may_span_lines(tmp_path: Path):
    captions = ["two\nlines, and\n\nmore", 'a "quoted"\nend"', "plain"]
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        write(tmp_path, {name: written(separator, ["image", "caption"], captions)})
        assert read(tmp_path / name) == ([(f"{i}.jpg", caption) for i, caption in enumerate(captions)], Counter())


def test_lines_with_too_few_or_too_many_columns_are_named_or_remarked(tmp_path: Path):
    text = "image,n,caption\n0.jpg,1,red, green, blue\n1.jpg,red\n2.jpg,1,red,,\n3.jpg,1,red\nno file,1,red,x\n"
    write(tmp_path, {"a.csv": text})
    listed, remarks = read(tmp_path / "a.csv")
    assert listed == [
        ("0.jpg", "red, green, blue"),
        ("3", "2 columns, the header has 3"),
        ("2.jpg", "red"),
        ("3.jpg", "red"),
        ("6", "4 columns, the header has 3"),
    ]
    assert remarks == {"separator_in_caption": 1, "surplus_columns": 1}
    write(tmp_path, {"b.csv": "image,caption,n\n0.jpg,red, green,1\n1.jpg,red,1\n"})
    assert read(tmp_path / "b.csv")[0] == [("2", "4 columns, the header has 3"), ("1.jpg", "red")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_encodings_are_told_and_a_guess_is_said(tmp_path: Path, encoding: str):
    captions = ["a café crème", "Zürich – “old town”", "plain"]
    for name, separator in (("a.csv", ","), ("b.txt", "\t")):
        write(tmp_path, {name: written(separator, ["image", "caption"], captions).encode(encoding)})
        listed, remarks = read(tmp_path / name)
        assert listed == [(f"{i}.jpg", caption) for i, caption in enumerate(captions)]
        assert remarks == Counter(guessed_encoding={"cp1252": 2, "utf-16-le": 1, "utf-16-be": 1}.get(encoding, 0))


def test_other_scripts_are_guessed_by_the_whole_head_or_refused_line_by_line(tmp_path: Path):
    caption = "公園で赤いボールを持った犬がいます"
    text = "\n".join(["image\tcaption", *(f"{i}.jpg\t{caption}{i}" for i in range(30))])
    write(tmp_path, {"a.tsv": text.encode("shift_jis")})
    listed, remarks = read(tmp_path / "a.tsv")
    assert listed[3] == ("3.jpg", f"{caption}3") and len(listed) == 30 and remarks == {"guessed_encoding": 1}
    write(tmp_path, {"b.tsv": b"image\tcaption\n0.jpg\t\x8c\xf6\x89\x80\n1.jpg\tred\n"})
    assert read(tmp_path / "b.tsv")[0] == [("2", "not UTF-8"), ("1.jpg", "red")]


def test_nul_bytes_and_lines_without_end_cost_themselves_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mmret.ingest.tables.text_files.LONGEST_LINE", 1000)
    text = "image,caption\n0.jpg,re\0d\n1.jpg," + "x" * 5000 + "\n2.jpg,blue\n"
    write(tmp_path, {"a.csv": text})
    listed, _ = read(tmp_path / "a.csv")
    assert [name for name, _ in listed] == ["0.jpg", "3", "2.jpg"]


def test_a_gzipped_table_is_read_and_one_that_breaks_off_says_so(tmp_path: Path):
    import random

    draw = random.Random(0)
    text = written(",", ["image", "caption"], ["".join(draw.choices("abcdefgh ", k=60)) for _ in range(20_000)])
    packed = gzip.compress(text.encode())
    write(tmp_path, {"a.csv.gz": packed, "cut.csv.gz": packed[: len(packed) * 3 // 4], "no.csv.gz": b"plain"})
    assert len(read(tmp_path / "a.csv.gz")[0]) == 20_000
    listed, _ = read(tmp_path / "cut.csv.gz")
    assert 10_000 < len(listed) < 20_000 and "cannot be read from here on" in listed[-1][1]
    assert "cannot be read" in recognise(tmp_path / "no.csv.gz")


def test_lines_of_one_picture_become_one_row_with_all_captions_in_newly_read_dialects_only(tmp_path: Path):
    lines = [f"{i // 5}.jpg,caption {i}" for i in range(20)]
    write(tmp_path, {"captions.txt": "image,caption\n" + "\n".join(lines), "captions.csv": "image,caption\n" + "\n".join(lines)})
    found = recognise(tmp_path / "captions.txt")
    rows = [row_of_columns(record) for _, record in found.records()]
    assert [(row.path, row.caption) for row in rows] == [(f"{i}.jpg", f"caption {5 * i}") for i in range(4)]
    assert '"caption": ["caption 0", "caption 1", "caption 2", "caption 3", "caption 4"]' in rows[0].extra
    assert read(tmp_path / "captions.txt")[1] == {"further_caption": 16}
    assert len(read(tmp_path / "captions.csv")[0]) == 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,label\n0.jpg,3\n", "no caption column: found image, label; expected one called caption or text"),
        ("picture;words\n0.jpg;red\n", "no image column: found picture, words; expected one called image or"),
        ("URL\tTEXT\nhttps://x.org/a.jpg\tred\n", "found URL, TEXT; its pictures are addresses on the web: fetch them first"),
        ("a red ball\thttps://x.org/a.jpg\nblue\thttps://x.org/b.jpg\n", "addresses on the web: fetch them first"),
        ("image,caption\nhttps://x.org/a.jpg,red\n", "names no files: its pictures are addresses on the web"),
        ("Copyright 2020, all rights reserved.\nPictures by somebody.\n", "no image column: found Copyright 2020, all rights"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)), "no image column"),
    ],
)
def test_what_is_no_table_of_pictures_says_in_one_sentence_what_is_lacking(tmp_path: Path, text: str, words: str):
    write(tmp_path, {"a.csv": text})
    found = recognise(tmp_path / "a.csv")
    assert isinstance(found, str) and words in found and "\n" not in found


ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=30)
AWKWARD_TEXT = st.text('a ",;|\t\n', max_size=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("separated")


@settings(max_examples=100, deadline=None)
@given(
    captions=st.lists(st.one_of(ANY_TEXT, AWKWARD_TEXT).map(lambda text: f"x{text}"), min_size=1, max_size=8),
    separator=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    headed=st.booleans(),
)
def test_whatever_a_csv_writer_writes_is_read_back(folder, captions, separator, quoting, headed):
    captions = [*captions, "a word"]
    path = folder / "a.csv"
    path.write_bytes(written(separator, ["image", "caption"] if headed else None, captions, quoting=quoting).encode())
    listed, _ = read(path)
    assert [name for name, _ in listed] == [f"{i}.jpg" for i in range(len(captions))]
    assert [text for _, text in listed] == captions


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(st.text('a" ,\t.', max_size=12), min_size=1, max_size=12), separator=st.sampled_from(",;\t|"))
def test_no_line_is_lost_whatever_its_quote_marks(folder, lines, separator):
    path = folder / "a.tsv"
    text = "".join(f"{i}.jpg{separator}x{line}\n" for i, line in enumerate(lines))
    path.write_text(f"image{separator}caption\n{text}")
    places = [int(name.removesuffix(".jpg")) if name.endswith(".jpg") else int(name) - 2 for name, _ in read(path)[0]]
    assert places == list(range(len(lines)))


def test_prose_is_told_from_a_table_in_one_look_at_each_of_its_first_lines():
    """Not in a look at every way to leave lines out above a header, of which there are more with each line."""
    assert isinstance(recognise_dialect([f"line {n} of a story\n" for n in range(300)], ".csv"), str)


def test_every_remark_names_the_line_and_says_what_was_made_of_it(tmp_path: Path):
    lines = [
        "image,caption",
        'a.png,"never closed',
        "b.png,sound",
        "c.png,blue, and green",
        "d.png,red,,",
        "",
        "e.png,caf\xe9",
    ]
    write(tmp_path, {"t.csv": "\n".join(lines).encode("latin-1")})
    found = recognise(tmp_path / "t.csv")
    noted: list[tuple[str, str | None, str | None]] = []
    records = list(found.records(lambda remark, path=None, detail=None, count=1: noted.append((remark, path, detail))))
    assert [(number, record["caption"]) for number, record in records] == [
        (2, '"never closed'),
        (3, "sound"),
        (4, "blue, and green"),
        (5, "red"),
        (7, "caf\xe9"),
    ]
    assert noted == [
        ("unbalanced_quote", "t.csv:2", "a quote mark that does not close: the line is taken as it stands"),
        ("separator_in_caption", "t.csv:4", "separators without quote marks, taken as part of the caption"),
        ("surplus_columns", "t.csv:5", "empty columns behind the last"),
        ("guessed_encoding", "t.csv:7", "not UTF-8, read as windows-1252"),
    ]


def test_a_line_above_the_header_is_named_with_its_text(tmp_path: Path):
    write(tmp_path, {"t.csv": "My pictures of 2024\nimage,caption\na.png,one\nb.png,two\n"})
    noted: list[tuple[str, str | None, str | None]] = []
    found = recognise(tmp_path / "t.csv")
    records = list(found.records(lambda remark, path=None, detail=None, count=1: noted.append((remark, path, detail))))
    assert [number for number, _ in records] == [3, 4]
    assert noted == [("line_above_header", "t.csv:1", "no line of the table: My pictures of 2024")]


def test_a_table_without_pictures_is_read_by_the_rules_alone(tmp_path: Path):
    """No name of a picture tells where its records begin, so a quoted text may hold lines with as many fields as a record."""
    text = 'key\tcaption\na\t"first line\nsecond\tpart of it"\nb\tx.jpg#3\nc\t padded \n'
    write(tmp_path, {"t.tsv": text, "t.csv": "key,caption\na,b\n"})
    dialect, encoding = headed(tmp_path / "t.tsv")
    assert list(read_separated(tmp_path / "t.tsv", dialect, encoding, lambda *_: None)) == [
        (2, {"key": "a", "caption": "first line\nsecond\tpart of it"}),
        (4, {"key": "b", "caption": "x.jpg#3"}),
        (5, {"key": "c", "caption": " padded "}),
    ]
    assert headed(tmp_path / "t.csv")[0].separator == ","


@pytest.mark.parametrize(
    "name, text, read",
    [
        ("a.csv", "image,caption\na.png,x\n", (",", True, "utf-8")),
        ("a.txt", "image|caption\na.png|x\n", ("|", True, "utf-8")),
        ("a.tsv", "a.png\tx y\nb.png\tz w\n", ("\t", False, "utf-8")),
        ("u.csv", "\ufeffimage;caption\na.png;x\n".encode("utf-16"), (";", True, "utf-16")),
    ],
)
def test_separator_header_and_encoding_are_told_and_paths_count_from_the_table_s_folder(tmp_path: Path, name, text, read):
    write(tmp_path, {name: text, "a.png": b""})
    dialect, encoding = recognise_separated(tmp_path / name)
    assert (dialect.separator, dialect.header, encoding) == read
    found = recognise(tmp_path / name)
    assert (found.path, found.folder) == (tmp_path / name, tmp_path)
