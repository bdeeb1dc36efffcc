"""Invariants: what other programs leave beside pictures (boxes, file names, answers, thumbnails) is never a caption or the picture;
what they put around tables (titles, an index, views of Arrow, links to blobs) costs no row; what is not read is named."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from mmret.errors import UserError
from mmret.ingest.sources import open_reader, open_source
from tests.ingest.files import jsonl, png, tar, write


def captions(folder: Path) -> dict[str, str | None]:
    return {row.path: row.caption for row in open_source(str(folder)).rows() if row.reason is None}


def remarks(folder: Path) -> dict[str, int]:
    source = open_source(str(folder))
    list(source.rows())
    return {remark.remark: remark.count for remark in source.remarks}


def three(folder: Path, below: str = "") -> Path:
    return write(folder, {f"{below}{i}.png": png(i) for i in range(3)})


WORDS = {"0.png": "a dog", "1.png": "a cat", "2.png": "a house"}


@pytest.mark.parametrize(
    "above", ["# exported by a tool\n", "Captions of the museum\n\n", "# a\n# b\n\n# c, d\n"], ids=["comment", "title", "several"]
)
def test_lines_above_the_header_are_counted_and_cost_no_row(tmp_path: Path, above: str):
    table = "image,caption\n" + "".join(f"{name},{text}\n" for name, text in WORDS.items())
    write(three(tmp_path), {"captions.csv": above + table})
    assert captions(tmp_path) == WORDS
    assert remarks(tmp_path) == {"line_above_header": sum(bool(line) for line in above.splitlines())}


def test_the_words_of_a_text_are_no_header(tmp_path: Path):
    write(three(tmp_path), {"readme.txt": "How to write captions\nimage,caption\n0.png,like this\nand so on\nand so on\n"})
    assert set(captions(tmp_path).values()) == {None}
    assert remarks(tmp_path) == {"text_without_picture": 1}


@pytest.mark.parametrize("column", ["", "Unnamed: 0", "index"])
def test_names_in_the_index_that_pandas_writes_are_the_pictures(tmp_path: Path, column: str):
    write(three(tmp_path), {"c.csv": f"{column},caption\n" + "".join(f"{name},{text}\n" for name, text in WORDS.items())})
    assert captions(tmp_path) == WORDS


def test_names_in_the_index_of_a_parquet_table_are_the_pictures(tmp_path: Path):
    table = pa.table({"caption": list(WORDS.values()), "__index_level_0__": list(WORDS)})
    pq.write_table(table, three(tmp_path) / "c.parquet")
    assert captions(tmp_path) == WORDS


@pytest.mark.parametrize("column", ["caption_en", "Caption DE", "blip_caption", "generated-caption", "prompt", "text_fr"])
def test_a_column_that_speaks_of_captions_is_the_caption_where_none_is_called_so(tmp_path: Path, column: str):
    write(three(tmp_path), {"c.csv": f"image,{column}\n" + "".join(f"{name},{text}\n" for name, text in WORDS.items())})
    assert captions(tmp_path) == WORDS


@pytest.mark.parametrize("columns", ["prompt,response", "prompt,answer", "num_captions,x", "caption_id,x", "label,x"])
def test_questions_counts_and_labels_are_no_captions(tmp_path: Path, columns: str):
    write(three(tmp_path), {"c.csv": f"image,{columns}\n" + "".join(f"{name},what is it?,it is\n" for name in WORDS)})
    assert set(captions(tmp_path).values()) == {None}
    assert remarks(tmp_path) == {"not_a_manifest": 1}


def test_a_column_that_is_called_caption_wins_over_one_that_speaks_of_it(tmp_path: Path):
    lines = "".join(f"{name},of a model,{text}\n" for name, text in WORDS.items())
    write(three(tmp_path), {"c.csv": "image,blip_caption,caption\n" + lines})
    assert captions(tmp_path) == WORDS


def test_a_list_with_one_picture_is_that_picture(tmp_path: Path):
    records = [{"images": [name], "text": text} for name, text in WORDS.items()]
    write(three(tmp_path), {"data.jsonl": jsonl(*records)})
    assert captions(tmp_path) == WORDS


def test_columns_of_other_pictures_are_no_captions(tmp_path: Path):
    """Flickr8k's judgements name a picture and a caption's number a line, its lemmas say every caption once more."""
    write(three(tmp_path, "images/"), {"text/ExpertAnnotations.txt": "".join(f"{i}.png\t{2 - i}.png#2\t1\n" for i in range(3))})
    write(tmp_path, {"text/F.lemma.token.txt": "".join(f"{n}#{k}\tlemma {k}\n" for n in WORDS for k in range(2))})
    write(tmp_path, {"text/F.token.txt": "".join(f"{n}#{k}\twords {k}\n" for n in WORDS for k in range(2))})
    assert captions(tmp_path) == {f"images/{name}": "words 0" for name in WORDS}


def test_lines_of_numbers_beside_a_picture_are_no_caption_but_one_number_is(tmp_path: Path):
    boxes = "0 0.5 0.5 0.25 1e-1\n12 0.1 0.2 0.3 0.4\r\n"
    write(three(tmp_path), {"0.txt": boxes, "1.txt": "7", "2.txt": "1 2 3 4 5 dogs in a row"})
    assert captions(tmp_path) == {"0.png": None, "1.png": "7", "2.png": "1 2 3 4 5 dogs in a row"}
    assert remarks(tmp_path) == {"numbers_as_text": 1}


def test_a_title_that_is_the_files_name_is_no_caption(tmp_path: Path):
    """As in the JSON that Google writes beside exported photos, and in tables of other programs."""
    write(three(tmp_path), {"0.png.json": json.dumps({"title": "0.png", "description": "our dog"})})
    write(tmp_path, {"1.png.json": json.dumps({"title": "1.png", "description": ""})})
    write(tmp_path, {"below/c.csv": "filename,title,description\nx.png,x.png,our cat\n", "below/x.png": png(7)})
    assert captions(tmp_path) == {"0.png": "our dog", "1.png": None, "2.png": None, "below/x.png": "our cat"}


def test_of_joined_tars_each_picture_has_the_caption_of_its_own_tar(tmp_path: Path):
    first = tar(tmp_path / "a", {"0.png": png(0), "0.txt": b"first"}).read_bytes()
    second = tar(tmp_path / "b", {"0.png": png(1), "0.txt": b"second"}).read_bytes()
    write(tmp_path / "joined", {"x.tar": first + second})
    assert captions(tmp_path / "joined") == {"x.tar/0.png": "first"}
    assert remarks(tmp_path / "joined") == {"joined_tars": 1, "duplicate_text": 1}


def test_a_tar_without_pictures_and_an_archive_are_named(tmp_path: Path):
    tar(write(tmp_path, {"0.png": png(0), "0.txt": "a dog", "more.ZIP": b"PK"}) / "empty.tar", {})
    assert captions(tmp_path) == {"0.png": "a dog"}
    assert remarks(tmp_path) == {"tar_without_pictures": 1, "archive": 1}
    with pytest.raises(UserError, match="unpack it first"):
        open_source(str(tmp_path / "more.ZIP"))


def test_a_file_that_a_table_names_is_not_called_unread_whatever_its_suffix(tmp_path: Path):
    write(tmp_path, {"photo": png(0), "b.img": png(1), "c.csv": "image,caption\nphoto,a dog\nb.img,a cat\n"})
    assert captions(tmp_path) == {"photo": "a dog", "b.img": "a cat"}
    assert remarks(tmp_path) == {}


def test_thumbnails_that_systems_write_are_not_looked_into_and_lose_to_the_pictures(tmp_path: Path):
    write(three(three(tmp_path, "train/"), "thumbnails/"), {"@eaDir/0.png/THUMB.jpg": png(9), "$RECYCLE.BIN/1.png": png(8)})
    write(tmp_path, {"c.csv": "image,caption\n" + "".join(f"{name},{text}\n" for name, text in WORDS.items())})
    listed = [(row.path, row.caption) for row in open_source(str(tmp_path)).rows()]
    assert listed[:3] == [(f"train/{name}", text) for name, text in WORDS.items()]
    assert [path for path, _ in listed[3:]] == [f"thumbnails/{name}" for name in WORDS]
    assert remarks(tmp_path) == {"hidden": 2}


@pytest.mark.parametrize("name", ["image", "image_bytes", "thumbnail"])
@pytest.mark.parametrize("below", ["", "images/"])
def test_a_table_of_paths_stays_one_where_it_also_holds_thumbnails_and_its_files_are_there(tmp_path: Path, name: str, below: str):
    table = {"path": list(WORDS), "caption": list(WORDS.values()), name: [png(10 + i) for i in range(3)]}
    pq.write_table(pa.table(table), three(tmp_path, below) / "c.parquet")
    assert captions(tmp_path) == {below + path: text for path, text in WORDS.items()}
    if not below:
        assert captions(tmp_path / "c.parquet") == WORDS
        stream, size = open_reader(str(tmp_path / "c.parquet")).open("1.png")
        with stream:
            assert stream.read(size) == png(1)


def test_a_table_of_pictures_stays_one_where_the_files_that_it_names_are_not_there(tmp_path: Path):
    table = {"path": list(WORDS), "caption": list(WORDS.values()), "image": [png(i) for i in range(3)]}
    pq.write_table(pa.table(table), tmp_path / "c.parquet")
    assert captions(tmp_path / "c.parquet") == {str(i): text for i, text in enumerate(WORDS.values())}
    stream, size = open_reader(str(tmp_path / "c.parquet")).open("1")
    with stream:
        assert stream.read(size) == png(1)


def test_views_of_bytes_and_texts_are_read(tmp_path: Path):
    """Polars writes Arrow files so."""
    table = {"image": pa.array([png(i) for i in range(3)]).cast(pa.binary_view()), "caption": list(WORDS.values())}
    feather.write_feather(pa.table(table), str(tmp_path / "c.arrow"), compression="uncompressed")
    assert captions(tmp_path) == {f"c.arrow/{i}": text for i, text in enumerate(WORDS.values())}


def test_parquet_in_a_snapshot_of_the_hub_is_read_although_its_blob_has_no_suffix(tmp_path: Path):
    repository = tmp_path / "datasets--org--name"
    snapshot = repository / "snapshots" / "abc"
    (snapshot / "data").mkdir(parents=True)
    (repository / "blobs").mkdir()
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(3)], "text": list(WORDS.values())}
    pq.write_table(pa.table(rows), repository / "blobs" / "0f")
    (snapshot / "data" / "train.parquet").symlink_to("../../../blobs/0f")
    assert captions(snapshot) == {f"data/train.parquet/{i}": text for i, text in enumerate(WORDS.values())}
    stream, size = open_reader(str(snapshot)).open("data/train.parquet/2")
    with stream:
        assert stream.read(size) == png(2)


def test_lines_that_begin_with_a_name_and_a_blank_are_told_what_to_put_between(tmp_path: Path):
    write(three(tmp_path), {"c.csv": "".join(f"{name} {text}\n" for name, text in WORDS.items())})
    source = open_source(str(tmp_path))
    assert all(row.caption is None for row in source.rows())
    (remark,) = source.remarks
    assert remark.remark == "not_a_manifest" and "put a tab there" in (remark.detail or "")


def test_a_comma_behind_a_line_of_json_costs_no_row_and_what_is_no_json_is_a_reject(tmp_path: Path):
    lines = [json.dumps({"image": name, "caption": text}) for name, text in WORDS.items()]
    write(three(tmp_path), {"c.jsonl": ",\n".join(lines) + "\n{bad},\n"})
    assert captions(tmp_path) == WORDS
    assert [row.path for row in open_source(str(tmp_path)).rows() if row.reason] == ["c.jsonl:4"]


@pytest.mark.parametrize("name", ["path", "file_name", "filename"])
def test_an_object_that_names_its_file_is_that_picture(tmp_path: Path, name: str):
    records = [{"image": {name: path, "width": 24}, "caption": text} for path, text in WORDS.items()]
    write(three(tmp_path), {"c.jsonl": jsonl(*records)})
    assert captions(tmp_path) == WORDS


def test_texts_in_another_folder_than_their_pictures_are_told_where_they_belong(tmp_path: Path):
    write(three(tmp_path, "images/"), {f"captions/{i}.txt": text for i, text in enumerate(WORDS.values())})
    source = open_source(str(tmp_path))
    assert all(row.caption is None for row in source.rows())
    (remark,) = source.remarks
    assert (remark.remark, remark.count) == ("text_without_picture", 3) and "its picture's folder" in (remark.detail or "")


def test_the_list_of_downloads_beside_a_folder_of_them_is_called_so(tmp_path: Path):
    pq.write_table(
        pa.table({"key": ["0"], "url": ["https://a/0.png"], "caption": ["a dog"], "status": ["success"]}), tmp_path / "00.parquet"
    )
    write(tmp_path, {"00/0.png": png(0), "00/0.txt": "a dog"})
    assert captions(tmp_path) == {"00/0.png": "a dog"}
    (remark,) = open_and_list(tmp_path)
    assert remark.remark == "not_a_manifest" and "list of downloads" in (remark.detail or "")


def open_and_list(folder: Path) -> list:
    source = open_source(str(folder))
    list(source.rows())
    return list(source.remarks)


def test_texts_that_numpy_writes_without_commas_are_several_captions(tmp_path: Path):
    cells = ["['a dog' 'one dog']", "['a cat'\n 'one cat' \"it's a cat\"]", "['a house']"]
    write(
        three(tmp_path),
        {"c.csv": "image,caption\n" + "".join(f'{i}.png,"{c.replace(chr(34), chr(34) * 2)}"\n' for i, c in enumerate(cells))},
    )
    assert captions(tmp_path) == WORDS
    extras = [json.loads(row.extra or "{}")["caption"] for row in open_source(str(tmp_path)).rows()]
    assert extras == [["a dog", "one dog"], ["a cat", "one cat", "it's a cat"], ["a house"]]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("image", ["https://a.example/{}.jpg", "{}"])
def test_where_one_column_has_addresses_or_numbers_the_column_of_files_is_the_picture(tmp_path: Path, kind: str, image: str):
    records = [{"image": image.format(i), "path": name, "caption": text} for i, (name, text) in enumerate(WORDS.items())]
    three(tmp_path)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), tmp_path / "c.parquet")
    else:
        lines = "image,path,caption\n" + "".join(",".join(record.values()) + "\n" for record in records)
        write(tmp_path, {f"c.{kind}": lines if kind == "csv" else jsonl(*records)})
    assert captions(tmp_path) == WORDS


def test_what_the_model_says_in_messages_is_the_caption(tmp_path: Path):
    def turns(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": text}]

    write(three(tmp_path), {"c.jsonl": jsonl(*({"images": [name], "messages": turns(text)} for name, text in WORDS.items()))})
    assert captions(tmp_path) == WORDS


def test_an_address_or_the_name_of_a_text_is_no_caption_but_is_kept(tmp_path: Path):
    write(three(tmp_path), {"c.csv": "image,caption\n0.png,https://a.example/x\n1.png,text/1.txt\n2.png,see www.a.example today\n"})
    rows = list(open_source(str(tmp_path)).rows())
    assert [row.caption for row in rows] == [None, None, "see www.a.example today"]
    assert [row.extra for row in rows[:2]] == ['{"caption": "https://a.example/x"}', '{"caption": "text/1.txt"}']


def test_a_message_about_pictures_written_as_text_stays_short(tmp_path: Path):
    write(
        tmp_path, {"c.jsonl": jsonl(*({"image": "data:image/png;base64," + "iVBO" * 5000, "caption": "a dog"} for _ in range(3)))}
    )
    with pytest.raises(UserError, match="none of the first 3 pictures") as raised:
        open_source(str(tmp_path))
    assert len(str(raised.value)) < 1000
