"""Words queries by templates from a versioned file, so that a number can say which words it was measured with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mmret.errors import UserError

BENCHMARKS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Template:
    """Format strings of a query's texts by task, or under "" for all tasks. Of several texts the vectors are averaged.

    ``strip``: characters taken off both ends of every field.
    """

    name: str
    formats: Mapping[str, tuple[str, ...]]
    strip: str = ""

    def texts(self, fields: Mapping[str, str], task: str = "") -> tuple[str, ...]:
        """The texts of one query from its annotated ``fields``."""
        stripped = {k: v.strip(self.strip) if self.strip else v for k, v in fields.items()}
        formats = self.formats.get(task) or self.formats[""]
        return tuple(f.format_map(stripped) for f in formats)


@dataclass(frozen=True)
class Protocol:
    """``label``: version and template, printed beside every number. ``instruction``: for models that take one."""

    label: str
    template: Template
    without_concept: Template | None
    instruction: str
    paraphrases: tuple[Template, ...]


@cache
def _file(benchmark: str) -> dict[str, Any]:
    return yaml.safe_load((BENCHMARKS / benchmark / "protocol.yaml").read_text(encoding="utf-8"))


def load_protocol(benchmark: str, template: str | None = None) -> Protocol:
    """The protocol file of ``benchmark`` with one of its templates (None: the default). Raises UserError for an unknown one."""
    data = _file(benchmark)
    name = template or data["default"]
    if name not in data["templates"]:
        raise UserError(f"no template '{name}' for {benchmark}: there are {', '.join(data['templates'])}")
    chosen = data["templates"][name]
    without = chosen.get("without_concept")
    return Protocol(
        label=f"{data['version']}/{name}",
        template=_template(name, chosen["texts"], chosen.get("strip", "")),
        without_concept=_template(f"{name}, no shared concept", without) if without else None,
        instruction=data["instruction"],
        paraphrases=tuple(_template(text, [text]) for text in data["paraphrases"]),
    )


def _template(name: str, texts: Sequence[str] | Mapping[str, Sequence[str]], strip: str = "") -> Template:
    by_task = texts if isinstance(texts, Mapping) else {"": texts}
    return Template(name, {task: tuple(formats) for task, formats in by_task.items()}, strip)
