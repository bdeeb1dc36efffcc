"""The files of `deploy/` as Docker and Compose would read them: variables filled in, instructions joined and taken apart."""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from tests.conftest import CHECKOUT

DEPLOY = CHECKOUT / "deploy"
COMPOSE_FILES = sorted(DEPLOY.glob("compose*.yaml"))
_VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?:(:-|:\?)([^}]*))?\}")


def variables(text: str) -> dict[str, str | None]:
    """Every variable that a Compose file takes from its environment, with its default; None where it has to be set."""
    return {m[1]: None if m[2] == ":?" else m[3] or "" for m in _VARIABLE.finditer(text) if m[1]}


def compose(name: str = "compose.yaml", given: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A Compose file with its variables filled in."""
    given = given or {}

    def fill(found: re.Match) -> str:
        if found[1] is None:
            return "$"
        if found[2] == ":?" and not given.get(found[1]):
            raise KeyError(f"{found[1]}: {found[3]}")
        return given.get(found[1]) or found[3] or ""

    return yaml.safe_load(_VARIABLE.sub(fill, (DEPLOY / name).read_text()))


def instructions() -> list[tuple[str, str, str]]:
    """(stage, instruction, rest) of each instruction of the Dockerfile, lines joined; stage ``""`` is before the first."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    stage, found = "", []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.split(" AS ")[1]
        found.append((stage, word, rest.strip()))
    return found


def last(stage: str, word: str) -> str:
    """What the last ``word`` of a stage says."""
    return [rest for of, name, rest in instructions() if (of, name) == (stage, word)][-1]


def parent(stage: str) -> str:
    """The image or stage that a stage is built on."""
    return last(stage, "FROM").split(" AS ")[0]


def image_environment(stage: str) -> dict[str, str]:
    """The ENV of a stage and of those below it. A value may name a variable that was set before."""
    below = image_environment(parent(stage)) if parent(stage) in {of for of, *_ in instructions()} else {"PATH": "/usr/bin"}
    for of, word, rest in instructions():
        if (of, word) == (stage, "ENV"):
            for pair in shlex.split(rest):
                name, _, value = pair.partition("=")
                below[name] = value.replace("$PATH", below["PATH"])
    return below


def copied() -> dict[str, str]:
    """Where what is copied lies in the image, to where it lies in the checkout; files alone."""
    lines = [rest.split() for _, word, rest in instructions() if word == "COPY" and "--from" not in rest]
    return {to: source for source, to in (line for line in lines if len(line) == 2) if to.startswith("/")}


def words(instruction: str) -> list[str]:
    """The command of a CMD or a HEALTHCHECK, which are written as JSON."""
    return json.loads(instruction[instruction.index("[") :])


def shell_commands(command: list[str]) -> list[list[str]]:
    """The single commands of ``sh -c "a && exec b"``, or the one that it is."""
    if command[:2] != ["sh", "-c"]:
        return [command]
    return [shlex.split(part.strip().removeprefix("exec ")) for part in command[2].split("&&")]
