"""What every command shares: paths are read one way, and what the system refuses or a person stops is one sentence.

Costs nothing. ``MMRET_TRACEBACK=1`` in the environment shows where in the code an error arose, also of those that are told in one
sentence otherwise.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from mmret import interrupts
from mmret.cli.lake_option import LakeText, read_lake
from mmret.errors import UserError
from mmret.paths import local_path
from mmret.system_errors import explain

RESUMABLE = {
    "run",
    "check",
    "study",
    "train",
    "teach",
    "import",
    "embed",
    "export",
    "benchmark",
    "score",
    "compact",
    "merge",
    "export-onnx",
}
"""Commands that write; what they had finished stays."""
_EMPTY = "mmret.empty_argument"


class Command(TyperCommand):
    """A command whose path options are paths of this machine (:func:`mmret.paths.local_path`), whichever function declares them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_EMPTY] = any(not arg or re.fullmatch(r"--[\w-]+=", arg) for arg in args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        for parameter in self.params:
            option = max(parameter.opts, key=len)
            option = option if option.startswith("-") else (parameter.name or "").upper()
            value = ctx.params.get(parameter.name)
            if value == Path() and ctx.meta[_EMPTY]:  # ``Path("")`` is this folder
                raise UserError(f"{option} is empty: give a path; this folder is written `.`")
            ctx.params[parameter.name] = _read(value, option)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            if os.environ.get("MMRET_TRACEBACK"):
                traceback.print_exc()
            raise typer.Exit(_say_stopped(stop, ctx.info_name or "")) from None


def _read(value: Any, option: str) -> Any:
    """A path, or each of a list of paths, as :func:`mmret.paths.local_path` reads it, a lake by
    :func:`mmret.cli.lake_option.read_lake`; any other value as it is.

    Raises UserError for an address and for an option's text that is not UTF-8.
    """
    if isinstance(value, list | tuple):
        return type(value)(_read(each, option) for each in value)
    if isinstance(value, LakeText):
        return read_lake(value)
    if isinstance(value, str) and option.startswith("-") and not _is_utf8(value):
        raise UserError(f"{option} is not UTF-8: {value!r}")
    return local_path(value, option) if isinstance(value, Path) else value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _say_stopped(stop: KeyboardInterrupt, command: str = "") -> int:
    """Say on standard error that a person or the system stopped the command; the exit code, 128 + the signal's number."""
    rest = "what is finished is kept, and the same command goes on from there" if command in RESUMABLE else "nothing is lost"
    by, code = ("terminated", 143) if isinstance(stop, interrupts.Terminated) else ("interrupted", 130)
    print(f"\n{by}: {rest}", file=sys.stderr)
    return code


def run_application(application: Any) -> None:
    """Call the commands. What a user can mend is one message on standard error and exit code 2; other errors have a traceback."""
    prepare_streams()
    interrupts.listen()
    try:
        application()
    except UserError as error:
        _fail(str(error), error)
    except KeyboardInterrupt as stop:
        sys.exit(_say_stopped(stop))
    except Exception as error:
        said = explain(error)
        if said is None:
            raise
        _fail(f"{said}\nMMRET_TRACEBACK=1 in the environment shows where it happened", error)


def prepare_streams() -> None:
    """A terminal that cannot show a character gets its number instead (``\\xe9``), so that no output ends in an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, error: BaseException) -> None:
    if os.environ.get("MMRET_TRACEBACK"):
        traceback.print_exception(error)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
