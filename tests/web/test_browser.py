"""The page as a person uses it, in a real Chromium: keys, decisions, filters, SQL, search, and texts that stay texts."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmret.curation.decisions import latest_decisions
from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from tests.browser import Watched, chromium
from tests.hostile import HOSTILE, make_hostile

pytestmark = pytest.mark.slow
pytest.importorskip("nicegui", reason="the page needs the extra 'gallery'")
WAIT = 60_000  # ms, for a busy machine


@contextmanager
def served(lake: Path) -> Iterator[str]:
    """Address of `mmret gallery` on a free port; it must end on one interrupt."""
    line = [sys.executable, "-m", "mmret", "gallery", "--lake", str(lake), "--port", "0", "--no-browser", "--reviewer", "tester"]
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        for said in process.stdout:
            if found := re.search(r"http://\S+", said):
                yield found[0]
                break
        else:
            pytest.fail("the page did not start")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) is not None


def test_review_by_keyboard_filters_and_sql(small_lake, tmp_path):
    shutil.copytree(small_lake[0], tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    ids = lake.read("triplets")["pair_id"].to_pylist()
    with chromium() as browser, served(lake.root) as address:
        watched = Watched(browser, address)
        page = watched.page
        page.goto(address)
        page.wait_for_function("document.querySelectorAll('.triplet').length == 20", timeout=WAIT)
        page.get_by_text(f"1 to 20 of {len(ids):,}").wait_for(timeout=WAIT)
        page.wait_for_function("[...document.querySelectorAll('.triplet img')].slice(0, 4).every(i => i.naturalWidth > 0)")

        page.keyboard.press("r")
        page.wait_for_function("document.querySelectorAll('.triplet')[1].classList.contains('selected')")
        page.keyboard.press("j")
        page.wait_for_function("document.querySelectorAll('.triplet')[2].classList.contains('selected')")
        page.keyboard.press("a")
        page.wait_for_function("document.querySelectorAll('.triplet')[3].classList.contains('selected')")
        page.keyboard.press("k")
        page.keyboard.press("k")
        page.keyboard.press("k")
        page.wait_for_function("document.querySelectorAll('.triplet')[0].classList.contains('selected')")
        assert {r["pair_id"]: r["decision"] for r in latest_decisions(lake).to_pylist()} == {ids[0]: "rejected", ids[2]: "accepted"}
        page.keyboard.press("u")
        page.wait_for_function("!document.querySelectorAll('.triplet')[0].classList.contains('rejected')")
        assert set(latest_decisions(lake)["reviewer"].to_pylist()) == {"tester"} and latest_decisions(lake).num_rows == 1

        page.keyboard.press("n")
        page.get_by_text("21 to 40").wait_for(timeout=WAIT)
        page.keyboard.press("k")
        page.get_by_text("1 to 20").wait_for(timeout=WAIT)  # back over the edge, to the last row
        page.wait_for_function("document.querySelectorAll('.triplet')[19].classList.contains('selected')")

        field = page.get_by_label("in instructions or captions")
        field.fill("no caption has this")
        page.get_by_text("No triplet fits").wait_for(timeout=WAIT)
        page.get_by_role("button", name="Show everything").click()
        page.get_by_text(f"1 to 20 of {len(ids):,}").wait_for(timeout=WAIT)

        sql = page.locator("textarea")
        sql.fill("SELECT pair_id FROM triplets ORDER BY pair_id LIMIT 3")
        page.get_by_role("button", name="Run").click()
        page.get_by_text("1 to 3 of 3").wait_for(timeout=WAIT)
        sql.fill("SELECT * FROM read_csv('/etc/passwd')")
        page.get_by_role("button", name="Run").click()
        page.get_by_text("Permission Error").wait_for(timeout=WAIT)
        watched.unharmed()


def test_search_shows_two_models_side_by_side(small_lake, tmp_path):
    shutil.copytree(small_lake[0], tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    first = lake.read("images")["image_id"][0].as_py()
    with chromium() as browser, served(tmp_path / "lake") as address:
        watched = Watched(browser, address)
        page = watched.page
        page.goto(address)
        page.get_by_text("search with it").click(timeout=WAIT)
        page.get_by_text("demo: 180 pictures, the triplet's target at").wait_for(timeout=WAIT)
        page.get_by_text("untrained: 180 pictures, the triplet's target at").wait_for(timeout=WAIT)
        assert page.locator(".hit").count() == 48
        page.goto(address + "/search")
        page.get_by_text("Nothing asked yet").wait_for(timeout=WAIT)
        page.get_by_role("button", name="Search").click()
        page.get_by_text("give a picture, a text or both").first.wait_for(timeout=WAIT)
        page.get_by_label("what should be different").fill("a red circle")
        page.keyboard.press("Enter")
        page.get_by_text("demo: 180 pictures").wait_for(timeout=WAIT)
        own = tmp_path / "<b>own.png"
        own.write_bytes(images_by_id(lake, [first])[first])
        page.locator("input[type=file]").set_input_files(own)
        page.get_by_text("your picture").wait_for(timeout=WAIT)
        page.get_by_text("untrained: 180 pictures").wait_for(timeout=WAIT)
        page.get_by_role("button", name="Without picture").click()
        page.get_by_text("your picture").wait_for(state="detached", timeout=WAIT)
        watched.unharmed()


def test_texts_of_the_corpus_stay_texts(small_lake, tmp_path):
    lake = make_hostile(small_lake[0], tmp_path / "lake")
    with chromium() as browser, served(lake) as address:
        watched = Watched(browser, address)
        page = watched.page
        page.goto(address)
        page.wait_for_function("document.querySelectorAll('.triplet').length == 20", timeout=WAIT)
        shown = page.locator(".triplet").all_inner_texts()
        assert all(any(" ".join(bad.split()) in " ".join(text.split()) for text in shown) for bad in HOSTILE)
        for _ in range(len(HOSTILE)):
            page.keyboard.press("j")
            page.wait_for_timeout(150)
        page.locator("textarea").fill('SELECT caption, path, \'<img src=x onerror="window.hacked=9">\' AS "<b>x</b>" FROM images')
        page.get_by_role("button", name="Run").click()
        page.locator(".q-table").wait_for(timeout=WAIT)
        page.keyboard.press("Escape")
        page.goto(f"{address}/search?text=%3Cscript%3Ewindow.hacked%3D6%3C%2Fscript%3E&image=%22%3E%3Cimg%20src%3Dx%3E")
        page.get_by_text("demo: 180 pictures").wait_for(timeout=WAIT)
        page.wait_for_timeout(500)
        watched.unharmed()


def test_only_its_own_names_are_answered(small_lake):
    with served(small_lake[0]) as address:
        opened = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        reply = opened.open(address, timeout=60)
        assert "script-src-attr 'none'" in reply.headers["Content-Security-Policy"]
        with pytest.raises(urllib.error.HTTPError, match="400"):
            opened.open(urllib.request.Request(address, headers={"Host": "elsewhere.invalid"}), timeout=60)
        for path in ("/pictures/..%2f..%2flake.yaml/160", "/pictures/" + "0" * 32 + "/160", "/pictures/x/1"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                opened.open(address + path, timeout=60)
