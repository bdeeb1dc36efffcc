"""A filter gives the rows that DuckDB's own WHERE gives, and is nothing but a condition over the pictures' rows."""

import os

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from mmret.errors import UserError
from mmret.schemas import IMAGES_INDEX
from mmret.search.filters import COLUMNS, ImageFilter


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    made = [
        {
            **dict.fromkeys(IMAGES_INDEX.names),
            "image_id": f"{i:032x}",
            "path": f"folder/{i}.png",
            "root": "/secret/place",
            "caption": f"a {'red' if i % 3 else 'blue'} thing, it's number {i}",
            "width": 10 * i,
            "extra": '{"colour": "%s"}' % ("red" if i % 3 else "blue"),
        }
        for i in range(200)
    ]
    return pa.Table.from_pylist(made, IMAGES_INDEX)


@pytest.fixture(scope="module")
def images(rows) -> ImageFilter:
    return ImageFilter(lambda: rows)


CONDITIONS = """width > 500
width BETWEEN 100 AND 300 OR caption ILIKE '%BLUE%'
caption LIKE '%it''s number 7%' AND NOT width IN (10, 70)
extra->>'$.colour' = 'blue'
regexp_matches(caption, 'number \\d+5$') -- a remark
CASE WHEN width > 50 THEN length(caption) > 25 ELSE false END
licence IS NULL AND starts_with(path, 'folder/1')
CAST(width AS VARCHAR) = '120'
licence = 'x'""".splitlines()


@pytest.mark.parametrize("where", CONDITIONS)
def test_a_filter_gives_the_rows_of_the_same_where(images, rows, where):
    connection = duckdb.connect()
    connection.register("images", rows)
    expected = connection.execute(f"SELECT image_id FROM images WHERE {where}\n").fetchnumpy()["image_id"]
    found = images.matching(where)
    assert found.shape == (200,) and found.dtype == bool
    assert np.array_equal(np.array(rows["image_id"])[found], expected)
    assert images.matching(where) is found  # kept


@pytest.mark.parametrize(
    "where",
    [
        "true) UNION SELECT 1 FROM images WHERE (true",
        "true) ORDER BY (1",
        "true) QUALIFY (row_number() OVER () > 0 AND (true)",
        "true) QUALIFY (length(repeat('x', 60000000)) > 0",
        "true) USING SAMPLE (1",
        "true) GROUP BY ALL HAVING (true",
        "NOT " * 950 + "true",
        "width IN (SELECT width FROM images)",
        "EXISTS (FROM read_csv('/etc/passwd'))",
        "image_id IN (SELECT content FROM read_text('/etc/passwd'))",
        "current_setting('temp_directory') = ''",
        "getvariable('x') IS NULL",
        "length(repeat('x', 1000000000)) > 1",
        "length(range(1000000000)) > 1",
        "replace(caption, 'a', 'aaaaaaaaaa') = ''",
        "width = 1; DROP TABLE images",
        "COPY images TO '/tmp/x'",
        "1 = 1) ; COPY (SELECT 1) TO 'written.csv' --",
        "COLUMNS(*) IS NULL",
        "row_number() OVER () = 1",
        "sum(width) > 1",
        "root LIKE '/%'",
        "images.root = 'x'",
        "caption = $1",
        "caption = ?",
        "nosuch = 1",
        "",
        "width +",
        "\x00",
        "width = 1 " + "OR width = 1 " * 400,
        "(" * 1500 + "1" + ")" * 1500,
        "\ud800 = 1",
    ],
)
def test_anything_but_a_condition_over_the_pictures_rows_is_a_message(images, where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="filter|condition") as raised:
        images.matching(where)
    assert "/secret" not in str(raised.value) and "passwd" not in os.listdir() and not list(tmp_path.iterdir())
    assert images.matching("width = 0").sum() == 1  # still works


def test_a_condition_that_takes_too_long_is_stopped(rows, monkeypatch):
    many = pa.concat_tables([rows] * 4000)
    slow = ImageFilter(lambda: many)
    slow.matching("width = 1")  # opened before the clock counts
    monkeypatch.setattr("mmret.search.filters.SECONDS", 0.05)
    with pytest.raises(UserError, match="stopped after 0.05 s"):
        slow.matching(" AND ".join(f"NOT regexp_matches(caption, '(x|y|{i}z)+q')" for i in range(40)))


def test_an_error_of_a_condition_quotes_no_value_of_a_row(images):
    for where in (
        "CAST(path AS INTEGER) = 1",
        "CAST(substr(path, 2) AS INTEGER) = 1",
        "CAST(split_part(path, '/', 2) AS DATE) IS NULL",
    ):
        with pytest.raises(UserError, match=r"cannot be computed for every picture \(Conversion\)") as raised:
            images.matching(where)
        assert "folder" not in str(raised.value) and ".png" not in str(raised.value)
    assert images.matching("TRY_CAST(path AS INTEGER) = 1").sum() == 0


def test_the_place_of_the_pictures_on_the_server_is_no_column():
    assert "root" not in COLUMNS and set(COLUMNS) < set(IMAGES_INDEX.names)
