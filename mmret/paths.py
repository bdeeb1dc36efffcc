"""Reads a path that somebody typed: a place on this machine, never a pattern and never an address on another.

``Path("s3://bucket/x")`` is a folder called ``s3:`` here, so a run would silently fill that; addresses are refused wherever a path
is read, before anything is made on disk. Costs nothing.
"""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mmret.errors import UserError

_ADDRESS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+:/|[A-Za-z]:[\\/])")  # s3://b, and s3:/b as Path writes it; C:\b
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_address(text: str) -> bool:
    """Whether ``text`` names a place elsewhere (``s3://bucket/x``, ``C:\\x``) instead of a path of this machine.

    >>> is_address("gs://bucket/lake"), is_address("./gs:/lake")
    (True, False)
    """
    return _ADDRESS.match(text) is not None


def local_path(text: str | Path, what: str = "") -> Path:
    """``text`` as a path, ``~`` expanded; a ``file://`` address is taken as the path that it names.

    ``what`` (an option's name) begins the message. Raises UserError for an address of another kind, an empty text, an unknown
    user's ``~name`` and a name that is not UTF-8, which neither tables nor cards could hold.
    """
    text, said = str(text), f"{what} " if what else ""
    if not text:
        raise UserError(f"{said}is empty: give a path".strip())
    if re.match(r"^file://?", text, re.IGNORECASE):
        text = _of_file_address(text, said)
    if is_address(text):
        raise UserError(
            f"{said}{_as_typed(text)} is an address, and only paths of this machine are read and written: give a local folder or "
            "file (a mounted bucket is one); a folder that is really called so is written ./NAME"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{said}{text!r} is not UTF-8, so no table could name it: rename it") from None
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{said}{text!r}: there is no such user; a name that begins with ~ is written ./~NAME") from None


def _as_typed(text: str) -> str:
    """With the slash that ``Path`` takes away."""
    return repr(re.sub(r"^(\w[\w+.-]+:)/(?!/)", r"\1//", text))


def _of_file_address(text: str, said: str) -> str:
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not parts.path.startswith("/"):
        raise UserError(f"{said}{text!r}: a file:// address names an absolute path of this machine, as file:///home/me/pictures")
    return unquote(parts.path)


def root_path(root: str | Path) -> Path:
    """The absolute path of a lake. Raises UserError as :func:`local_path` does, and for control characters in it: Lance, which
    holds the pictures, takes none."""
    path = local_path(root, "the lake's path").absolute()
    if _CONTROL.search(str(path)):
        raise UserError(f"the lake's path {str(path)!r} has a line break, tab or other control character: use one without")
    return path


@lru_cache
def plain_link(folder: Path) -> Path:
    """A link to ``folder`` at a path without signs that could mean something, for engines that cannot be given the folder itself.
    It is there until this process ends."""
    links = tempfile.mkdtemp(prefix="mmret-")
    atexit.register(shutil.rmtree, links, ignore_errors=True)
    link = Path(links) / "folder"
    link.symlink_to(folder)
    return link
