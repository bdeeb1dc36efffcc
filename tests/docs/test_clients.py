"""docs/clients.md: each of its programs, as it stands there, gets from a real server what the search itself finds."""

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi_offline", reason="the server needs the extra 'serve'")

from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.search.search import Query
from mmret.serve.access import Access
from mmret.serve.server import SearchServer
from tests.browser import chromium
from tests.conftest import CHECKOUT
from tests.serve.conftest import client, lake, served, server, until_ready  # noqa: F401

PAGE = CHECKOUT / "docs" / "clients.md"
ADDRESS = "http://127.0.0.1:8421"
TOKEN = "a-token-of-this-test-alone"
TEXT, CHANGE = "a red circle", "the same in blue"


def programs(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


LANGUAGES = ("python", "sh", "js")
PROGRAMS = [pytest.param(code, id=f"{language}-{n}") for language in LANGUAGES for n, code in enumerate(programs(language))]


def of(language: str) -> list:
    return [p for p in PROGRAMS if p.id.startswith(language)]


@pytest.fixture(scope="module")
def guarded(lake: Lake) -> Iterator[SearchServer]:  # noqa: F811
    import httpx

    with served(lake, access=Access(TOKEN)) as running:
        with httpx.Client(base_url=running.address, timeout=60, trust_env=False) as asking:
            asking.headers["authorization"] = f"Bearer {TOKEN}"
            until_ready(asking)
        yield running


@pytest.fixture
def prepared(client, server, guarded, tmp_path, monkeypatch):  # noqa: F811
    """The program with the address of the server that it is for, and the paths that it should print, best first."""
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMRET_TOKEN", TOKEN)
    lake = guarded.service.searcher.lake  # noqa: F811
    picture = next(iter(images_by_id(lake, [lake.read("images")["image_id"][3].as_py()]).values()))
    Path("picture.jpg").write_bytes(picture)
    assert client.get("/ready").status_code == 200

    def prepare(code: str) -> tuple[str, list[str]]:
        assert code.count(ADDRESS) == 1
        query = Query(picture, CHANGE) if "picture.jpg" in code else Query(text=TEXT)
        found = guarded.service.searcher.search("demo", query, 5)
        asked = guarded if "MMRET_TOKEN" in code else server
        return code.replace(ADDRESS, asked.address), [hit["path"] for hit in found.hits]

    return prepare


def said_paths(printed: str) -> list[str]:
    return [line.split()[-1] for line in printed.splitlines()]


def test_each_language_has_a_text_a_picture_with_a_text_and_a_token_in_five_lines():
    for language in LANGUAGES:
        found = programs(language)
        assert len(found) == 3 and all(len(code.splitlines()) <= 5 for code in found)
        assert [TEXT in code for code in found] == [True, False, True]
        assert CHANGE in found[1] and "picture.jpg" in found[1] and "MMRET_TOKEN" in found[2]


@pytest.mark.parametrize("code", of("python"))
def test_python(code, prepared, capsys):
    program, paths = prepared(code)
    exec(compile(program, str(PAGE), "exec"), {})
    assert said_paths(capsys.readouterr().out) == paths


@pytest.mark.parametrize("code", of("sh"))
def test_curl(code, prepared):
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    program, paths = prepared(code)
    done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [hit["path"] for hit in json.loads(done.stdout)["hits"]] == paths


@pytest.mark.parametrize("code", of("js"))
def test_javascript(code, prepared, tmp_path):
    program, paths = prepared(code)
    if shutil.which("node") is None:
        printed = in_chromium(program)
    else:
        (tmp_path / "program.mjs").write_text(program)
        done = subprocess.run(["node", "program.mjs"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    assert said_paths(printed) == paths


@pytest.mark.slow
@pytest.mark.parametrize("code", of("js"))
def test_javascript_in_a_browser(code, prepared):
    program, paths = prepared(code)
    assert said_paths(in_chromium(program)) == paths


def in_chromium(program: str) -> str:
    """What ``program`` prints in a page of the server itself, with what Node has and a browser has not."""
    picture = base64.b64encode(Path("picture.jpg").read_bytes()).decode()
    node = f"""
      const process = {{env: {{MMRET_TOKEN: "{TOKEN}"}}}};
      const bytes = Uint8Array.from(atob("{picture}"), (letter) => letter.charCodeAt(0));
      const openAsBlob = async () => new Blob([bytes]);
    """
    own = "\n".join(line for line in program.splitlines() if not line.startswith("import "))
    lines: list[str] = []
    with chromium() as browser:
        page = browser.new_page(bypass_csp=True)
        page.goto(re.search(r"http://[\d.:]+", program)[0] + "/health")
        page.on("console", lambda said: said.type == "log" and lines.append(said.text))  # not errors of Chromium
        page.evaluate(f"(async () => {{ {node} {own} }})()")
    return "\n".join(lines)
