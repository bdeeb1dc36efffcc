"""Commands as files of `deploy/` name them, read by the programs' own parsers."""

import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import click


def parse(command: list[str], resilient: bool = False) -> Any:
    """The command's own parser on its arguments, down to the last sub-command; raises the parser's UsageError on what it does not
    take. ``resilient``: nothing has to be given. A click.Context, or typer's own."""
    if command[0] == "mmret":
        import typer

        from mmret.cli import app

        tool = typer.main.get_command(app)
    else:
        (script,) = (s for s in entry_points(group="console_scripts") if s.name == command[0])
        tool = script.load()
        if not isinstance(tool, click.Command):  # a function around the group
            tool = __import__(script.module, fromlist=["cli"]).__dict__.get("cli") or tool()
    context = tool.make_context(command[0], command[1:], resilient_parsing=resilient)
    while hasattr(context.command, "resolve_command"):
        rest = [*getattr(context, "_protected_args", []), *context.args]
        name, tool, rest = context.command.resolve_command(context, rest)
        context = tool.make_context(name, rest, parent=context, resilient_parsing=resilient)
    return context


def flags_named(text: str) -> Iterator[tuple[str, set[str]]]:
    """(command, its flags) of each `mmret COMMAND --flag …` in a script, a manifest, a template or a page."""
    joined = re.sub(r"\\\n[# ]*", " ", text)
    joined = re.sub(r"[\"',\[\]]", " ", joined)
    for command, rest in re.findall(r"(?:(?<![\w/.-])(?<!-n )|(?<=bin/))mmret +([a-z]+)\b([^\n`]*)", joined):
        yield command, set(re.findall(r"(?<=\s)--[a-z][a-z-]*", re.split(r"\s(?:&&|\||;|#|2?>)\s?", rest)[0]))
