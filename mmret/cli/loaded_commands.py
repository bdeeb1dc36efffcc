"""The group of commands: a command's file is imported when the command is called, and help lists all of them without importing any.

So `mmret sql` does not pay for what `mmret train` needs. Costs nothing until a command is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from keyword import kwlist
from typing import Any

import typer
from typer.core import TyperGroup

from mmret.cli.command import Command


class LoadedCommands(Mapping[str, Any]):
    """By the name of a command, the command; looking one up imports its file, listing the ``names`` imports none.

    Command ``export-onnx`` is function ``export_onnx`` of :mod:`mmret.cli.export_onnx`; a name that Python keeps to itself
    (``import``) has an underscore behind it there.
    """

    def __init__(self, names: Mapping[str, str]):
        self._names = names
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._loaded:
            self._loaded[name] = _load(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _load(name: str) -> Any:
    function = name.replace("-", "_") + ("_" if name in kwlist else "")
    alone = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    alone.command(name, cls=Command)(getattr(import_module(f"mmret.cli.{function}"), function))
    return typer.main.get_command(alone)


def group_of(lines: Mapping[str, str]) -> type[TyperGroup]:
    """The class of the group of the commands that ``lines`` names, each with the line that help has of it."""

    class Group(TyperGroup):
        def __init__(self, **settings: Any):
            super().__init__(**settings)
            self.commands = LoadedCommands(lines)  # type: ignore[assignment]
            self._listing = False

        def list_commands(self, ctx: Any) -> list[str]:
            return list(lines)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if self._listing and cmd_name in lines:
                return Command(cmd_name, help=lines[cmd_name])
            return super().get_command(ctx, cmd_name)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            self._listing = True
            try:
                super().format_help(ctx, formatter)
            finally:
                self._listing = False

    return Group
