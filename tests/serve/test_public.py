"""No path of the server in an answer: of rows, of what their manifests say, of errors."""

import json
import shutil
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

pytest.importorskip("fastapi_offline", reason="the server needs the extra 'serve'")

from mmret.lake import Lake
from mmret.schemas import IMAGES_INDEX
from mmret.serve.public import HIDDEN, public_path, public_row, public_rows, public_sentence
from tests.serve.conftest import served, until_ready


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("shapes/0/1.png", "shapes/0/1.png"),
        ("../other/1.png", "../other/1.png"),
        ("/srv/pictures/1.png", "1.png"),
        ("~/pictures/1.png", "1.png"),
        ("C:\\pictures\\1.png", "1.png"),
        ("\\\\host\\share\\1.png", "1.png"),
        ("file:///srv/1.png", "1.png"),
        ("s3://bucket/key/1.png", "1.png"),
        ("https://example.org/a/1.png", "https://example.org/a/1.png"),
        ("a caption: red / blue", "a caption: red / blue"),
        (None, None),
    ],
)
def test_of_a_path_of_the_server_a_client_sees_the_last_part(path, seen):
    assert public_path(path) == seen


def test_filters_see_of_paths_what_a_client_sees():
    rows = [
        {"path": "a/1.png", "source": "https://example.org/x", "extra": '{"colour": "red", "n": 1}'},
        {"path": "/srv/a/2.png", "source": "/srv/list.csv", "extra": '{"from": {"file": "/srv/a/2.png"}, "known": "C:\\\\a\\\\b"}'},
        {"path": None, "source": None, "extra": None},
        {"path": "b", "source": "s3://bucket/key", "extra": 'no JSON "/srv'},
    ]
    table = pa.Table.from_pylist([{**dict.fromkeys(IMAGES_INDEX.names), **row} for row in rows], IMAGES_INDEX)
    seen = public_rows(table).to_pylist()
    assert seen[0] == table.to_pylist()[0] and seen[2] == table.to_pylist()[2]
    assert (seen[1]["path"], seen[1]["source"]) == ("2.png", "list.csv")
    assert json.loads(seen[1]["extra"]) == {"from": {"file": "2.png"}, "known": "b"}
    assert (seen[3]["source"], seen[3]["extra"]) == ("key", None)


def test_a_row_loses_its_root_and_paths_however_deep_they_are():
    row = {
        "root": "/srv",
        "shard": "s",
        "position": 1,
        "path": "/srv/a.png",
        "extra": {"x": ["/srv/b.png", {"y": "file:///c/d.png"}]},
    }
    assert public_row(row) == {"path": "a.png", "extra": {"x": ["b.png", {"y": "d.png"}]}}


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("no checkpoint in /srv/lakes/a; there are demo", "no checkpoint in the lake; there are demo"),
        ("/srv/lakes/a/images/x.parquet is damaged", "the lake/images/x.parquet is damaged"),
        ("/srv/lakes/ab/x is another", f"{HIDDEN} is another"),
        ("cannot open '/etc/mmret/token'", f"cannot open '{HIDDEN}'"),
        ("at file:///srv/x/y and C:\\Users\\me\\x", f"at {HIDDEN} and {HIDDEN}"),
        ("width > 3 AND a/b or 1/2, see https://example.org/a/b", "width > 3 AND a/b or 1/2, see https://example.org/a/b"),
    ],
)
def test_a_sentence_loses_paths_and_keeps_the_rest(said, heard):
    assert public_sentence(said, "/srv/lakes/a") == heard


def test_a_sentence_loses_the_address_of_the_lake_and_of_other_objects():
    said = "s3://bucket/lakes/a/images/x.parquet is damaged; see s3://bucket/lakes/ab, gs://other/key, https://example.org/a/b"
    heard = f"the lake/images/x.parquet is damaged; see {HIDDEN}, {HIDDEN}, https://example.org/a/b"
    assert public_sentence(said, "s3://bucket/lakes/a") == heard


def test_a_lake_whose_manifest_has_paths_of_the_server_does_not_tell_them(small_lake, tmp_path):
    lake = Lake(Path(shutil.copytree(small_lake[0], tmp_path / "lake")))
    secret = "/srv/secret/folder"
    for shard in lake.partitions("images"):
        rows = lake.read("images", shard).to_pylist()
        for row in rows:
            row.update(
                path=f"{secret}/{row['path']}", root=secret, source=f"file://{secret}/x", extra=json.dumps({"file": f"{secret}/y"})
            )
        facts = lake.facts("images", shard)
        lake.write("images", shard, pa.Table.from_pylist(rows, IMAGES_INDEX), facts.inputs, **facts.notes)
    with served(lake) as running, httpx.Client(base_url=running.address, trust_env=False, timeout=60) as client:
        until_ready(client)
        image_id = client.get("/search?text=a&k=1").json()["hits"][0]["image_id"]
        answers = [client.get("/search?text=a&k=180"), client.get(f"/images/{image_id}")]
        wrong = ["CAST(path AS INTEGER) = 1", "CAST(extra AS INTEGER) = 1", "path::DATE IS NULL", "extra->'$' = error(path)"]
        answers += [client.post("/search", json={"text": "a", "where": where}) for where in wrong]
        assert [answer.status_code for answer in answers] == [200, 200, 400, 400, 400, 400]
        assert not [answer.text for answer in answers if "secret" in answer.text]
        assert answers[1].json()["path"].endswith(".png") and answers[1].json()["extra"] == {"file": "y"}
