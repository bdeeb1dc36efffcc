"""One lake below a folder whose name has every awkward sign, run to its end: all that reads it says the same at a plain path."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from typer.testing import CliRunner

from mmret.cli import app
from mmret.freshness.survey import survey
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.schemas import TABLES
from mmret.web import browse
from mmret.web.tables import Tables, run_query
from tests.small_runs import TINY, command, run

NASTY = "split=train/a?b*c[de]f{000..003}%20#'q\" ~é;$HOME/lake"
BACKSLASH = "x\\y/lake"


def call(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def lakes(tmp_path_factory) -> dict[str, Path]:
    """The same lake at a nasty path, where it was made, with a backslash besides, and at a plain one."""
    root = tmp_path_factory.mktemp("paths")
    nasty = root / NASTY
    settings = [part for s in (*TINY, "recipes.demo.steps=4", "evaluate.edits=6") for part in ("--set", s)]
    run(command(nasty, "--images", "shapes:60?seed=3", "--shard-size", "40", *settings))
    found = {"nasty": nasty}
    for name, place in (("plain", root / "plain" / "lake"), ("backslash", root / NASTY.replace("lake", "") / BACKSLASH)):
        place.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", str(nasty), str(place)], check=True)
        found[name] = place
    return found


def same(lakes: dict[str, Path], asked) -> None:
    expected = asked(lakes["plain"])
    assert expected
    for name in ("nasty", "backslash"):
        assert asked(lakes[name]) == expected, name


def test_sql_of_every_table_now_and_as_of_its_checkpoint(lakes):
    for table in TABLES:
        same(lakes, lambda lake, t=table: call("sql", "--lake", lake, "--json", f"SELECT * FROM {t} ORDER BY ALL LIMIT 50") + ".")
    same(lakes, lambda lake: call("sql", "--lake", lake, "--json", "SELECT split, count(*) FROM triplets GROUP BY ALL ORDER BY 1"))
    same(lakes, lambda lake: call("sql", "--lake", lake, "--as-of", "demo", "--json", "SELECT count(*) FROM trained_on"))


def test_status_bands_search_and_the_gallery_s_tables(lakes):
    same(lakes, lambda lake: json.loads(call("status", "--lake", lake, "--json"))["partitions"])
    same(lakes, lambda lake: call("bands", "--lake", lake, "--json"))
    same(lakes, lambda lake: call("search", "--lake", lake, "--text", "a red circle", "--json"))
    same(lakes, lambda lake: browse.page(Tables(Lake(lake)), browse.Filters(split="test")))
    same(
        lakes,
        lambda lake: run_query(Tables(Lake(lake)), "SELECT shard, count(*) FROM pairs_by_shard GROUP BY 1 ORDER BY 1", 9).rows,
    )


def test_exports_and_cards(lakes, tmp_path):
    def exported(lake: Path) -> dict[str, bytes]:
        out = tmp_path / lake.parent.name / "out*[ab]{0..3}?"
        found = {}
        for format_ in ("megapairs", "huggingface", "webdataset"):
            call("export", "--lake", lake, "--format", format_, "--out", out / format_)
            found |= {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "README.md"}
        return found

    same(lakes, exported)
    same(lakes, lambda lake: card_of(lake, tmp_path / f"cards {lake.parent.name}" / "a card[x]#?%20.md"))
    (card,) = (tmp_path / "cards plain").glob("*.md")
    links = re.findall(r"!\[[^]]*\]\(([^) ]+)\)", card.read_text())
    assert links and all((card.parent / unquote(link)).is_file() for link in links), "a link of Markdown is a URL"


def card_of(lake: Path, out: Path) -> list[str]:
    out.parent.mkdir()
    call("card", "--lake", lake, "--out", out)
    return [line for line in out.read_text().splitlines() if "ingest" not in line and str(lake) not in line]


def test_compaction_changes_nothing_and_all_stays_current(lakes):
    lake = lakes["nasty"]
    before = {t: [Lake(lake).facts(t, p).digest for p in Lake(lake).partitions(t)] for t in TABLES}
    call("compact", "--lake", lake)
    assert all(state.state == "current" for state in survey(Lake(lake), resolve(Lake(lake))[0]))
    assert before == {t: [Lake(lake).facts(t, p).digest for p in Lake(lake).partitions(t)] for t in TABLES}
    assert resolve(Lake(lake))[0].corpus.sources == ("shapes:60?seed=3",)


def test_data_sets_exported_to_a_path_with_signs_open_as_their_cards_say(lakes, tmp_path):
    out = tmp_path / "a[b]{000..003} é"
    call("export", "--lake", lakes["nasty"], "--format", "webdataset", "--out", out)
    snippet = (out / "README.md").read_text().partition("```python\n")[2].partition("```")[0].replace("FOLDER", str(out))
    code = f"{snippet}\nprint(sum(1 for _ in triplets))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    rows = json.loads(call("sql", "--lake", lakes["nasty"], "--json", "SELECT count(*) n FROM triplets WHERE split = 'train'"))
    assert done.returncode == 0 and int(done.stdout) == rows[0]["n"], done.stderr[-2000:]
