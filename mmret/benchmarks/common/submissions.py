"""Writes the files of the closed test servers, within the size that they take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmret.atomic import write_text
from mmret.errors import UserError

MAX_BYTES = 5_000_000
"""CIRR's server takes 5 MB."""


def write_submission(path: Path, content: Mapping[str, Any]) -> int:
    """Write ``content`` compactly; returns its size in bytes. Raises UserError above CIRR's limit of 5 MB."""
    text = json.dumps(content, separators=(",", ":"))
    if len(text) > MAX_BYTES:
        raise UserError(f"{path.name} would be {len(text) / 1e6:.1f} MB; the server takes {MAX_BYTES / 1e6:.0f} MB")
    write_text(path, text)
    return len(text)
