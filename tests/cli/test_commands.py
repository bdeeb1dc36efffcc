"""The commands over a lake: what they print is what the tables hold, and a mistake is one message and exit code 2."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmret.benchmarks.triplets import read_triplets
from mmret.cli import app
from mmret.errors import UserError
from mmret.lake import Lake
from mmret.schemas import TABLES


def call(*arguments: str):
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.fixture(scope="module")
def lake(small_lake) -> Path:
    return small_lake[0]


def test_every_table_is_a_view_and_counts_what_the_files_hold(lake, small_lake):
    for table in TABLES:
        rows = json.loads(call("sql", "--lake", lake, "--json", f"SELECT count(*) AS n FROM {table}").stdout)
        assert rows == [{"n": small_lake[1]["rows"][table]}], table
    assert json.loads(call("sql", "--lake", lake, "--json", "SELECT DISTINCT signal FROM embeddings").stdout)


@pytest.mark.parametrize(
    "line",
    ["status", "backfill", "estimate", "quality", "bands", "sql|SELECT 1 AS n", "search|--text|a red circle"],
    ids=lambda x: x.split("|")[0],
)
def test_what_a_command_found_is_on_stdout_and_stderr_is_left_to_progress(lake, line):
    name, *arguments = line.split("|")
    done = call(name, "--lake", lake, *arguments)
    assert done.exit_code == 0 and done.stdout.strip() and "loading" not in done.stdout
    assert done.stderr == ("loading …\n" if name == "search" else "")


def test_sql_prints_a_table_with_markup_as_it_is(lake):
    out = call("sql", "--lake", lake, "SELECT '[red]<b>' AS caption, 1 AS n").stdout
    assert "[red]<b>" in out and "1 rows" in out


def test_sql_says_what_is_wrong(lake, tmp_path):
    with pytest.raises(UserError, match="SQL: .*nosuch"):
        call("sql", "--lake", lake, "SELECT * FROM nosuch")
    with pytest.raises(UserError, match="mmret run"):
        call("sql", "--lake", tmp_path / "none", "SELECT 1")


def test_sql_cannot_change_the_lake(lake):
    with pytest.raises(UserError, match="DROP|read.only|images|SELECT"):
        call("sql", "--lake", lake, "DROP TABLE images")
    assert Lake(lake).read("images").num_rows


def test_search_leaves_out_the_query_image_and_takes_image_text_or_both(lake):
    paths = Lake(lake).read("images")["path"].to_pylist()
    for query in (["--image", paths[0]], ["--text", "a red circle"], ["--image", paths[0], "--text", "make it blue"]):
        hits = json.loads(call("search", "--lake", lake, "--json", "-k", "5", *query).stdout)
        assert len(hits) == 5 and [h["score"] for h in hits] == sorted((h["score"] for h in hits), reverse=True)
        assert "--image" not in query or paths[0] not in [h["path"] for h in hits]
    with pytest.raises(UserError, match="--image, --text"):
        call("search", "--lake", lake)
    with pytest.raises(UserError, match="untrained"):
        call("search", "--lake", lake, "--text", "a", "--recipe", "nosuch")


def test_evaluate_reports_the_recipe_beside_the_untrained_model(lake, tmp_path):
    triplets = Lake(lake).read("triplets").to_pylist()[:20]
    file = tmp_path / "triplets.jsonl"
    file.write_text(
        "\n".join(json.dumps({"reference": t["query_path"], "text": t["texts"][0], "target": t["target_path"]}) for t in triplets)
    )
    found = json.loads(call("evaluate", "--lake", lake, "--triplets", file, "--json").stdout)
    assert found["recipe"] == "demo" and found["queries"] == 20 and found["gallery"] == 180
    assert {"R@1", "R@5", "R@10", "R@50"} <= found.keys() and {"R@1", "R@10"} <= found["untrained"].keys()
    assert 0 <= found["R@1"] <= found["R@5"] <= found["R@10"] <= found["R@50"] <= 100
    long = file.rename(tmp_path / f"{'a-long-name-' * 12}.jsonl")
    lines = call("evaluate", "--lake", lake, "--triplets", long).stdout.splitlines()
    assert f"{long.name}: 20 queries over 180 images, percent" in lines, "not wrapped in a pipe"
    array = tmp_path / "array.json"
    array.write_text(json.dumps([json.loads(line) for line in long.read_text().splitlines()]))
    untrained = json.loads(call("evaluate", "--lake", lake, "--triplets", array, "--recipe", "untrained", "--json").stdout)
    assert untrained["R@10"] == untrained["untrained"]["R@10"] == found["untrained"]["R@10"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"reference": "nosuch.png", "text": "red", "target": "x.png"}, "nosuch.png"),
        ({"reference": "a"}, "row 1"),
        ("[1, 2", "not JSON"),
        ({"reference": "", "text": " ", "target": ""}, "empty"),
    ],
)
def test_a_triplet_that_cannot_be_read_is_named(lake, tmp_path, row, message):
    file = tmp_path / "t.jsonl"
    file.write_text(row if isinstance(row, str) else json.dumps(row))
    with pytest.raises(UserError, match=message):
        call("evaluate", "--lake", lake, "--triplets", file)


def test_a_target_that_is_the_reference_is_left_out_and_counted(lake, tmp_path):
    first, second = Lake(lake).read("images")["path"].to_pylist()[:2]
    file = tmp_path / "t.json"
    file.write_text(json.dumps([{"reference": first, "text": "same", "target": t} for t in (first, second, [first, second])]))
    queries, skipped = read_triplets(Lake(lake), file)
    assert skipped == {"target_is_the_reference": 1} and len(queries) == 2
    assert all(q.reference not in q.targets for q in queries)


def test_export_is_the_triplets_in_the_authors_format(lake, tmp_path):
    out = tmp_path / "out"
    call("export", "--lake", lake, "--format", "megapairs", "--out", out)
    rows = [json.loads(line) for split in ("train", "test") for line in (out / f"{split}.jsonl").read_text().splitlines()]
    triplets = Lake(lake).read("triplets").to_pylist()
    key = lambda pair: (Path(pair[0]).stem, Path(pair[1]).stem)  # noqa: E731
    assert sorted(key((r["q_img"], r["t_img"])) for r in rows) == sorted((t["query_id"], t["target_id"]) for t in triplets)
    assert all(r["hns"][0] == r["q_img"] and len(r["q_text"]) >= 3 for r in rows)
    named = {name for r in rows for name in (r["q_img"], r["t_img"], *r["hns"])}
    assert named == {str(p.relative_to(out / "images")) for p in (out / "images").rglob("*.*")}
    with pytest.raises(UserError, match="exists"):
        call("export", "--lake", lake, "--format", "megapairs", "--out", out)
