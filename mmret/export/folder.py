"""Writes a folder that appears whole or not at all; an export that was interrupted continues where it stopped.

Files are written to ``.<name>.partial`` beside it, each under a temporary name and renamed; a file that is there is complete and
is not written again. The partial folder belongs to one plan (lake content, format, settings): another plan starts anew.
The last step renames the folder. A lock keeps two exports to one place apart.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmret.atomic import lock_unless_used, replacing, write_text
from mmret.errors import UserError

_PLAN = ".plan"


class ExportFolder:
    """The folder being written. ``files_written`` counts files of this call, ``files_reused`` those of an earlier call."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files_written = self.files_reused = 0

    def file(self, name: str, write: Callable[[Path], object]) -> None:
        """Make file ``name`` (relative, of parts that the project chose) by ``write(path)``, unless it is there."""
        path = self.folder / name
        if path.is_file():
            self.files_reused += 1
            return
        with replacing(path) as aside:
            write(aside)
        self.files_written += 1


@contextmanager
def whole_folder(out: Path, identity: str) -> Iterator[ExportFolder]:
    """Give a :class:`ExportFolder`; on leaving without an error its folder becomes ``out``. An error keeps what was written.

    Raises UserError where ``out`` exists, or while another process writes to it.
    """
    out = out.expanduser().absolute()
    if out.exists():
        raise UserError(f"{out} exists already; give a folder that does not")
    partial = out.with_name(f".{out.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    with lock_unless_used(partial) as used:
        if used:
            raise UserError(f"another process is writing {out}")
        _start_or_resume(partial, identity)
        yield ExportFolder(partial)
        (partial / _PLAN).unlink()
        os.replace(partial, out)


def _start_or_resume(partial: Path, identity: str) -> None:
    """Empty ``partial`` unless it was begun for the same plan; drop the file a killed writer was at."""
    mark = partial / _PLAN
    same = mark.is_file() and mark.read_text() == identity
    for path in list(partial.rglob(".*.tmp")) if same else list(partial.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    write_text(mark, identity)
