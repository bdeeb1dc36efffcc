"""A real headless Chromium for tests, or a skip that says what is missing."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def chromium() -> Iterator[Any]:
    """A Playwright browser over the machine's own Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright (the browser is the system's)")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium on this machine")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page that remembers what must not happen: scripts of the data, dialogs, errors, requests to other hosts."""

    def __init__(self, browser: Any, address: str, size: tuple[int, int] = (1500, 950)):
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self.faults: list[str] = []
        self.page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("console", lambda said: self.faults.append(f"console: {said.text}") if said.type == "error" else None)
        self.page.on(
            "request",
            lambda sent: (
                self.faults.append(f"request: {sent.url}")
                if not sent.url.startswith((address, address.replace("http", "ws"), "data:", "blob:", "file:"))
                else None
            ),
        )

    def unharmed(self) -> None:
        """Nothing of the data ran and nothing went wrong."""
        assert self.page.evaluate("window.hacked") is None
        faults = list(self.faults)  # the page goes on complaining once its server has stopped
        assert not faults, faults
