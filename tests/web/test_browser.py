"""The page as a person uses it, in a real Chromium: keys, decisions, filters, SQL, search, and texts that stay texts."""

import base64
import io
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
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from PIL import Image

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
        page.get_by_label("what should be different").fill("a red circle")
        page.keyboard.press("Enter")
        page.get_by_text("demo: 180 pictures").wait_for(timeout=WAIT)
        own = tmp_path / "<b>own.png"
        own.write_bytes(images_by_id(lake, [first])[first])
        page.locator("input[type=file]").set_input_files(own)
        page.get_by_alt_text("query").wait_for(timeout=WAIT)
        page.get_by_text("untrained: 180 pictures").wait_for(timeout=WAIT)
        page.get_by_role("button", name="Without picture").click()
        page.get_by_alt_text("query").wait_for(state="detached", timeout=WAIT)
        watched.unharmed()


def answered(page: Any) -> list[str]:
    """The addresses of the results, once both checkpoints have answered."""
    for name in ("demo", "untrained"):
        page.get_by_text(re.compile(f"^{name}: .*180 pictures")).wait_for(timeout=WAIT)
    return page.eval_on_selector_all(".hit a", "links => links.map(link => link.getAttribute('href'))")


def asked(page: Any) -> dict[str, str]:
    return asked_in(page.url)


def asked_in(address: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(address).query))


def test_the_address_holds_what_is_asked_and_back_forward_and_another_visitor_get_the_same_answer(small_lake):
    with chromium() as browser, served(small_lake[0]) as address:
        watched = Watched(browser, address)
        page = watched.page
        page.goto(f"{address}/search?text=a+red+circle")
        first = answered(page)
        assert asked(page) == {"text": "a red circle", "left": "demo", "right": "untrained"}
        page.evaluate("window.stays = true")
        page.get_by_role("button", name="later").click()
        page.get_by_text("25 to 48").wait_for(timeout=WAIT)
        second = answered(page)
        assert asked(page)["first"] == "25" and not set(first[:24]) & set(second[:24])
        page.get_by_label("only pictures WHERE").fill("caption ILIKE '%star%'")
        page.keyboard.press("Enter")
        page.get_by_text(re.compile("^untrained: .* of 180")).wait_for(timeout=WAIT)
        assert "first" not in asked(page) and asked(page)["where"] == "caption ILIKE '%star%'"
        page.go_back()
        page.get_by_text("25 to 48").wait_for(timeout=WAIT)
        assert answered(page) == second and page.get_by_label("only pictures WHERE").input_value() == ""
        page.go_back()
        page.get_by_text("1 to 24").wait_for(timeout=WAIT)
        assert answered(page) == first
        page.go_forward()
        page.get_by_text("25 to 48").wait_for(timeout=WAIT)
        assert answered(page) == second and page.evaluate("window.stays")  # nothing was loaded again
        other = browser.new_page()
        other.goto(page.url)
        assert answered(other) == second
        page.locator(".hit a").first.click()  # a result becomes the query
        page.get_by_alt_text("query").wait_for(timeout=WAIT)
        answered(page)
        assert "image" in asked(page) and "first" not in asked(page) and page.evaluate("window.stays")
        page.get_by_label("only pictures WHERE").fill("1 FROM read_csv('/etc/passwd')")
        page.keyboard.press("Enter")
        page.get_by_text("No answer").first.wait_for(timeout=WAIT)
        page.goto(f"{address}/search?text=a+red+circle&left=nosuch&first=x&image=y")
        page.get_by_text("no checkpoint of 'nosuch'").wait_for(timeout=WAIT)
        assert answered(page) == first and asked(page)["left"] == "demo"
        watched.unharmed()


DROP = """([name, type, data, more]) => {
  const carried = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  if (name) carried.items.add(new File([bytes], name, {type}));
  for (const [kind, text] of Object.entries(more)) carried.setData(kind, text);
  for (const event of ["dragenter", "dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(event, {dataTransfer: carried, bubbles: true, cancelable: true}));
}"""
COPY = """async (data) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  await navigator.clipboard.write([new ClipboardItem({"image/png": new Blob([bytes], {type: "image/png"})})]);
}"""


def test_a_picture_pasted_or_dropped_anywhere_becomes_the_query_and_its_address_lives_as_long_as_the_server(small_lake):
    own = io.BytesIO()
    Image.new("RGB", (40, 30), "#c03020").save(own, "PNG")
    data = base64.b64encode(own.getvalue()).decode()
    lake = Lake(small_lake[0])
    known = lake.read("images")["image_id"][7].as_py()
    stored = base64.b64encode(images_by_id(lake, [known])[known]).decode()
    with chromium() as browser:
        with served(small_lake[0]) as address:
            watched = Watched(browser, address)
            page = watched.page
            page.context.grant_permissions(["clipboard-read", "clipboard-write"])
            page.goto(f"{address}/search")
            page.get_by_text("Nothing asked yet").wait_for(timeout=WAIT)
            page.evaluate(COPY, data)
            page.keyboard.press("Control+v")
            page.get_by_text("your picture").wait_for(timeout=WAIT)
            pasted = answered(page)
            assert len(asked(page)["upload"]) == 32
            address_of_upload = page.url
            page.wait_for_function("document.querySelector('img[alt=query]').naturalWidth > 0")

            page.get_by_label("what should be different").click()  # a text is pasted where one types
            page.evaluate("navigator.clipboard.writeText('a blue star')")
            page.keyboard.press("Control+v")
            page.keyboard.press("Enter")
            page.locator(".parts").first.wait_for(timeout=WAIT)  # picture and text: the scores of both
            assert asked(page)["text"] == "a blue star" and answered(page) != pasted

            page.evaluate(DROP, ["known.png", "image/png", stored, {}])  # of the corpus: its address stays for ever
            page.wait_for_url(f"**image={known}**")
            answered(page)
            assert "upload" not in asked(page)
            third = asked_in(page.locator(".hit a").nth(2).get_attribute("href"))["image"]
            page.drag_and_drop(".hit:nth-child(3) img >> nth=0", "header")  # a result, by the mouse
            page.wait_for_url(f"**image={third}**")
            answered(page)
            page.evaluate(DROP, ["", "", "", {"text/uri-list": "https://elsewhere.invalid/a.png"}])
            page.get_by_text("not taken").first.wait_for(timeout=WAIT)
            other = browser.new_page()
            other.goto(address_of_upload)
            assert answered(other) == pasted
            other.close()
            watched.unharmed()
            page.close()
        with served(small_lake[0]) as address:
            page = browser.new_page()
            page.goto(address + "/search?" + urlsplit(address_of_upload).query + "&text=a+blue+star")
            page.get_by_text("not here any more").wait_for(timeout=WAIT)
            assert not page.locator(".hit").count()  # no answer to another question
            page.get_by_role("button", name="Without picture").click()
            answered(page)


def test_why_a_picture_was_found_shows_training_triplets_and_leads_to_their_lineage(small_lake):
    lake = Lake(small_lake[0])
    triplet = next(row for row in lake.read("triplets").to_pylist() if row["split"] == "train")
    with chromium() as browser, served(lake.root) as address:
        watched = Watched(browser, address)
        page = watched.page
        page.goto(f"{address}/search?{urlencode({'image': triplet['query_id'], 'text': triplet['texts'][0]})}")
        answered(page)
        page.get_by_role("button", name="why 1 was found").first.click()
        page.locator(".why-panel .reason").first.wait_for(timeout=WAIT)
        assert 1 <= page.locator(".why-panel .reason").count() <= 3
        page.wait_for_function("[...document.querySelectorAll('.why-panel img')].every(i => i.naturalWidth > 0)")
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="lineage").first.click()
        lineage = opened.value
        lineage.get_by_text("1 to 1 of 1").wait_for(timeout=WAIT)
        assert lineage.locator(".triplet").count() == 1
        lineage.close()
        page.keyboard.press("Escape")
        page.locator(".why-panel").wait_for(state="detached", timeout=WAIT)
        page.get_by_role("button", name="why 1 was found").last.click()
        page.get_by_text("untrained was trained on no triplet").wait_for(timeout=WAIT)
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
