"""Tables as people sent them: the shared instances, each as its README expects, read where they lie and left as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmret.errors import UserError
from mmret.ingest.rows import Row
from mmret.ingest.sources import open_reader, open_source
from tests.conftest import CHECKOUT

SHARED = CHECKOUT.parent / "shared" / "data" / "awkward"
SAID = ("red ball on grass", "blue boat at sea", "green hat on a table", "old dog in snow", "yellow bus in town")
SAID_MORE = ("small cat on a sofa", "tall tree at night", "white car in rain")

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared awkward inputs are not here")


def listed(path: Path) -> list[Row]:
    source = open_source(str(path))
    rows = list(source.rows())
    for row in rows:
        if row.reason is None:
            stream, size = open_reader(source.root).open(row.path)
            with stream:
                assert len(stream.read(size)) == size == row.size
    return rows


@pytest.mark.parametrize(
    ("name", "ending"),
    [("openclip.csv", ""), ("noheader.tsv", ""), ("captions.txt", ""), ("space.csv", ", nice"), ("flickr.csv", " .")],
)
def test_headers_and_dialects_give_all_rows(name: str, ending: str):
    rows = listed(SHARED / "headers" / name)
    assert [(row.path, row.caption) for row in rows] == [(f"{i}.jpg", said + ending) for i, said in enumerate(SAID + SAID_MORE)]
    assert all(row.reason is None for row in rows)


def test_null_words_are_missing_captions_and_every_row_is_kept():
    rows = listed(SHARED / "headers" / "nulls.csv")
    assert [(row.path, row.caption) for row in rows] == [*((f"{i}.jpg", None) for i in range(7)), ("7.jpg", "ok cat")]


def test_a_list_of_addresses_says_which_column_is_missing():
    with pytest.raises(UserError, match="has no image column: found URL, TEXT; .* on the web: fetch them first"):
        open_source(str(SHARED / "headers" / "laion.parquet"))


def test_two_captions_that_begin_with_a_quote_mark_among_forty():
    rows = listed(SHARED / "tsv_unbalanced_quote")
    assert [row.path for row in rows] == [f"p{i:02d}.jpg" for i in range(40)]
    assert all(row.reason is None and row.caption for row in rows)
    assert [row.path for row in rows if row.caption.startswith('"')] == ["p10.jpg", "p30.jpg"]


@pytest.mark.parametrize("whole", [True, False])
def test_parquet_of_datasets_as_folder_and_as_file(whole: bool):
    folder = SHARED / "hf_parquet_image_bytes"
    rows = listed(folder if whole else folder / "data" / "train-00000-of-00001.parquet")
    prefix = "data/train-00000-of-00001.parquet/" if whole else ""
    assert [row.path for row in rows] == [f"{prefix}{i}" for i in range(8)]
    assert all(row.reason is None and row.caption for row in rows)


def test_coco_is_a_row_a_picture_with_its_first_caption_and_all_in_extra():
    rows = listed(SHARED / "coco")
    assert [row.path for row in rows] == [f"val2017/{i:012d}.jpg" for i in range(139, 147)]
    for row, said in zip(rows, SAID + SAID_MORE, strict=True):
        assert row.reason is None and row.caption.strip() == f"{said} number 0"
        assert len(json.loads(row.extra)["caption"]) == 5
