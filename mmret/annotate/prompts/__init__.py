"""The prompts, as files with a version in their name, and the pool of demonstrations.

A prompt file has a ``# system`` and a ``# user`` part with ``{{slots}}``. All are filled in one pass, so that text put into a slot
is never itself taken for a slot. A change of wording is a new file and a new entry in ``CURRENT``.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

CURRENT = {
    "describe": "v1",
    "instruct": "v1",
    "instruct_captions": "v1",
    "both": "v1",
    "judge": "v1",
    "caption": "v1",
    "candidate": "v1",
    "demonstrations": "v1",
}

_HERE = Path(__file__).parent
_SLOT = re.compile(r"\{\{(\w+)\}\}")


class Prompt(NamedTuple):
    """``version`` is kind and version; ``system`` and ``user`` hold slots."""

    version: str
    system: str
    user: str

    def fill(self, **slots: object) -> tuple[str, str]:
        """System and user text; every slot must be given."""
        return fill(self.system, slots), fill(self.user, slots)


class Demonstration(NamedTuple):
    topic: str
    description: str
    instructions: tuple[str, ...]


def fill(text: str, slots: dict[str, object]) -> str:
    """``text`` with its slots filled, in one pass. Raises KeyError for a slot that is not given."""
    return _SLOT.sub(lambda m: str(slots[m.group(1)]), text)


@lru_cache
def prompt(kind: str) -> Prompt:
    """The current prompt called ``kind``: describe, instruct, instruct_captions, both, judge, caption, candidate."""
    version = f"{kind}.{CURRENT[kind]}"
    text = (_HERE / f"{version}.md").read_text(encoding="utf-8")
    system, _, user = text.removeprefix("# system\n").partition("# user\n")
    return Prompt(version, system.strip(), user.strip())


@lru_cache
def demonstrations() -> tuple[Demonstration, ...]:
    """The pool, in the file's order (paper: 50, of which five go into a call; theirs is not published)."""
    lines = (_HERE / f"demonstrations.{CURRENT['demonstrations']}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return tuple(Demonstration(r["topic"], r["description"], tuple(r["instructions"])) for r in rows)
