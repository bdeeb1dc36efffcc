"""docs/engines.md as a test runs it: the Python under its headings, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.conftest import CHECKOUT

PAGE = (CHECKOUT / "docs" / "engines.md").read_text()
PICTURE = "a.jpg"


def lines(heading: str) -> str:
    """The Python below ``heading``, up to the next one."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL))


def run(*headings: str, replace: tuple[str, str] = ("", "")) -> dict[str, Any]:
    """Run the lines below all ``headings`` in one go, in the current folder; returns the names they leave.

    ``replace``: an address or an option of theirs that a test has otherwise, and what it is there.
    """
    names: dict[str, Any] = {}
    found = False
    for heading in headings:
        code = lines(heading)
        assert code, heading
        found = found or replace[0] in code
        exec(compile(code.replace(*replace) if replace[0] else code, f"docs/engines.md, {heading}", "exec"), names)
    assert found, replace[0]
    return names


def save_picture(folder: Path) -> None:
    """The page's picture, a JPEG that a camera held sideways took."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(4).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((180, 120)).save(folder / PICTURE, exif=exif)


def cosine(theirs: Any, ours: np.ndarray) -> float:
    """The lowest of the rows; their length counts, for they are to be unit vectors."""
    theirs = np.atleast_2d(np.asarray(theirs, np.float64))
    assert theirs.shape == ours.shape and np.abs(np.linalg.norm(theirs, axis=1) - 1).max() < 1e-4
    return float((theirs * ours).sum(axis=1).min())
